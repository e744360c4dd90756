import random
import re

import pytest

from vapo.data.sums import NoisySolver, make_problem
from vapo.types import Status, Verdict
from vapo.verifiers.sums import Step, SumsVerifier, answer, apply, consistent, parse_problem, reveal_index, trace

ALPHABET = "0123456789+-=;?AA a\n\0é"


def random_problem(rng):
    return str(rng.randint(0, 9)) + "".join(rng.choice("+-") + str(rng.randint(0, 9)) for _ in range(rng.randint(1, 12)))


def test_answer_is_the_sum_modulo_10():
    rng = random.Random(0)
    for problem in (random_problem(rng) for _ in range(300)):
        assert answer(problem) == eval(problem) % 10, problem


def test_apply_is_a_digit_for_every_entry_of_the_table():
    for total in range(10):
        for operand in range(10):
            assert apply(total, "+", operand) == int(str(total + operand)[-1])
            assert apply(apply(total, "-", operand), "+", operand) == total


@pytest.mark.parametrize(
    "problem", ["", "7", "7+", "+7", "7+3-", "7*3", "7 + 3", "17+3", "7+3\n", "7+3=0", "A8", "7(7)+3", "7+3(10)", "7+3(0)(0)"]
)
def test_parse_problem_refuses_what_is_not_a_problem(problem):
    with pytest.raises(ValueError, match="not a running-sums problem"):
        parse_problem(problem)


@pytest.mark.parametrize("response", ["A8", "7-3=4;4+5=9;9+9=8;A8", "7-3=4;4+5=9;9+9=?8;A8", "nonsense A8"])
def test_verifier_reads_the_answer_of_every_style(response):
    assert SumsVerifier()(response, "8") == Verdict(Status.CORRECT, "8")
    assert SumsVerifier()(response, "7") == Verdict(Status.WRONG, "8")


@pytest.mark.parametrize(
    "response",
    [
        "",
        "8",
        "A",
        "7-3=4;",
        "7-3=4;4+5",
        "a8",
        "A8A8",
        "A8;A8",
        "AA8",
        "A8A",
        "A88",
        "A8 ",
        "A8\n",
        "A8;",
        "A 8",
        "A-8",
        "A?",
        "8A",
    ],
)
def test_verifier_finds_no_answer_in_a_malformed_response(response):
    assert SumsVerifier()(response, "8") == Verdict(Status.NO_ANSWER, None)


def test_verifier_has_a_finding_for_any_text():
    rng, found = random.Random(1), set()
    for _ in range(5000):
        text = "".join(rng.choices(ALPHABET, k=rng.randint(0, 6)))
        verdict = SumsVerifier()(text, "3")
        ends_in_its_only_answer = text.count("A") == 1 and len(text) >= 2 and text[-2] == "A" and text[-1] in "0123456789"
        expected = text[-1] if ends_in_its_only_answer else None
        status = Status.NO_ANSWER if expected is None else Status.CORRECT if expected == "3" else Status.WRONG
        assert verdict == Verdict(status, expected), repr(text)
        found.add(status)
    assert found == {Status.CORRECT, Status.WRONG, Status.NO_ANSWER}


def test_trace_never_raises_on_a_damaged_solution():
    rng, solution = random.Random(2), "7-3=4;4+5=9;9+9=?8;A8"
    counts = set()
    for _ in range(3000):
        characters = list(solution)
        for _ in range(rng.randint(0, 3)):
            characters[rng.randrange(len(characters))] = rng.choice(["", *ALPHABET])
        steps = trace("7-3+5+9", "".join(characters))
        assert all("".join(characters)[step.result_index] in "0123456789?" for step in steps)
        counts.add(len(steps))
    assert counts == {0, 1, 2, 3}


RIGHT = (True, False)
WRONG = (False, False)
REPAIRED = (False, True)


@pytest.mark.parametrize(
    ("response", "findings"),
    [
        ("7-3=4;4+5=9;9+9=8;A8", [RIGHT, RIGHT, RIGHT]),
        ("7-3=4;4+5=9;9+9=9;A9", [RIGHT, RIGHT, WRONG]),  # an error that looks like a result
        ("7-3=5;5+5=0;0+9=9;A9", [WRONG, RIGHT, RIGHT]),  # later steps follow from it
        ("7-3=4;4+5=9;9+9=?;A9", [RIGHT, RIGHT, WRONG]),  # a slip
        ("7-3=?;7+5=2;2+9=1;A1", [WRONG, RIGHT, RIGHT]),  # after a slip the total is the one before it
        ("7-3=4;4+5=9;9+9=?8;A8", [RIGHT, RIGHT, REPAIRED]),
        ("7-3=?4;4+5=9;9+9=8;A8", [REPAIRED, RIGHT, RIGHT]),  # later steps follow from the repair
        ("7-3=?6;6+5=1;1+9=0;A0", [WRONG, RIGHT, RIGHT]),  # a repair that is wrong too
        ("7-3=4?;4+5=9;9+9=8;A8", [RIGHT]),  # `?` comes before a digit
        ("7-3=4;4+6=0;0+9=9;A9", [RIGHT, WRONG, RIGHT]),  # a wrong copy of the operand
        ("7-3=4;5+5=0;0+9=9;A9", [RIGHT, WRONG, RIGHT]),  # a wrong copy of the total
        ("7-3=4;4-5=9;9+9=8;A8", [RIGHT, RIGHT, RIGHT]),  # only results are judged
        ("7-3=4;4+5=9;A9", [RIGHT, RIGHT]),  # stops too early
        ("7-3=4;4+5=9;9+9=8;8+1=9;A9", [RIGHT, RIGHT, RIGHT]),  # a step too many
        ("7-3=4;4+5=9", [RIGHT, RIGHT]),  # truncated after, in, and before a result
        ("7-3=4;4+5=", [RIGHT]),
        ("7-3=4;", [RIGHT]),
        ("7-3=?", [WRONG]),
        ("7-3=44+5=9;", [RIGHT]),
        ("A8", []),
        ("x7-3=4;", []),
        ("", []),
    ],
)
def test_trace_by_hand(response, findings):
    steps = trace("7-3+5+9", response)
    assert [(step.right, step.repaired) for step in steps] == findings


def test_trace_reads_past_a_stated_total():
    problem = "7-3+5(9)+9"
    assert [step.right for step in trace(problem, "7-3=4;4+5=9;9|9=0;9+9=8;A8")] == [True, True, True]
    assert [step.right for step in trace(problem, "7-3=5;5+5=0;0|9=1:0+9=9;A9")] == [False, True, True]
    assert reveal_index("7-3=5;5+5=0;0|9=1:0+9=9;A9") == 14 and reveal_index("7-3=5;A9") is None


@pytest.mark.parametrize("reveal", [0, 1, 8, None])
def test_what_a_solver_writes_is_consistent_and_with_one_character_changed_it_is_not(reveal):
    rng, solver = random.Random(0), NoisySolver(direct_share=0.0, slip_rate=0.5, mark_slips=reveal == 0)
    for _ in range(200):
        problem = make_problem(rng, rng.randint(6, 14), 4, reveal)
        solution = solver.solve(rng, problem)
        assert consistent(problem, solution) is True
        results = {match.start() for match in re.finditer(r"(?<=[+-][0-9]=)[0-9?]", solution)}  # a slip is no inconsistency
        place = rng.choice([i for i in range(len(solution)) if i not in results])
        changed = solution[:place] + ("0" if solution[place] != "0" else "1") + solution[place + 1 :]
        assert consistent(problem, changed) is False, changed
    assert consistent(problem, "A3") is None


def test_trace_gives_the_index_of_the_first_result():
    response = "7-3=4;4+5=?9;9+9=7;A7"
    steps = trace("7-3+5+9", response)
    assert steps == [Step(4, True, False), Step(10, False, True), Step(17, False, False)]
    assert [response[step.result_index] for step in steps] == ["4", "?", "7"]
