"""Every number that is logged: its name, and how its parts add up over micro-batches and ranks.

A mean is a pair (sum, count), so it is right however a batch is cut. docs/metrics.md says what each one means; a test compares.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchmetrics import Metric

from vapo.algorithms import explained_variance
from vapo.distributed.ranks import sum_over_ranks

# means with states (sum, count)
MEANS = (
    "reward/mean",
    "response/accuracy",
    "response/length_mean",
    "response/length_correct_mean",
    "response/length_wrong_mean",
    "response/truncated_fraction",
    "response/no_answer_fraction",
    "verifier/timeout_fraction",
    "verifier/error_fraction",
    "group/frac_all_wrong",
    "group/frac_mixed",
    "group/frac_all_correct",
    "actor/entropy_mean",
    "actor/positive_token_fraction",
    "actor/clip_fraction_low",
    "actor/clip_fraction_high",
    "actor/kl_k1",
    "actor/kl_k3",
    "actor/kl_reference",
    "actor/grad_norm",
    "actor/skipped_fraction",
    "actor/lambda_mean",
    "critic/value_mean",
    "critic/grad_norm",
    "critic/skipped_fraction",
    "advantage/abs_mean",
    "engine/logprob_gap_mean",
    "engine/probe_gap",
    "engine/servers",
)
# means over minibatches, of which each micro-batch adds its share
SHARES = ("actor/surrogate_loss", "actor/positive_nll", "critic/value_loss")
EXPLAINED_VARIANCES = ("critic/explained_variance", *(f"critic/explained_variance_decile_{i}" for i in range(10)))
GAUGES = (
    "actor/learning_rate",
    "critic/learning_rate",
    "clock/rl_step",
    "clock/policy_step",
    "clock/actor_updates",
    "clock/critic_updates",
    "clock/rollouts",
    "clock/staleness",
)


class Ratio(Metric):
    """sum / count, both added over updates and ranks; nothing seen is nan."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)  # `StepMetrics.flush` adds all metrics over ranks at once
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, total: Tensor | float, count: Tensor | float) -> None:
        self.total = self.total + total
        self.count = self.count + count

    def compute(self) -> Tensor:
        return self.total / self.count


class ShareSum(Ratio):
    """Mean over minibatches. Each micro-batch of each rank adds its share of the minibatch's value to `total`, and its share of the
    minibatch's rollouts to `count`; the latter add up to whole minibatches, but for rounding."""

    def compute(self) -> Tensor:
        return self.total / self.count.round()


class ExplainedVariance(Metric):
    """Of the Monte-Carlo return, from global sums (`vapo.algorithms.explained_variance_sums`)."""

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

    def mean(self, name: str, total: Tensor | float, count: Tensor | float = 1.0) -> None:
        """Adds `total` over `count` things to the mean `name`."""
        if isinstance(total, Tensor):
            total = total.detach().double().cpu()
        self._metrics[name].update(total, float(count))

    def share(self, name: str, value: Tensor | float, share: float) -> None:
        """Adds one micro-batch's share of a minibatch's mean.

        Args:
            share: of the minibatch's rollouts, 0 to 1; 0 throughout a minibatch leaves that minibatch out of the mean.
        """
        assert name in SHARES, name
        self.mean(name, value, share)

    def explained_variance(self, name: str, sums: Tensor) -> None:
        self._metrics[name].update(sums.cpu())

    def gauge(self, name: str, value: float) -> None:
        """A number that is the same on every rank and has no parts."""
        assert name in GAUGES, name
        self._gauges[name] = value

    def flush(self) -> dict[str, float]:
        """All metrics that saw something, over all ranks; then starts from zero."""
        self._sum_over_ranks()
        values = {name: metric.compute().item() for name, metric in self._metrics.items() if metric.update_called}
        values = {name: value for name, value in values.items() if value == value} | self._gauges
        for metric in self._metrics.values():
            metric.reset()
        self._gauges = {}
        return values

    def _sum_over_ranks(self) -> None:
        states = [(metric, name) for metric in self._metrics.values() for name in metric.metric_state]
        sums = sum_over_ranks(torch.cat([getattr(metric, name).reshape(-1) for metric, name in states]))
        for (metric, name), x in zip(states, sums.split([getattr(m, n).numel() for m, n in states]), strict=True):
            setattr(metric, name, x.reshape(getattr(metric, name).shape))


class PhaseClock:
    """Wall time, tokens and, on a GPU, peak memory of the phases of a step. Outside of any metric: time is not reproducible."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        self.peak_bytes: dict[str, int] = {}

    @contextmanager
    def phase(self, name: str, tokens: int = 0) -> Iterator[None]:
        started = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self.tokens[name] = self.tokens.get(name, 0) + tokens
            if torch.cuda.is_available():
                self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), torch.cuda.max_memory_allocated())
