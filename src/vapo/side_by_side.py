"""Independent work of two networks side by side on CPU threads: operations that are too small for two threads to share one."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from lightning.pytorch.profilers import PassThroughProfiler
from torch import nn

from vapo.distributed.ranks import world_size

T = TypeVar("T")


def side_by_side(calls: Mapping[str, Callable[[], T]], overlap: bool) -> dict[str, T]:
    """Results of the calls, by name. Each runs on a thread of its own with an equal share of torch's threads; one after the other
    where there are fewer threads than calls. That is all it depends on, so results are the same from run to run.

    Args:
        overlap: False runs them one after the other.
    """
    threads = torch.get_num_threads()
    if not (overlap and 1 < len(calls) <= threads):
        return {name: call() for name, call in calls.items()}

    def work(call: Callable[[], T]) -> T:
        torch.set_num_threads(threads // len(calls))
        return call()

    try:
        with ThreadPoolExecutor(len(calls)) as pool:
            return dict(zip(calls, pool.map(work, calls.values()), strict=True))
    finally:
        torch.set_num_threads(threads)


def may_overlap(networks: Sequence[nn.Module], device: torch.device, trainer: Any) -> bool:
    """Whether nothing of the networks' passes would mix: no collectives, no dropout that draws from one generator, no profiler that
    counts one thing at a time. On a GPU they would only wait for each other."""
    rates = [getattr(module, "p", 0.0) for network in networks for module in network.modules() if isinstance(module, nn.Dropout)]
    rates += [getattr(module, "attention_dropout", 0.0) for network in networks for module in network.modules()]
    no_dropout = not any(isinstance(rate, float) and rate > 0 for rate in rates)
    return device.type == "cpu" and world_size() == 1 and no_dropout and isinstance(trainer.profiler, PassThroughProfiler)
