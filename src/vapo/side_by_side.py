"""Independent work of two networks side by side on a CPU: operations of small networks are too small for two threads to share."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from lightning.pytorch.profilers import PassThroughProfiler
from torch import nn

from vapo.distributed.ranks import world_size

T = TypeVar("T")


def side_by_side(calls: Mapping[str, Callable[[], T]], overlap: bool) -> dict[str, T]:
    """Results of the calls, by name.

    Args:
        overlap: each call on a thread of its own, at the same time, with as many of torch's threads as the caller has; otherwise
            one after the other. Results are the same.
    """
    if not overlap or len(calls) < 2:
        return {name: call() for name, call in calls.items()}
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(len(calls), initializer=lambda: torch.set_num_threads(threads)) as pool:
        return dict(zip(calls, pool.map(lambda call: call(), calls.values()), strict=True))


def may_overlap(networks: Sequence[nn.Module], device: torch.device, trainer: Any) -> bool:
    """Whether nothing of the networks' passes would mix: no collectives, no dropout that draws from one generator, no profiler that
    counts one thing at a time. On a GPU they would only wait for each other."""
    rates = [getattr(module, "p", 0.0) for network in networks for module in network.modules() if isinstance(module, nn.Dropout)]
    rates += [getattr(module, "attention_dropout", 0.0) for network in networks for module in network.modules()]
    no_dropout = not any(isinstance(rate, float) and rate > 0 for rate in rates)
    return device.type == "cpu" and world_size() == 1 and no_dropout and isinstance(trainer.profiler, PassThroughProfiler)
