"""What generates responses. `torch_engine.py` is the plain one; anything with these three members can replace it."""

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedModel

from vapo.types import Completion, Request, SamplingParams


class Engine(Protocol):
    """Token ids in, token ids and the sampler's log-probabilities out."""

    weights_version: int  # version of the weights that the next token would be sampled with; -1 before the first load

    def load_weights(self, language_model: PreTrainedModel, version: int) -> None:
        """Generate with exactly these weights from now on."""

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> list[Completion]:
        """One completion per request, in order."""
