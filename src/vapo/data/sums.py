"""Running sums: endless seeded problems, MiniAIME, and the noisy solutions the base model learned from."""

import random
from dataclasses import dataclass
from functools import cache

from vapo.verifiers.sums import MODULUS, apply, parse_problem

MINI_AIME_SEED = 2024
MINI_AIME_SIZE = 30


def make_problem(rng: random.Random, operands: int) -> str:
    """A problem with `operands` numbers: the first 0 to 9, the others 1 to 9 and from large to small.

    So the hard steps come first, and a long routine separates the decisive steps from the reward.
    """
    if operands < 2:
        raise ValueError(f"a running sum needs at least 2 operands, not {operands}; set data.source.min_operands to 2 or more")
    digits = sorted((rng.randint(1, 9) for _ in range(operands - 1)), reverse=True)
    return str(rng.randrange(MODULUS)) + "".join(f"{rng.choice('+-')}{digit}" for digit in digits)


@cache
def mini_aime(min_operands: int, max_operands: int) -> tuple[str, ...]:
    """The 30 held-out problems: always the same, from the harder half of the difficulty range."""
    rng = random.Random(MINI_AIME_SEED)
    harder = (min_operands + max_operands + 1) // 2
    problems: dict[str, None] = {}
    while len(problems) < MINI_AIME_SIZE:
        problems[make_problem(rng, rng.randint(harder, max_operands))] = None
    return tuple(problems)


@dataclass(frozen=True)
class NoisySolver:
    """Writes the solutions of the pretraining corpus: guesses, and steps with slips and repairs.

    Only steps that cross ten (a carry or a borrow) with an operand of `hard_operand` or more are hard. A slip writes `?` as the
    result and continues from the total before it, which is never right; a repair adds the true result. So an error is visible, as
    hesitation in real chains of thought is, and the choice between leaving and repairing it is a separate token. The rates are
    below 0.7, because otherwise top-p 0.7 sampling would make the choices for the policy.
    """

    direct_share: float = 0.4  # share of solutions that only guess
    slip_rate: float = 0.6  # share of hard steps with a slip
    repair_rate: float = 0.35  # share of slips that are repaired
    hard_operand: int = 8  # smallest operand that can make a step hard
    hard_operators: str = "+-"  # operators that can make a step hard

    def solve(self, rng: random.Random, problem: str) -> str:
        """One sampled solution, without EOS."""
        if rng.random() < self.direct_share:
            return f"A{rng.randrange(MODULUS)}"
        total, operations = parse_problem(problem)
        text = ""
        for operator, operand in operations:
            truth = apply(total, operator, operand)
            crosses = not 0 <= (total + operand if operator == "+" else total - operand) < MODULUS
            hard = crosses and operand >= self.hard_operand and operator in self.hard_operators
            slipped = hard and rng.random() < self.slip_rate
            repaired = slipped and rng.random() < self.repair_rate
            text += f"{total}{operator}{operand}={'?' if slipped else ''}{truth if repaired or not slipped else ''};"
            total = total if slipped and not repaired else truth
        return f"{text}A{total}"


def problem_at(index: int, seed: int, min_operands: int, max_operands: int) -> str:
    """The `index`-th training problem of the endless stream `seed`; never one of MiniAIME."""
    rng = random.Random(f"{seed}/{index}")
    held_out = mini_aime(min_operands, max_operands)
    while True:
        problem = make_problem(rng, rng.randint(min_operands, max_operands))
        if problem not in held_out:
            return problem
