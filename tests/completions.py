"""Completions written by hand."""

from collections.abc import Sequence

import numpy as np

from vapo.types import Completion


def completion_of(ids: Sequence[int], logprobs: float | Sequence[float] = 0.0, finished: bool = True) -> Completion:
    """A completion of these tokens, with one log-probability for all or one for each."""
    return Completion(np.array(ids, np.int32), np.full(len(ids), logprobs, np.float32), finished)
