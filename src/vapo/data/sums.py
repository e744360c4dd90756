"""Running sums: endless seeded problems, MiniAIME, and the noisy solutions the base model learned from."""

import random
from dataclasses import dataclass
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

    Only steps that cross ten (a carry or a borrow) with an operand from 7 on are hard. A slip writes the true digit plus one, so
    each hard entry of the addition table has one tempting wrong answer. Slips and their detection happen with probability 0.4 to
    0.6, growing with the operand: noise spread thinly over all digits would vanish under top-p 0.7 sampling, and with one
    rate for all, a small shift of the policy would carry it over that threshold at once.
    """

    direct_share: float = 0.35  # of solutions that only guess
    checked_share: float = 0.35  # of solutions that check each step; the rest writes unchecked steps
    false_alarm_rate: float = 0.02  # of right results that a check doubts; it then repeats them

    @staticmethod
    def slip_rate(total: int, operator: str, operand: int) -> float:
        """Probability of a slip in this step, and of its detection by a check; 0 if the step is easy."""
        raw = total + operand if operator == "+" else total - operand
        return (operand - 3) / 10 if operand >= 7 and not 0 <= raw < MODULUS else 0.0

    def solve(self, rng: random.Random, problem: str) -> str:
        """One sampled solution, without EOS."""
        style = rng.random()
        if style < self.direct_share:
            return f"A{rng.randrange(MODULUS)}"
        checked = style < self.direct_share + self.checked_share
        total, operations = parse_problem(problem)
        text = ""
        for operator, operand in operations:
            truth, rate = apply(total, operator, operand), self.slip_rate(total, operator, operand)
            slipped = rng.random() < rate
            written = (truth + 1) % MODULUS if slipped else truth
            text += f"{total}{operator}{operand}={written}"
            total = written
            if checked:
                doubts = rng.random() < (rate if slipped else self.false_alarm_rate)
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
