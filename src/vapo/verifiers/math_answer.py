"""Scores answers that follow a marker, layer by layer: extraction, normal form, and algebra by a judge in a pool of processes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from vapo.types import Status, Verdict
from vapo.verifiers.base import Verifier
from vapo.verifiers.compare import NeedsAlgebra, same_answer
from vapo.verifiers.extraction import FALLBACKS, MARKERS, TAIL, find_answer
from vapo.verifiers.forms import Form, read, shown
from vapo.verifiers.pool import JudgePool

MOST_CHARACTERS = 400  # of a mathematical answer; a longer one is wrong


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
            markers: names of `vapo.verifiers.extraction.MARKERS` that may precede an answer.
            workers: number of processes; they start when the first answer needs one.
            timeout: processor time of one comparison, in seconds.
            memory_gib: limit of the address space of a process.
            max_fault_share: share of a step's responses whose verdict may be a timeout or an error; above it the run stops.
            judge, settings: the function of `vapo.verifiers.judges` that makes the judge, and its arguments.
        """
        unknown = [name for name in markers if name not in MARKERS]
        if unknown or not markers:
            raise ValueError(f"data.verifier.markers is {list(markers)}; set it to some of {', '.join(MARKERS)}")
        self.markers, self.max_fault_share = tuple(markers), max_fault_share
        self.reads_cut = not {*FALLBACKS, "text"}.intersection(markers)
        self.judge = f"{judge} {settings or {}}"
        self.pool = JudgePool(f"vapo.verifiers.judges:{judge}", dict(settings or {}), workers, timeout, memory_gib)

    def submit(self, response: str, reference: str) -> Future[Verdict]:
        verdict: Future[Verdict] = Future()
        try:
            found = find_answer(response, self.markers)
            if found is None:
                verdict.set_result(Verdict(Status.NO_ANSWER))
                return verdict
            status = Status.WRONG if len(found) > self.most_characters else self.decide(found, reference)
            shown = self.show(found)
        except Exception as error:  # a mistake of ours in reading; it must not end a run
            self.pool.last_fault = f"{error!r} on response {response[-80:]!r} with reference {reference[:80]!r}"
            verdict.set_result(Verdict(Status.ERROR))
            return verdict
        if status is not None:
            verdict.set_result(Verdict(status, shown))
        else:
            judged = self.pool.submit(found, reference)
            judged.add_done_callback(lambda judged: verdict.set_result(Verdict(judged.result(), shown)))
        return verdict

    def decide(self, answer: str, reference: str) -> Status | None:
        """The status if no judge is needed, else None."""
        return None

    def show(self, answer: str) -> str:
        """The answer for majority votes and tables: one text for equal answers, as far as that is known without a judge."""
        return answer[:MOST_CHARACTERS]

    def describe(self) -> str:
        return f"{super().describe()} {self.markers} {self.judge}"

    def last_fault(self) -> str:
        return self.pool.last_fault


class MathVerifier(AnswerVerifier):
    """Answers are read (`vapo.verifiers.forms`) and compared part by part; a judge is asked where that leaves expressions."""

    most_characters = MOST_CHARACTERS

    def decide(self, answer: str, reference: str) -> Status | None:
        r"""Decides all cases without expressions; else None.

        >>> verifier = MathVerifier()
        >>> verifier.decide("18.0", "18"), verifier.decide("9^{9^{9}}", "18"), verifier.decide("\\sqrt{324}", "18")
        (<Status.CORRECT: 'correct'>, <Status.WRONG: 'wrong'>, None)
        """
        try:
            return Status.CORRECT if same_answer(answer, reference) else Status.WRONG
        except NeedsAlgebra:
            return None

    def show(self, answer: str) -> str:
        return (shown(read(answer[: MOST_CHARACTERS + 1]), MOST_CHARACTERS) or answer)[:MOST_CHARACTERS]

    def unreadable(self, reference: str) -> Future[str]:
        r"""Why a reference cannot be compared with anything; empty if it can. An expression must equal itself in brackets.

        >>> verifier = MathVerifier()
        >>> [verifier.unreadable(text).result() for text in ("18", "", "#### 6")]
        ['', 'it is empty', 'it is no answer that can be read']
        """
        reason: Future[str] = Future()
        form = read(reference)
        expressions = list(dict.fromkeys(part.text for part in _parts(form) if part.kind == "expression"))
        if not reference.strip():
            reason.set_result("it is empty")
        elif not reference.replace("\n", " ").isprintable():
            reason.set_result('it holds a control character: in JSON, \\frac is written "\\\\frac"')
        elif len(reference) > MOST_CHARACTERS or any(part.kind == "unknown" for part in _parts(form)):
            reason.set_result("it is no answer that can be read")
        elif not expressions:
            reason.set_result("")
        else:
            self._try(expressions, reason)
        return reason

    def _try(self, expressions: Sequence[str], reason: Future[str]) -> None:
        """Asks a judge about one expression after the other; `reason` is the first that algebra cannot read."""

        def done(judged: Future[Status]) -> None:
            if judged.result() is not Status.CORRECT:
                reason.set_result(f"algebra cannot read {expressions[0]!r}")
            elif len(expressions) == 1:
                reason.set_result("")
            else:
                self._try(expressions[1:], reason)

        self.pool.submit(f"0+({expressions[0]})", expressions[0]).add_done_callback(done)


def _parts(form: Form) -> Iterator[Form]:
    yield form
    for item in form.items:
        yield from _parts(item)
