"""Scores answers that follow a marker: exact numbers here, everything else by a judge in a pool of processes."""

import re
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from vapo.types import Status, Verdict
from vapo.verifiers.answers import MARKERS, MOST_CHARACTERS, TAIL, clean, find_answer, number
from vapo.verifiers.base import Verifier
from vapo.verifiers.pool import JudgePool

# Expressions that a computer algebra system may try to write out: towers, exponents and factorials of four digits or more.
_EXPLODES = re.compile(r"\^ ?\{[^{}]*\^|\^ ?(?:\d+|[A-Za-z]) ?\^|\^ ?\{? ?[-+]? ?\d{4,}|\d{4,} ?\)? ?!|! ?!")


class AnswerVerifier(Verifier):
    """Finds the answer after a response's last marker, `Answer:` (DAPO), a box (LaTeX) or `####` (GSM8K); a judge compares it."""

    most_characters = TAIL  # longer answers are wrong

    def __init__(
        self,
        markers: Sequence[str] = ("answer", "boxed", "hashes"),
        workers: int = 2,
        timeout: float = 5.0,
        memory_gib: float = 4.0,
        max_fault_share: float = 0.1,
        judge: str = "math_equal",
        settings: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            markers: names of `vapo.verifiers.answers.MARKERS` that may precede an answer.
            workers: number of processes; they start when the first answer needs one.
            timeout: timeout of one comparison, in seconds.
            memory_gib: limit of the address space of a process.
            max_fault_share: share of a step's responses whose verdict may be a timeout or an error; above it the run stops.
            judge, settings: the function of `vapo.verifiers.judges` that makes the judge, and its arguments.
        """
        unknown = [name for name in markers if name not in MARKERS]
        if unknown or not markers:
            raise ValueError(f"data.verifier.markers is {list(markers)}; set it to some of {', '.join(MARKERS)}")
        self.markers, self.max_fault_share = tuple(markers), max_fault_share
        self.pool = JudgePool(f"vapo.verifiers.judges:{judge}", dict(settings or {}), workers, timeout, memory_gib)

    def submit(self, response: str, reference: str) -> Future[Verdict]:
        verdict: Future[Verdict] = Future()
        found = find_answer(response, self.markers)
        if found is None:
            verdict.set_result(Verdict(Status.NO_ANSWER))
            return verdict
        answer, reference = self.read(found[: self.most_characters + 1]), self.read(reference)
        status = Status.WRONG if len(found) > self.most_characters else self.decide(answer, reference)
        shown = canonical(answer)
        if status is not None:
            verdict.set_result(Verdict(status, shown))
        else:
            judged = self.pool.submit(answer, reference)
            judged.add_done_callback(lambda judged: verdict.set_result(Verdict(judged.result(), shown)))
        return verdict

    def read(self, answer: str) -> str:
        """The part of an answer or reference that is compared."""
        return answer

    def decide(self, answer: str, reference: str) -> Status | None:
        """The status if no judge is needed, else None."""
        return None

    def last_fault(self) -> str:
        return self.pool.last_fault


class MathVerifier(AnswerVerifier):
    """Integers and decimals are compared exactly; other answers by math-verify (`vapo.verifiers.judges.math_equal`)."""

    most_characters = MOST_CHARACTERS

    def read(self, answer: str) -> str:
        return clean(answer)

    def decide(self, answer: str, reference: str) -> Status | None:
        r"""Decides cases without algebra: equal texts, numbers in digits, and answers too dangerous to parse; else None.

        >>> verifier = MathVerifier()
        >>> verifier.decide("18.0", "18"), verifier.decide("9^{9^{9}}", "18"), verifier.decide("\\sqrt{324}", "18")
        (<Status.CORRECT: 'correct'>, <Status.WRONG: 'wrong'>, None)
        """
        if answer == reference:
            return Status.CORRECT
        value, expected = number(answer), number(reference)
        if value is not None and expected is not None:
            return Status.CORRECT if value == expected else Status.WRONG
        if not answer or not answer.isprintable() or _EXPLODES.search(answer):
            return Status.WRONG
        return None


def canonical(answer: str) -> str:
    """One text for equal numbers, so that majority votes count them together; other answers as they are, shortened for tables.

    >>> canonical("18.00"), canonical("x+1")
    ('18', 'x+1')
    """
    value = number(answer)
    return answer[:MOST_CHARACTERS] if value is None else str(value)
