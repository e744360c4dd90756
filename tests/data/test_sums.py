import random
import re
from itertools import pairwise

import pytest

from vapo.data.sums import NoisySolver, make_problem, mini_aime, problem_at
from vapo.types import Status
from vapo.verifiers.sums import SumsVerifier, answer, consistent, parse_problem, reveal_index, trace

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


def test_a_noisy_solver_that_gives_up_is_correct_only_where_no_slip_is_left():
    rng, solver, right = random.Random(0), NoisySolver(direct_share=0.0, gives_up=True), 0
    for _ in range(300):
        problem = make_problem(rng, rng.randint(2, 12))
        solution = solver.solve(rng, problem)
        clean = all(step.right or step.repaired for step in trace(problem, solution))
        assert (status(problem, solution) is Status.CORRECT) == clean == (not solution.endswith("A?"))
        assert consistent(problem, solution, gives_up=True)
        other = solution[:-1] + ("?" if clean else "5")
        assert not consistent(problem, other, gives_up=True) and (clean or not consistent(problem, solution))
        right += clean
    assert 50 < right < 250


def test_a_noisy_solver_that_gives_up_does_so_after_a_stated_total_that_differs():
    rng, solver, right = random.Random(0), NoisySolver(direct_share=0.0, slip_rate=0.4, gives_up=True, mark_slips=False), 0
    for _ in range(300):
        problem = make_problem(rng, 12, hard_operations=2, reveal=4)
        solution = solver.solve(rng, problem)
        clean = all(step.right for step in trace(problem, solution))
        assert (status(problem, solution) is Status.CORRECT) == clean == (not solution.endswith("A?"))
        assert consistent(problem, solution, gives_up=True) and consistent(problem, solution) == clean
        right += clean
    assert 50 < right < 250


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


def test_hard_operations_come_first_and_the_stated_total_is_true():
    for seed in range(100):
        problem = make_problem(random.Random(seed), 20, hard_operations=4, reveal=8)
        start, operations, stated_after = parse_problem(problem)
        digits = [operand for _, operand in operations]
        assert len(operations) == 19 and set(digits[:4]) <= {8, 9} and set(digits[4:]) <= {1, 2, 3, 4, 5}
        assert stated_after == 12
        before, after = problem.split("(")
        assert before[0] == str(start) and eval(before) % 10 == int(after[0])


@pytest.mark.parametrize(("reveal", "operands"), [(0, 20), (None, 20), (8, 12)])
def test_a_problem_states_nothing_where_it_is_not_asked_to_or_is_too_short(reveal, operands):
    assert "(" not in make_problem(random.Random(0), operands, hard_operations=4, reveal=reveal)


def hidden_slips(rate, reveal=8):
    """Problems with a stated total, and solutions whose slips look like any result."""
    rng, solver = random.Random(0), NoisySolver(direct_share=0.0, slip_rate=rate, mark_slips=False)
    problems = [make_problem(rng, 20, 4, reveal) for _ in range(500)]
    return [(problem, solver.solve(rng, problem)) for problem in problems]


def test_a_hidden_slip_is_the_digit_above_the_true_one_and_the_solution_goes_on_from_it():
    slips = total = 0
    for problem, solution in hidden_slips(0.5):
        results = re.findall(r"(\d)([+-]\d)=(\d);(?:\d\|\d=\d[;:])?", solution)
        assert "?" not in solution and results[0][0] == problem[0]
        for (start, change, result), following in zip(results, [*results[1:], None], strict=True):
            exact = int(start) + int(change)
            hard = int(change[1]) >= 8 and not 0 <= exact <= 9
            assert result == str(exact % 10) or (hard and result == str((exact + 1) % 10))
            assert following is None or following[0] == result
            slips, total = slips + (hard and result != str(exact % 10)), total + hard
    assert slips / total == pytest.approx(0.5, abs=0.05)


def test_the_stated_total_says_whether_a_slip_was_made_and_not_before():
    seen = set()
    for problem, solution in hidden_slips(0.3):
        steps = trace(problem, solution)
        index = reveal_index(solution)
        right = all(step.right for step in steps)
        own, given, off, sign = solution[index - 2], solution[index], solution[index + 2], solution[index + 3]
        assert len(steps) == 19
        assert int(off) == (int(own) - int(given)) % 10 and (sign == ";") == (off == "0") and (right is False or sign == ";")
        assert given == re.search(r"\((\d)\)", problem)[1]
        assert sum(step.result_index < index for step in steps) == 12
        seen.add((right, sign))
    assert {(True, ";"), (False, ":")} <= seen


def test_without_slips_hidden_or_not_every_solution_is_right():
    assert all(status(*pair) is Status.CORRECT for pair in hidden_slips(0.0))


@pytest.mark.parametrize("needed", [True, False])
def test_hardness_by_the_operand_alone_can_be_read_from_the_problem(needed):
    rng, solver = random.Random(0), NoisySolver(direct_share=0.0, slip_rate=1.0, hard_needs_crossing=needed)
    slips = {(problem := make_problem(rng, 9, 4), solver.solve(rng, problem).count("?")) for _ in range(100)}
    assert ({count for _, count in slips} == {4}) != needed


def test_a_benchmark_of_the_same_family_is_held_out():
    assert all(problem.count("(") == 1 for problem in mini_aime(18, 26, 4, 8))
    assert not {problem_at(index, 0, 18, 26, 4, 8) for index in range(50)} & set(mini_aime(18, 26, 4, 8))
