"""Metrics of an RL step: how they are reduced over micro-batches and ranks. Their names are in `vapo.metric_names`.

A mean is kept as a pair (sum, count), so it is correct however a batch is cut.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchmetrics import Metric

from vapo.algorithms import explained_variance
from vapo.distributed.ranks import sum_over_ranks
from vapo.metric_names import EXPLAINED_VARIANCES, GAUGES, MEANS, SHARES
from vapo.metric_names import repeatable as repeatable


class Ratio(Metric):
    """sum / count, each added over updates and ranks; nan if nothing was added.

    `total` moves to the GPU with the first value that is there: the addition is queued, and nobody waits for it.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)  # `StepMetrics.flush` sums all metrics over ranks at once
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, total: Tensor | float, count: Tensor | float) -> None:
        self.total = self.total + total
        self.count = self.count + count

    def compute(self) -> Tensor:
        return self.total / self.count


class ShareSum(Ratio):
    """Mean over minibatches. Each micro-batch of each rank adds its share of the minibatch's value to `total`, and its share of the
    minibatch's rollouts to `count`, which adds up to the number of minibatches except for rounding."""

    def compute(self) -> Tensor:
        return self.total / self.count.round()


class ExplainedVariance(Metric):
    """Explained variance of the Monte-Carlo return, from global sums (`vapo.algorithms.explained_variance_sums`)."""

    sums: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.add_state("sums", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, sums: Tensor) -> None:
        self.sums = self.sums + sums

    def compute(self) -> Tensor:
        return explained_variance(self.sums)


class StepMetrics:
    """The metrics of one RL step: filled while it runs, read and emptied at its end."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {name: Ratio() for name in MEANS}
        self._metrics |= {name: ShareSum() for name in SHARES}
        self._metrics |= {name: ExplainedVariance() for name in EXPLAINED_VARIANCES}
        self._gauges: dict[str, float] = {}
        self.values: dict[str, float] = {}  # those of the last step, without what callbacks measure

    def mean(self, name: str, total: Tensor | float, count: Tensor | float = 1.0) -> None:
        """Adds `count` items with the sum `total` to the mean `name`."""
        if isinstance(total, Tensor):
            total = total.detach().double()
        self._metrics[name].update(total, float(count))

    def part(self, name: str, value: Tensor | float, fraction: float) -> None:
        """Adds one micro-batch's part of a mean over minibatches: parts of the value add up to the minibatch's value.

        Args:
            value: the micro-batch's part of the minibatch's value, already divided by the minibatch's denominator.
            fraction: of the minibatch's rollouts, those in this micro-batch; it counts whole minibatches. 0 throughout a minibatch
                leaves that minibatch out of the mean.
        """
        assert name in SHARES, name
        self.mean(name, value, fraction)

    def explained_variance(self, name: str, sums: Tensor) -> None:
        self._metrics[name].update(sums.cpu())

    def gauge(self, name: str, value: float) -> None:
        """Sets a value that is the same on every rank and needs no reduction."""
        assert name in GAUGES, name
        self._gauges[name] = value

    def flush(self) -> dict[str, float]:
        """Returns all metrics that were updated, reduced over all ranks, and resets them."""
        self._sum_over_ranks()
        values = {name: metric.compute().item() for name, metric in self._metrics.items() if metric.update_called}
        values = {name: value for name, value in values.items() if value == value} | self._gauges
        for metric in self._metrics.values():
            metric.reset()
        self._gauges, self.values = {}, values
        return values

    def _sum_over_ranks(self) -> None:
        states = [(metric, name) for metric in self._metrics.values() for name in metric.metric_state]
        sums = sum_over_ranks(torch.cat([getattr(metric, name).reshape(-1).cpu() for metric, name in states]))
        for (metric, name), x in zip(states, sums.split([getattr(m, n).numel() for m, n in states]), strict=True):
            setattr(metric, name, x.reshape(getattr(metric, name).shape))


class PhaseClock:
    """Measures wall time, tokens and GPU peak memory of each phase of a step. Not a metric, because time is not reproducible.

    It waits for the GPU at both ends of a phase: what a phase queued counts toward it, not toward the next one.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        self.peak_bytes: dict[str, int] = {}
        self.current = ""  # the phase that is running, for display

    @contextmanager
    def phase(self, name: str, tokens: int = 0) -> Iterator[None]:
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started, outer, self.current = time.perf_counter(), self.current, name
        try:
            yield
        finally:
            self.current = outer
            if on_gpu:
                torch.cuda.synchronize()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self.tokens[name] = self.tokens.get(name, 0) + tokens
            if on_gpu:
                self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), torch.cuda.max_memory_allocated())
