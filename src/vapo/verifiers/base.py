"""What a verifier is: it reads a response and says whether it answers the problem."""

from concurrent.futures import Future

from vapo.types import Verdict


class Verifier:
    """A subclass defines `__call__`, or `submit` if it can go on while others work. Neither raises for a bad response: whatever a
    model writes has a status."""

    max_fault_share = 0.1  # of a step's responses: with more timeouts and errors the run stops

    def __call__(self, response: str, reference: str) -> Verdict:
        """
        Args:
            response: decoded text of a finished response, without its EOS.
            reference: the problem's answer, as the verifier wants it.
        """
        return self.submit(response, reference).result()

    def submit(self, response: str, reference: str) -> Future[Verdict]:
        """The verdict, perhaps later: scoring of finished responses goes on while others are generated."""
        future: Future[Verdict] = Future()
        future.set_result(self(response, reference))
        return future

    def last_fault(self) -> str:
        """What went wrong with the verifier last, for the message that stops a run; empty if nothing did."""
        return ""
