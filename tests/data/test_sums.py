import random
import re
from itertools import pairwise

import pytest

from vapo.data.sums import NoisySolver, make_problem, mini_aime, problem_at
from vapo.types import Status
from vapo.verifiers.sums import SumsVerifier, answer, trace

SOLUTIONS = 4000


def status(problem, solution):
    return SumsVerifier()(solution, str(answer(problem))).status


@pytest.fixture(scope="module")
def corpus():
    """Problems of 6 operands and their noisy solutions by the default solver."""
    rng, solver = random.Random(0), NoisySolver()
    problems = [make_problem(rng, 6) for _ in range(SOLUTIONS)]
    return [(problem, solver.solve(rng, problem)) for problem in problems]


@pytest.fixture(scope="module")
def steps(corpus):
    """Each written step as (hard, slipped, right, repaired)."""
    found = []
    for problem, solution in corpus:
        for (total, operator, operand, result), step in zip(
            re.findall(r"(\d)([+-])(\d)=(\?\d?|\d)", solution), trace(problem, solution), strict=True
        ):
            exact = int(total) + int(operator + operand)
            assert step.right == (result == str(exact % 10)) and step.repaired == (result == f"?{exact % 10}")
            hard = int(operand) >= 8 and not 0 <= exact <= 9
            found.append((hard, result[0] == "?", step.right, step.repaired))
    return found


def assert_rate(outcomes, rate):
    """Within 4 standard errors."""
    outcomes = list(outcomes)
    assert len(outcomes) > 200
    assert sum(outcomes) / len(outcomes) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(outcomes)) ** 0.5)


@pytest.mark.parametrize("operands", [2, 3, 9])
def test_make_problem_has_its_operands(operands):
    problems = [make_problem(random.Random(seed), operands) for seed in range(300)]
    assert all(re.fullmatch(rf"\d([+-][1-9]){{{operands - 1}}}", problem) for problem in problems)
    assert {problem[0] for problem in problems} == set("0123456789")
    written = {problem[i : i + 2] for problem in problems for i in range(1, len(problem), 2)}
    assert written == {operator + digit for operator in "+-" for digit in "123456789"}


def test_operands_go_from_large_to_small():
    for seed in range(50):
        digits = make_problem(random.Random(seed), 12)[2::2]
        assert list(digits) == sorted(digits, reverse=True)


def test_make_problem_needs_two_operands():
    with pytest.raises(ValueError, match="min_operands"):
        make_problem(random.Random(0), 1)


def test_noisy_solver_guesses_or_writes_every_step(corpus):
    solutions = [solution for _, solution in corpus]
    direct = [bool(re.fullmatch(r"A\d", solution)) for solution in solutions]
    stepwise = [bool(re.fullmatch(r"(\d[+-]\d=(\d|\?\d?);){5}A\d", solution)) for solution in solutions]
    assert_rate(direct, 0.4)
    assert all(sum(styles) == 1 for styles in zip(direct, stepwise, strict=True))


def test_noisy_solver_guesses_directly(corpus):
    assert_rate((status(*pair) is Status.CORRECT for pair in corpus if pair[1][0] == "A"), 0.1)


def test_noisy_solver_slips_on_hard_steps_only_and_repairs_some(steps):
    assert_rate((slipped for hard, slipped, _, _ in steps if hard), 0.6)
    assert_rate((repaired for _, slipped, _, repaired in steps if slipped), 0.35)
    assert all(right and not slipped for hard, slipped, right, _ in steps if not hard)
    assert all(right != slipped for _, slipped, right, _ in steps)


def test_noisy_solver_goes_on_from_the_total_before_an_unrepaired_slip(corpus):
    for _, solution in corpus:
        written = re.findall(r"(\d)[+-]\d=(\?\d?|\d)", solution)
        for (total, result), (following, _) in pairwise(written):
            assert following == (total if result == "?" else result[-1])


@pytest.mark.parametrize(("operand", "operators"), [(9, "+-"), (8, "+"), (9, "-")])
def test_noisy_solver_slips_only_where_it_is_told(operand, operators):
    rng, solver = random.Random(0), NoisySolver(direct_share=0.0, slip_rate=1.0, hard_operand=operand, hard_operators=operators)
    for _ in range(200):
        problem = make_problem(rng, 8)
        for total, operator, digit, result in re.findall(r"(\d)([+-])(\d)=(.)", solver.solve(rng, problem)):
            hard = int(digit) >= operand and operator in operators and not 0 <= int(total) + int(operator + digit) <= 9
            assert (result == "?") == hard


def test_noisy_solver_is_correct_unless_a_slip_is_left(corpus):
    for problem, solution in corpus:
        if solution[0] != "A":
            clean = all(step.right or step.repaired for step in trace(problem, solution))
            assert status(problem, solution) is Status.CORRECT or not clean


@pytest.mark.parametrize(
    "solver",
    [NoisySolver(direct_share=0.0, slip_rate=0.0), NoisySolver(direct_share=0.0, repair_rate=1.0)],
)
def test_noisy_solver_is_correct_without_slips_or_with_perfect_checks(solver):
    rng = random.Random(0)
    for _ in range(300):
        problem = make_problem(rng, rng.randint(2, 12))
        assert status(problem, solver.solve(rng, problem)) is Status.CORRECT


def test_noisy_solver_is_seeded():
    solver, problem = NoisySolver(), "7-3+5+9-8+6"
    solutions = [[solver.solve(random.Random(seed), problem) for seed in range(20)] for _ in range(2)]
    assert solutions[0] == solutions[1]
    assert len(set(solutions[0])) > 5


@pytest.mark.parametrize(("low", "high", "harder"), [(2, 9, 6), (4, 8, 6), (2, 2, 2), (12, 12, 12)])
def test_mini_aime_has_30_different_problems_of_the_harder_half(low, high, harder):
    problems = mini_aime(low, high)
    assert len(problems) == len(set(problems)) == 30
    lengths = {(len(problem) + 1) // 2 for problem in problems}
    assert lengths == set(range(harder, high + 1))


def test_mini_aime_is_always_the_same():
    random.seed(1)
    first = mini_aime(4, 8)
    mini_aime.cache_clear()
    random.seed(2)
    assert mini_aime(4, 8) == first
    assert first[:3] == ("3-9-7-5+5-4-3", "0-9-8-7+4+4-3-2", "9+7-7+6+6+6+4")  # published scores are of these problems


def test_problem_at_covers_the_range():
    problems = [problem_at(index, 0, 3, 6) for index in range(300)]
    assert {(len(problem) + 1) // 2 for problem in problems} == {3, 4, 5, 6}
    assert len(set(problems)) > 280


@pytest.mark.parametrize("start", [0, 17, 250])
@pytest.mark.parametrize(("low", "high"), [(3, 6), (2, 2)])  # with 2 operands every sixth draw is held out
def test_problem_at_needs_no_history_to_continue(low, high, start):
    whole = [problem_at(index, 5, low, high) for index in range(300)]
    random.seed(start)
    assert [problem_at(index, 5, low, high) for index in range(start, 300)] == whole[start:]


def test_problem_at_depends_on_seed_and_index():
    streams = [{problem_at(index, seed, 4, 8) for index in range(50)} for seed in (0, 1)]
    assert len(streams[0] | streams[1]) == 100


def test_problem_at_never_gives_a_mini_aime_problem():
    problems = {problem_at(index, 0, 2, 2) for index in range(2000)}
    assert not problems & set(mini_aime(2, 2))
    assert len(problems) == 10 * 2 * 9 - 30  # and every other problem of 2 operands
