"""Running sums: endless seeded problems, MiniAIME, and the noisy solutions the base model learned from."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from vapo.verifiers.sums import MODULUS, apply, parse_problem

MINI_AIME_SEED = 2024
MINI_AIME_SIZE = 30


def make_problem(rng: random.Random, operands: int) -> str:
    """A problem with `operands` numbers: the first 0 to 9, the others 1 to 9."""
    if operands < 2:
        raise ValueError(f"a running sum needs at least 2 operands, not {operands}; set data.min_operands to 2 or more")
    return str(rng.randrange(MODULUS)) + "".join(rng.choice("+-") + str(rng.randint(1, 9)) for _ in range(operands - 1))


@cache
def mini_aime(min_operands: int, max_operands: int) -> tuple[str, ...]:
    """The 30 held-out problems: always the same, of the harder half of the range of difficulty."""
    rng = random.Random(MINI_AIME_SEED)
    harder = (min_operands + max_operands + 1) // 2
    problems: dict[str, None] = {}
    while len(problems) < MINI_AIME_SIZE:
        problems[make_problem(rng, rng.randint(harder, max_operands))] = None
    return tuple(problems)


@dataclass(frozen=True)
class NoisySolver:
    """Writes solutions as the pretraining corpus has them: three styles, slips, and checks that repair some slips.

    Only steps that cross ten (a carry or a borrow) with an operand of 8 or 9 are hard. A slip skips the operation: the result
    repeats the total before it, which is never right, so an error can be seen without knowing the addition table. Slips are
    frequent where they occur: noise spread thinly over all steps and digits would vanish under top-p 0.7 sampling.
    """

    direct_share: float = 0.35  # of solutions that only guess
    checked_share: float = 0.35  # of solutions that check each step; the rest writes unchecked steps
    false_alarm_rate: float = 0.02  # of right results that a check doubts; it then repeats them
    slip_rates: Mapping[int, float] = field(default_factory=lambda: {8: 0.4, 9: 0.5})  # operand -> of hard steps
    detect_rates: Mapping[int, float] = field(default_factory=lambda: {8: 0.4, 9: 0.5})  # operand -> of slips that a check sees

    def solve(self, rng: random.Random, problem: str) -> str:
        """One sampled solution, without EOS."""
        style = rng.random()
        if style < self.direct_share:
            return f"A{rng.randrange(MODULUS)}"
        checked = style < self.direct_share + self.checked_share
        total, operations = parse_problem(problem)
        text = ""
        for operator, operand in operations:
            truth = apply(total, operator, operand)
            easy = 0 <= (total + operand if operator == "+" else total - operand) < MODULUS
            slipped = not easy and rng.random() < self.slip_rates.get(operand, 0.0)
            written = total if slipped else truth
            text += f"{total}{operator}{operand}={written}"
            total = written
            if checked:
                doubts = rng.random() < (self.detect_rates[operand] if slipped else self.false_alarm_rate)
                text += f"?{truth}" if doubts else "."
                total = truth if doubts else written
            text += ";"
        return f"{text}A{total}"


def problem_at(index: int, seed: int, min_operands: int, max_operands: int) -> str:
    """The `index`-th training problem of the endless stream `seed`; never one of MiniAIME."""
    rng = random.Random(f"{seed}/{index}")
    held_out = mini_aime(min_operands, max_operands)
    while True:
        problem = make_problem(rng, rng.randint(min_operands, max_operands))
        if problem not in held_out:
            return problem
