"""Base class of verifiers, which decide whether a response answers its problem correctly."""

from concurrent.futures import Future

from vapo.types import Verdict


class Verifier:
    """Verifies responses. A subclass defines `__call__`, or `submit` if it works asynchronously. Neither raises for a bad response:
    every response gets a status."""

    max_fault_share = 0.1  # share of a step's responses: with more timeouts and errors the run stops
    reads_cut = False  # whether an answer can be told from what follows it, so that a response may be cut after it

    def __call__(self, response: str, reference: str) -> Verdict:
        """Verifies one response.

        Args:
            response: decoded text of a response, without its EOS.
            reference: the problem's answer, in the verifier's format.
        """
        return self.submit(response, reference).result()

    def submit(self, response: str, reference: str) -> Future[Verdict]:
        """Returns a future verdict: finished responses can be verified while others are generated."""
        future: Future[Verdict] = Future()
        future.set_result(self(response, reference))
        return future

    def judged(self, response: str, finished: bool) -> str:
        """What of a response is verified: all of it; of one that was cut at the limit its whole lines, since an answer on the last
        one may be a part of one, or nothing, where an answer cannot be told from what follows it."""
        if finished:
            return response
        return response[: response.rfind("\n") + 1] if self.reads_cut else ""

    def unreadable(self, reference: str) -> Future[str]:
        """Why a problem's answer can be compared with nothing; empty if it can."""
        reason: Future[str] = Future()
        reason.set_result("")
        return reason

    def describe(self) -> str:
        """What decides its verdicts, settings included: verifiers that say the same here must judge every response alike."""
        return type(self).__name__

    def last_fault(self) -> str:
        """Describes the verifier's last fault, for the error that stops a run; empty if there was none."""
        return ""
