"""The running-sums task: its arithmetic, its verifier, and the ground truth of every step of a response.

A problem is `7-3+5+9`: start at the first number, add and subtract, keep the last digit (the total modulo 10). A response is one of

    direct     A8
    steps      7-3=4;4+5=9;9+9=?8;A8

where a result is a digit, or `?`, a slip: the step is skipped and the total stays; a digit after `?` repairs it. A solver that
gives up writes `A?` where it knows of a slip: no answer, instead of one that is right by luck.

A problem may state the true total after one of its operations, `7-3+5(9)+9`. There a solution checks its own total: it subtracts
the stated one, `9|9=0;`, or `0|9=1:` after a slip. In such problems a slip is a wrong digit, which nobody sees before that place.

One character is one token, so a character's index in the response is its token's index.
"""

import re
from dataclasses import dataclass

from vapo.types import Status, Verdict
from vapo.verifiers.base import Verifier

MODULUS = 10
_ANSWER = re.compile(r"A([0-9])")
_STEP = re.compile(r"([0-9])([+-])([0-9])=(?:([0-9])|\?([0-9])?)")
_CHECK = re.compile(r"[0-9]\|[0-9]=[0-9][;:]")


@dataclass(frozen=True)
class Step:
    """One written step. `right` compares the result with the truth given the number before it and the problem's operand."""

    result_index: int  # token index of the result, a digit or `?`
    right: bool
    repaired: bool  # `?`, and the digit after it is the true result


def apply(total: int, operator: str, operand: int) -> int:
    """The next running total, 0 to 9."""
    return (total + operand if operator == "+" else total - operand) % MODULUS


def parse_problem(problem: str) -> tuple[int, list[tuple[str, int]], int | None]:
    """First total, operations, and the number of operations after which the problem states the true total; None if it does not.

    >>> parse_problem("7-3+5(9)+9")
    (7, [('-', 3), ('+', 5), ('+', 9)], 2)
    """
    match = re.fullmatch(r"([0-9](?:[+-][0-9])+)(?:\(([0-9])\)((?:[+-][0-9])*))?", problem)
    if not match:
        raise ValueError(f"not a running-sums problem: {problem!r}; expected digits joined by + and -, as in 7-3+5")
    before, given, after = match.groups()
    text = before + (after or "")
    operations = [(text[i], int(text[i + 1])) for i in range(1, len(text), 2)]
    return int(text[0]), operations, None if given is None else len(before) // 2


def answer(problem: str) -> int:
    """The last digit of the sum.

    >>> answer("7-3+5+9")
    8
    """
    total, operations, _ = parse_problem(problem)
    for operator, operand in operations:
        total = apply(total, operator, operand)
    return total


def compare(own: int, stated: int) -> str:
    """What a solution writes beside its own total where the problem states the true one: how far it is off.

    >>> compare(9, 9), compare(0, 9)
    ('9|9=0;', '0|9=1:')
    """
    off = apply(own, "-", stated)
    return f"{own}|{stated}={off}{':' if off else ';'}"


def knows_a_slip(response: str) -> bool:
    """Whether a solution has written down that it is wrong: a slip that was left, or a total that differs from the stated one."""
    return "?;" in response or ":" in response


def reveal_index(response: str) -> int | None:
    """The token index of the stated total that a response copies beside its own: from there on, a slip is visible."""
    match = _CHECK.search(response)
    return None if match is None else match.start() + 2


def consistent(problem: str, response: str, gives_up: bool = False) -> bool | None:
    """Whether a response is what its solver would write, results aside: all operations of the problem in order, each from the total
    before it, the right check of the stated total, and the last total as the answer, or `?` where a solver that gives up knows of
    a slip. None for a guess.

    >>> problem = "7-3+5(9)+9"
    >>> consistent(problem, "7-3=4;4+5=8;8|9=9:8+9=7;A7"), consistent(problem, "7-3=4;4+5=8;8|9=0;8+9=7;A7")
    (True, False)
    >>> consistent(problem, "A4") is None
    True
    """
    if _ANSWER.fullmatch(response):
        return None
    total, operations, stated_after = parse_problem(problem)
    position, stated = 0, re.findall(r"\(([0-9])\)", problem)
    for number, (operator, operand) in enumerate(operations, start=1):
        match = _STEP.match(response, position)
        if match is None or match[0][:4] != f"{total}{operator}{operand}=" or response[match.end() : match.end() + 1] != ";":
            return False
        total, position = int(match[4] or match[5] or total), match.end() + 1
        if number == stated_after:
            check = compare(total, int(stated[0]))
            if not response.startswith(check, position):
                return False
            position += len(check)
    return response[position:] == ("A?" if gives_up and knows_a_slip(response) else f"A{total}")


class SumsVerifier(Verifier):
    """Exact match of the one answer. No answer, two answers, or anything after the answer is NO_ANSWER, never an error."""

    def __call__(self, response: str, reference: str) -> Verdict:
        match = _ANSWER.fullmatch(response, response.index("A")) if response.count("A") == 1 else None
        if match is None:
            return Verdict(Status.NO_ANSWER)
        return Verdict(Status.CORRECT if match[1] == reference else Status.WRONG, match[1])


def trace(problem: str, response: str) -> list[Step]:
    """The ground truth of each written step, in order; reading stops at the first thing that is not a step.

    A result is right if it follows from the total before it and the problem's next operand. So an error made early does not
    make later steps wrong, but copying the total or the operand wrongly does.

    >>> trace("7-3+5+9", "7-3=4;4+5=?9;9+9=7;A7")
    [Step(result_index=4, right=True, repaired=False), Step(result_index=10, right=False, repaired=True), \
Step(result_index=17, right=False, repaired=False)]
    """
    total, operations, _ = parse_problem(problem)
    steps, position = [], 0
    for operator, operand in operations:
        match = _STEP.match(response, position)
        if match is None:
            break
        truth = str(apply(total, operator, operand))
        written, repair = match[4], match[5]
        steps.append(Step(match.start() + 4, right=written == truth, repaired=written is None and repair == truth))
        total = int(written or repair or total)
        position = match.end()
        if response[position : position + 1] != ";":
            break
        position += 1
        if check := _CHECK.match(response, position):
            position = check.end()
    return steps
