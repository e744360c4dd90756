"""Collectives and division of work among ranks. Every rank holds the whole batch of a step; generation, forward and backward passes
are divided among them. So every mean, every minibatch and every random choice is the same on any number of ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
RUN_ID = "VAPO_RUN_ID"  # environment variable, the same on all ranks of a run


def rank() -> int:
    """This process's number, 0 when it is alone. A single process enters no process group: in-process vLLM makes one for its own
    device only, in which the tensors of our CPU would fail."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank_slice(size: int, ranks_per_engine: int = 1) -> slice:
    """This rank's contiguous part of `size` items; part sizes differ by at most one, and parts are in rank order.

    Args:
        ranks_per_engine: neighboring ranks that do the same part; divides the number of ranks.
    """
    part, parts = rank() // ranks_per_engine, world_size() // ranks_per_engine
    return slice(size * part // parts, size * (part + 1) // parts)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sums every rank's CPU tensor `x` in place, on all ranks; returns it."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def gather_lists(part: list[T]) -> list[T]:
    """Every rank's list, joined in the order of ranks, on all ranks."""
    if world_size() == 1:
        return part
    parts: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, part)
    return [item for piece in parts for item in piece]


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Wraps work without collectives: if one rank fails, every rank raises, instead of deadlocking."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    failed = gather_lists([] if error is None else [f"{error} (rank {rank()})" if world_size() > 1 else ""])
    if error is not None:
        raise error
    if failed:
        raise ValueError(failed[0])


def barrier() -> None:
    """Waits until every rank gets here."""
    if world_size() > 1:
        dist.barrier()
