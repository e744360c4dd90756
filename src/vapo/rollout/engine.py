"""What generates responses. `torch_engine.py` is the plain one; anything with these three members can replace it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from transformers import PreTrainedModel

from vapo.types import Completion, Request, SamplingParams


def ignore(index: int, completion: Completion) -> None:
    """The `on_finish` of those who wait for all."""


class Engine(Protocol):
    """Token ids in, token ids and the sampler's log-probabilities out."""

    weights_version: int  # version of the weights that the next token would be sampled with; -1 before the first load

    def load_weights(self, language_model: PreTrainedModel, version: int) -> None:
        """Generate with exactly these weights from now on."""

    def check_weights(self, language_model: PreTrainedModel) -> dict[str, float]:
        """Proves that it generates with this model's weights, and says how near it is; metrics by name.

        Raises:
            ValueError: it does not. The message says which weights are stale.
        """

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingParams,
        on_finish: Callable[[int, Completion], None] = ignore,
    ) -> list[Completion]:
        """One completion per request, in order.

        Args:
            on_finish: called once for each request, with its index, as soon as its completion is there: scoring starts meanwhile.
        """
