"""Running sums: endless seeded problems, MiniAIME, and the noisy solutions the base model learned from."""

import random
from dataclasses import dataclass
from functools import cache

from vapo.verifiers.sums import MODULUS, answer, apply, compare, knows_a_slip, parse_problem

MINI_AIME_SEED = 2024
MINI_AIME_SIZE = 30


def make_problem(rng: random.Random, operands: int, hard_operations: int | None = None, reveal: int | None = 0) -> str:
    """A problem with `operands` numbers, the decisive ones first: a long routine separates them from the reward.

    Args:
        hard_operations: the first so many operations have 8 or 9, the others 1 to 5; None: 1 to 9, from large to small.
        reveal: the true total is stated so many operations after the last hard one, in problems that long; 0, None: nowhere.
    """
    if operands < 2:
        raise ValueError(f"a running sum needs at least 2 operands, not {operands}; set data.source.min_operands to 2 or more")
    if hard_operations is None:
        digits = sorted((rng.randint(1, 9) for _ in range(operands - 1)), reverse=True)
    else:
        digits = [rng.randint(8, 9) if i < hard_operations else rng.randint(1, 5) for i in range(operands - 1)]
    words = [str(rng.randrange(MODULUS)), *(f"{rng.choice('+-')}{digit}" for digit in digits)]
    place = (hard_operations or 0) + (reveal or 0)
    if reveal and place < operands:
        words[place] += f"({answer(''.join(words[: place + 1]))})"
    return "".join(words)


@cache
def mini_aime(min_operands: int, max_operands: int, hard_operations: int | None = None, reveal: int | None = 0) -> tuple[str, ...]:
    """The 30 held-out problems: always the same, from the harder half of the difficulty range."""
    rng = random.Random(MINI_AIME_SEED)
    harder = (min_operands + max_operands + 1) // 2
    problems: dict[str, None] = {}
    while len(problems) < MINI_AIME_SIZE:
        problems[make_problem(rng, rng.randint(harder, max_operands), hard_operations, reveal)] = None
    return tuple(problems)


@dataclass(frozen=True)
class NoisySolver:
    """Writes the solutions of the pretraining corpus: guesses, and steps with slips and repairs.

    Only steps that cross ten (a carry or a borrow) with an operand of `hard_operand` or more are hard. A slip writes `?` as the
    result and continues from the total before it, which is never right; a repair adds the true result. So an error is visible, as
    hesitation in real chains of thought is, and the choice between leaving and repairing it is a separate token. The default rates
    are below 0.7: from there on top-p 0.7 makes the choice for the policy, so that MiniAIME's first scores are near 0.

    With `mark_slips` off a slip is the digit above the true one, and the solution goes on from it: nothing shows it until the
    problem states the true total, if it does; there the solution writes how far its own is off.
    """

    direct_share: float = 0.4  # share of solutions that only guess
    slip_rate: float = 0.6  # share of hard steps with a slip
    repair_rate: float = 0.35  # share of marked slips that are repaired
    hard_operand: int = 8  # smallest operand that can make a step hard
    hard_operators: str = "+-"  # operators that can make a step hard
    hard_needs_crossing: bool = True  # False: a step is hard by its operand alone, which can be read from the problem
    gives_up: bool = False  # True: after a slip that is marked, or shown by the stated total, the answer is `?`
    mark_slips: bool = True  # False: a slip looks like any result

    def solve(self, rng: random.Random, problem: str) -> str:
        """One sampled solution, without EOS."""
        if rng.random() < self.direct_share:
            return f"A{rng.randrange(MODULUS)}"
        total, operations, stated_after = parse_problem(problem)
        stated, text = total, ""  # the true total, which the solver looks at in one place only
        for number, (operator, operand) in enumerate(operations, start=1):
            stated = apply(stated, operator, operand)
            truth = apply(total, operator, operand)
            crosses = not 0 <= (total + operand if operator == "+" else total - operand) < MODULUS
            hard = (crosses or not self.hard_needs_crossing) and operand >= self.hard_operand and operator in self.hard_operators
            slipped = hard and rng.random() < self.slip_rate
            repaired = slipped and self.mark_slips and rng.random() < self.repair_rate
            result = str(truth)
            if slipped and self.mark_slips:
                result = f"?{truth}" if repaired else "?"
            elif slipped:
                result = str((truth + 1) % MODULUS)
            text += f"{total}{operator}{operand}={result};"
            total = int(result[-1]) if result != "?" else total
            if number == stated_after:
                text += compare(total, stated)
        return f"{text}A{'?' if self.gives_up and knows_a_slip(text) else total}"


def problem_at(
    index: int, seed: int, min_operands: int, max_operands: int, hard_operations: int | None = None, reveal: int | None = 0
) -> str:
    """The `index`-th training problem of the endless stream `seed`; never one of MiniAIME."""
    rng = random.Random(f"{seed}/{index}")
    held_out = mini_aime(min_operands, max_operands, hard_operations, reveal)
    while True:
        problem = make_problem(rng, rng.randint(min_operands, max_operands), hard_operations, reveal)
        if problem not in held_out:
            return problem
