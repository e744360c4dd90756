"""Engines that misbehave, for runs that are started from the command line."""

from typing import Any

from vapo.rollout.torch_engine import TorchEngine


class TokenEngine(TorchEngine):
    """Takes a token, as the engine of vLLM servers does."""

    def __init__(self, token: str, **options: Any) -> None:
        super().__init__(**options)
