"""What generates responses. `torch_engine.py` is the plain one; anything with these members can replace it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from vapo.models.actor import Actor
from vapo.types import Completion, Request, SamplingParams


def ignore(index: int, completion: Completion) -> None:
    """The `on_finish` of those who wait for all."""


def check_eos(eos_token_ids: Sequence[int]) -> None:
    """Raises if there are none."""
    if not eos_token_ids:
        raise ValueError("the model names no EOS token, so no response could end; set eos_token_id in its generation config")


class Engine(Protocol):
    """Token ids in, token ids and the sampler's log-probabilities out."""

    ranks_per_engine: int  # neighbouring ranks that share one engine and ask it the same
    own_weights: bool  # whether it goes on generating with the weights it was given while the actor trains
    weights_version: int  # version of the weights that the next token would be sampled with; -1 before the first load

    def load_weights(self, actor: Actor, version: int) -> dict[str, float]:
        """Generates with exactly the actor's weights from now on, and proves it. All ranks call it: weights may be sharded.

        Returns:
            Metrics that say how near it is, by name.

        Raises:
            ValueError: it has other weights. The message says which are stale.
        """

    def sleep(self) -> None:
        """Frees what memory it can until it is needed again."""

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
