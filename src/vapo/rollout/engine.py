"""Interface of the engines that generate responses. `torch_engine.py` is the simplest; any class with these members works."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from vapo.models.actor import Actor
from vapo.types import Completion, Request, SamplingParams


def ignore(index: int, completion: Completion) -> None:
    """The default `on_finish`: does nothing."""


def check_eos(eos_token_ids: Sequence[int]) -> None:
    """Raises ValueError if there are no EOS tokens."""
    if not eos_token_ids:
        raise ValueError("the model names no EOS token, so no response could end; set eos_token_id in its generation config")


class Engine(Protocol):
    """Token ids in, token ids and the sampler's log-probabilities out."""

    ranks_per_engine: int  # neighboring ranks that share one engine and send it the same requests
    own_weights: bool  # whether it has its own copy of the weights, so that it can generate while the actor trains
    weights_version: int  # version of the weights that the next token would be sampled with; -1 before the first load

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights it generates with."""

    def load_weights(self, actor: Actor, version: int) -> dict[str, float]:
        """Loads the actor's weights and verifies the copy. All ranks must call it, because weights may be sharded.

        Returns:
            Metrics of the check by name, e.g. `engine/probe_gap`.

        Raises:
            ValueError: the copy differs; the message names the stale tensors.
        """

    def sleep(self) -> None:
        """Frees as much memory as it can until it is used again."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingParams,
        on_finish: Callable[[int, Completion], None] = ignore,
    ) -> list[Completion]:
        """One completion per request, in order.

        Args:
            on_finish: called once for each request, with its index, as soon as its completion is ready, so that
                scoring overlaps with generation.
        """
