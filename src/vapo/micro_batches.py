"""Cuts a batch into minibatches, one for each update, and these into micro-batches under a token budget. Only those are padded."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import accumulate

import torch
from torch import Tensor

from vapo.types import Batch, MicroBatch, Packed

SIMILAR = 0.85  # of the longest rollout of an attention block, the shortest


def minibatches(group_B: Tensor, most: int, keep_groups: bool, key: tuple[int, int, int]) -> Sequence[Tensor]:
    """Indices of each minibatch: rollouts in random order, in nearly equal parts of at most `most`.

    Args:
        group_B: number of each rollout's prompt.
        keep_groups: shuffles groups instead. A prompt is then read in one minibatch, not in most of them. Where parts are no
            multiple of the groups (after dynamic sampling or verifier faults), those at their ends are cut.
        key: seed, RL step and epoch, on which the order depends.
    """
    generator = torch.Generator().manual_seed(hash(key) % 2**63)
    if keep_groups:
        order_B = torch.randperm(int(group_B.max()) + 1, generator=generator)[group_B].argsort(stable=True)
    else:
        order_B = torch.randperm(len(group_B), generator=generator)
    return order_B.tensor_split(-(-len(group_B) // most))  # rounded up


def micro_batches(
    batch: Batch,
    max_tokens: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    ranks: int = 1,
    index_B: Tensor | None = None,
    similar: float = SIMILAR,
) -> Iterator[MicroBatch]:
    """Yields this rank's micro-batches of a batch: at most `max_tokens` tokens each, with attention's padding, longest first.

    Sorting by length keeps padding small, and gives ranks micro-batches of similar size at the same time. A rollout longer than the
    budget gets its own micro-batch. Every rank gets the same number of micro-batches, as sharded networks need, if necessary by
    splitting the largest further; with fewer rollouts than ranks, some ranks get micro-batches without a response.

    Args:
        index_B: the rollouts of the batch to cut, such as those of a minibatch; None for all.
        similar: share of the longest rollout of an attention block that the others must have; 0 for networks that do not pack,
            where a micro-batch is one block.
    """
    index_B = torch.arange(len(batch)) if index_B is None else index_B
    for order_B in _cut(batch.total_length_B[index_B], max_tokens, ranks, similar)[rank::ranks]:
        yield _pack(batch, index_B[order_B], device, similar)


def _cut(length_B: Tensor, max_tokens: int, ranks: int, similar: float) -> list[Tensor]:
    """Rollout indices of each micro-batch; the number of micro-batches is a multiple of `ranks`."""
    order_B = length_B.argsort(descending=True, stable=True)
    lengths = length_B[order_B].tolist()
    starts, tokens, width = [0], 0, 0
    for row, length in enumerate(lengths):
        width = length if row == starts[-1] or length < similar * width else width  # of the attention block that it would be in
        if row > starts[-1] and tokens + width > max_tokens:
            starts.append(row)
            tokens, width = 0, length
        tokens += width
    until = [0, *accumulate(lengths)]
    pieces = [range(start, end) for start, end in zip(starts, [*starts[1:], len(lengths)], strict=True)]
    while len(pieces) % ranks != 0 and len(pieces) < len(lengths):
        split = max((piece for piece in pieces if len(piece) > 1), key=lambda piece: until[piece.stop] - until[piece.start])
        half, at = (len(split) + 1) // 2, pieces.index(split)
        pieces[at : at + 1] = split[:half], split[half:]
    return [order_B[piece.start : piece.stop] for piece in pieces] + [order_B[:0]] * (-len(pieces) % ranks)


def _pack(batch: Batch, index_B: Tensor, device: torch.device | str, similar: float) -> MicroBatch:
    """One micro-batch of the rollouts `index_B`, longest first."""
    part = batch.select(index_B) if len(index_B) > 0 else _without_response(batch)
    prompt_B, response_B, length_B = part.prompt_length_B, part.response_length_B, part.total_length_B
    position_L = torch.arange(int(length_B.max()))
    inside_BL = position_L < length_B[:, None]
    token_BL = torch.zeros(inside_BL.shape, dtype=torch.long).masked_scatter_(inside_BL, part.token_N.long())
    response_BL = inside_BL & (position_L >= prompt_B[:, None])
    predicts_BL = torch.zeros_like(response_BL)
    predicts_BL[:, :-1] = response_BL[:, 1:]  # logits and value of a response token are at the position before it

    prompts = [token_L[:length] for token_L, length in zip(token_BL, prompt_B.tolist(), strict=True)]
    keys = [prompt.numpy().tobytes() for prompt in prompts]
    beginning_BL = token_BL[:, : int(prompt_B.min())]
    common = int((beginning_BL == beginning_BL[0]).all(0).cumprod(0).sum())  # tokens that all prompts begin with
    rest = {key: prompt[common:] for key, prompt in zip(keys, prompts, strict=True)}
    token_S = torch.cat([token_BL[0, :common], *rest.values(), token_BL[response_BL]])
    ends = list(accumulate((len(tokens) for tokens in rest.values()), initial=common))[1:]
    end = dict(zip(rest, ends, strict=True))  # of each distinct prompt in S
    prompt_start_B = torch.tensor([end[key] for key in keys]) - prompt_B
    response_start_B = ends[-1] + response_B.cumsum(0) - response_B
    start_BL = torch.where(response_BL, (response_start_B - prompt_B)[:, None], prompt_start_B[:, None])
    index_BL = torch.where(inside_BL, torch.where(position_L < common, 0, start_BL) + position_L, 0)
    index_N = index_BL[inside_BL]
    position_S = torch.zeros_like(token_S).index_put_((index_N,), position_L.expand_as(index_BL)[inside_BL])

    blocks, indices, slots, slot = [], [], [], 0
    for rows in _blocks(length_B.tolist(), similar):
        block_BL = index_BL[rows, : int(length_B[rows.start])]
        blocks.append((block_BL.shape[0], block_BL.shape[1]))
        indices.append(block_BL.flatten())
        slots.append(slot + inside_BL[rows, : block_BL.shape[1]].flatten().nonzero()[:, 0])
        slot += block_BL.numel()
    slot_S = torch.full_like(token_S, slot).scatter_reduce_(0, index_N, torch.cat(slots), "amin")
    flat = (x.to(device) for x in (token_S, position_S, index_BL[predicts_BL], torch.cat(indices), slot_S))
    next_token_R, mask_BT = token_BL[response_BL], part.mask_BT
    padded = (x.to(device) for x in (token_BL, predicts_BL, next_token_R, mask_BT))
    return MicroBatch(index_B, part, Packed(tuple(blocks), *flat), *padded)


def _blocks(lengths: Sequence[int], similar: float) -> list[slice]:
    """The rows of each attention block, of rollouts in descending order of length."""
    starts = [0]
    for row, length in enumerate(lengths):
        if length < similar * lengths[starts[-1]]:
            starts.append(row)
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(lengths)], strict=True)]


def _without_response(batch: Batch) -> Batch:
    """A dummy row of one prompt token: a rank without rollouts can still run forward and backward, and it contributes nothing."""
    first = batch.select(torch.tensor([0]))
    per_token = {field.name: getattr(first, field.name) for field in fields(first) if field.name.endswith("_R")}
    nothing = {name: x_R[:0] for name, x_R in per_token.items() if x_R is not None}
    return first.replace(
        token_N=first.token_N[:1], prompt_length_B=torch.tensor([1]), response_length_B=torch.tensor([0]), **nothing
    )
