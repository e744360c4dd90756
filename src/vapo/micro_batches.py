"""Cuts a batch into micro-batches under a token budget. Only micro-batches are padded."""

from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor

from vapo.types import Batch, MicroBatch


def micro_batches(
    batch: Batch, max_tokens: int, device: torch.device | str = "cpu", rank: int = 0, ranks: int = 1
) -> Iterator[MicroBatch]:
    """Yields this rank's micro-batches of a batch: at most `max_tokens` tokens each, padding included, longest rollouts first.

    Sorting by length keeps padding small, and gives ranks micro-batches of similar size at the same time. A rollout longer than the
    budget gets its own micro-batch. Every rank gets the same number of micro-batches, as sharded networks need, if necessary by
    splitting the largest further; with fewer rollouts than ranks, some ranks get micro-batches without a response.
    """
    pieces = _cut(batch.prompt_length_B + batch.response_length_B, max_tokens, ranks)
    for index_B in pieces[rank::ranks]:
        yield _pad(batch, index_B, device)


def _cut(length_B: Tensor, max_tokens: int, ranks: int) -> list[Tensor]:
    """Rollout indices of each micro-batch; the number of micro-batches is a multiple of `ranks`."""
    order_B = length_B.argsort(descending=True, stable=True)
    pieces, start = [], 0
    while start < len(order_B):
        rows = max(1, max_tokens // int(length_B[order_B[start]]))
        pieces.append(order_B[start : start + rows])
        start += rows
    while len(pieces) % ranks != 0 and len(pieces) < len(order_B):
        largest = max((i for i, piece in enumerate(pieces) if len(piece) > 1), key=lambda i: int(length_B[pieces[i]].sum()))
        rows = (len(pieces[largest]) + 1) // 2
        pieces[largest : largest + 1] = pieces[largest].split(rows)
    return pieces + [order_B[:0]] * (-len(pieces) % ranks)


def _pad(batch: Batch, index_B: Tensor, device: torch.device | str) -> MicroBatch:
    part = batch.select(index_B) if len(index_B) > 0 else _without_response(batch)
    length_B = part.prompt_length_B + part.response_length_B
    position_L = torch.arange(int(length_B.max()))
    inside_BL = position_L < length_B[:, None]
    token_BL = torch.zeros(inside_BL.shape, dtype=torch.long).masked_scatter_(inside_BL, part.token_N.long())
    response_BL = inside_BL & (position_L >= part.prompt_length_B[:, None])
    predicts_BL = torch.zeros_like(response_BL)
    predicts_BL[:, :-1] = response_BL[:, 1:]  # logits and value of a response token are at the position before it
    return MicroBatch(
        index_B,
        part,
        token_BL.to(device),
        predicts_BL.to(device),
        token_BL[response_BL].to(device),
        part.mask_BT.to(device),
    )


def _without_response(batch: Batch) -> Batch:
    """A dummy row of one prompt token: a rank without rollouts can still run forward and backward, and it contributes nothing."""
    first = batch.select(torch.tensor([0]))
    per_token = {field.name: getattr(first, field.name) for field in fields(first) if field.name.endswith("_R")}
    nothing = {name: x_R[:0] for name, x_R in per_token.items() if x_R is not None}
    return first.replace(
        token_N=first.token_N[:1], prompt_length_B=torch.tensor([1]), response_length_B=torch.tensor([0]), **nothing
    )
