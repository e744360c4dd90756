"""What a verifier is: it reads a response and says whether it answers the problem."""

from typing import Protocol

from vapo.types import Verdict


class Verifier(Protocol):
    """Never raises for a bad response: whatever a model writes has a status."""

    def __call__(self, response: str, reference: str) -> Verdict:
        """
        Args:
            response: decoded text of a finished response, without its EOS.
            reference: the problem's answer.
        """
