"""Batches of any shape: lengths from 1 to thousands, all right or all wrong, all cut at the limit, one prompt or many."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from vapo.types import Batch

LENGTHS = st.lists(st.one_of(st.integers(1, 6), st.integers(1, 40), st.sampled_from([1, 400, 3000])), min_size=1, max_size=8)
SCALES = st.sampled_from([0.0, 1e-6, 1.0, 1e3])
SHARES = st.one_of(st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.floats(0, 1))
SEEDS = st.integers(0, 2**32 - 1)


def normal(seed: int, size: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Drawn outside hypothesis: thousands of numbers."""
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def batches(draw: Any) -> Batch:
    """Annotated rollouts."""
    lengths, seed, scale = draw(LENGTHS), draw(SEEDS), draw(SCALES)
    size, tokens = len(lengths), sum(lengths)

    def some(strategy: st.SearchStrategy[Any]) -> Tensor:
        return torch.tensor(
            draw(st.one_of(strategy.map(lambda one: [one] * size), st.lists(strategy, min_size=size, max_size=size)))
        )

    prompt_B = some(st.sampled_from([1, 2, 3, 50]))
    prompts = {length: torch.arange(length) % 7 + 2 for length in prompt_B.tolist()}
    response_N = torch.randint(2, 18, (tokens,), generator=torch.Generator().manual_seed(seed)).split(lengths)
    pairs = zip(prompt_B.tolist(), response_N, strict=True)
    return Batch(
        token_N=torch.cat([x for length, ids in pairs for x in (prompts[length], ids)]).int(),
        prompt_length_B=prompt_B,
        response_length_B=torch.tensor(lengths),
        group_B=torch.unique(some(st.integers(0, 3)), return_inverse=True)[1],
        correct_B=some(st.booleans()),
        truncated_B=some(st.booleans()),
        sampler_logprob_R=-normal(seed, tokens, dtype=torch.float32).abs(),
        old_logprob_R=-normal(seed + 1, tokens, dtype=torch.float32).abs(),
        reference_logprob_R=-normal(seed + 2, tokens, dtype=torch.float32).abs(),
        value_R=normal(seed + 3, tokens, scale, torch.float32),
    )
