"""Rollouts -> one ragged `Batch`; a batch -> micro-batches under a token budget. Padding exists only in the latter."""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from vapo.types import Batch, MicroBatch, Rollout


def collate(rollouts: Sequence[Rollout]) -> Batch:
    """Joins rollouts end to end, in order."""
    completions = [rollout.completion for rollout in rollouts]
    tokens = chain.from_iterable((*r.prompt.token_ids, *r.completion.token_ids) for r in rollouts)
    return Batch(
        token_N=torch.tensor(list(tokens)),
        prompt_length_B=torch.tensor([len(r.prompt.token_ids) for r in rollouts]),
        response_length_B=torch.tensor([len(c.token_ids) for c in completions]),
        group_B=torch.tensor([r.group for r in rollouts]),
        correct_B=torch.tensor([r.correct for r in rollouts]),
        truncated_B=torch.tensor([not c.finished for c in completions]),
        sampler_logprob_R=torch.tensor(list(chain.from_iterable(c.logprobs for c in completions))),
    )


def micro_batches(batch: Batch, max_tokens: int, device: torch.device | str = "cpu") -> Iterator[MicroBatch]:
    """Cuts a batch so that each padded piece holds at most `max_tokens` tokens, longest rollouts first.

    Sorting by length keeps padding small. A single rollout longer than the budget still gets a piece of its own.
    """
    length_B = batch.prompt_length_B + batch.response_length_B
    order_B = length_B.argsort(descending=True, stable=True)
    start = 0
    while start < len(order_B):
        rows = max(1, max_tokens // int(length_B[order_B[start]]))
        yield _pad(batch, order_B[start : start + rows], device)
        start += rows


def _pad(batch: Batch, index_B: Tensor, device: torch.device | str) -> MicroBatch:
    part = batch.select(index_B)
    length_B = part.prompt_length_B + part.response_length_B
    position_L = torch.arange(int(length_B.max()))
    inside_BL = position_L < length_B[:, None]
    token_BL = torch.zeros(inside_BL.shape, dtype=torch.long).masked_scatter_(inside_BL, part.token_N)
    response_BL = inside_BL & (position_L >= part.prompt_length_B[:, None])
    predicts_BL = torch.zeros_like(response_BL)
    predicts_BL[:, :-1] = response_BL[:, 1:]  # a response token is predicted, and its state valued, one position before it
    return MicroBatch(
        index_B,
        part,
        token_BL.to(device),
        predicts_BL.to(device),
        token_BL[response_BL].to(device),
        part.mask_BT.to(device),
    )
