import random
import time
from types import SimpleNamespace

import pytest
import torch
from tests.runs import build

from vapo.algorithms import explained_variance_sums
from vapo.metric_names import EXPLAINED_VARIANCES, GAUGES, MEANS, SHARES
from vapo.metrics import ExplainedVariance, PhaseClock, Ratio, StepMetrics
from vapo.reporting import report_step
from vapo.types import Status, Verdict


def test_ratio_adds_sums_and_counts():
    ratio = Ratio()
    for total, count in [(3.0, 2), (torch.tensor(5.0), 6), (0.0, 0)]:
        ratio.update(total, count)
    assert ratio.compute().item() == 1.0
    ratio.reset()
    ratio.update(0.0, 0)
    assert ratio.compute().isnan()


def test_ratio_is_added_in_float64():
    ratio = Ratio()
    for total in [1e9] + [1.0] * 1000:
        ratio.update(total, 1)
    assert ratio.compute().item() == (1e9 + 1000) / 1001


def test_a_mean_does_not_depend_on_the_parts():
    metrics, rng = StepMetrics(), random.Random(0)
    parts = [[rng.random() for _ in range(n)] for n in (1, 7, 2, 30)]
    for part in parts:
        metrics.mean("reward/mean", torch.tensor(part, dtype=torch.float64, requires_grad=True).sum(), len(part))
    metrics.mean("actor/grad_norm", 3.0)
    metrics.mean("actor/grad_norm", 5.0)
    everything = [x for part in parts for x in part]
    assert metrics.flush() == {"reward/mean": pytest.approx(sum(everything) / len(everything)), "actor/grad_norm": 4.0}


def test_flush_starts_anew():
    metrics = StepMetrics()
    metrics.mean("reward/mean", 4.0, 2)
    metrics.gauge("clock/rl_step", 3)
    metrics.explained_variance("critic/explained_variance", torch.tensor([2.0, 0.0, 2.0, 0.0, 0.0]))
    assert metrics.flush() == {"reward/mean": 2.0, "clock/rl_step": 3, "critic/explained_variance": 1.0}
    assert metrics.flush() == {}
    metrics.mean("reward/mean", 1.0, 1)
    assert metrics.flush() == {"reward/mean": 1.0}


def test_what_saw_nothing_is_left_out():
    metrics = StepMetrics()
    metrics.mean("response/length_correct_mean", 0.0, 0)  # no correct response in this step
    metrics.mean("response/accuracy", 0.0, 4)
    assert metrics.flush() == {"response/accuracy": 0.0}


def test_explained_variance_of_parts_is_that_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    value_R, return_R = torch.randn(2, 40, generator=generator, dtype=torch.float64)
    return_R += value_R
    metric = ExplainedVariance()
    for part in (slice(0, 3), slice(3, 4), slice(4, 40)):
        metric.update(explained_variance_sums(value_R[part], return_R[part]))

    def variance(x_R):
        mean = sum(x_R.tolist()) / 40
        return sum((x - mean) ** 2 for x in x_R.tolist()) / 40

    assert metric.compute().item() == pytest.approx(1 - variance(return_R - value_R) / variance(return_R))


def test_an_undeclared_name_is_an_error():
    with pytest.raises(KeyError):
        StepMetrics().mean("reward/typo", 1.0)
    with pytest.raises(KeyError):
        StepMetrics().explained_variance("critic/typo", torch.zeros(5))
    with pytest.raises(AssertionError, match="clock/typo"):
        StepMetrics().gauge("clock/typo", 1.0)


def test_names_are_area_and_quantity_and_declared_once():
    names = [*MEANS, *SHARES, *EXPLAINED_VARIANCES, *GAUGES]
    assert len(set(names)) == len(names)
    assert all(name.count("/") == 1 and name == name.lower() for name in names)


def test_a_step_logs_every_declared_name_and_no_other(tmp_path):
    """Of updates and report; gauges are the module's (tests/test_metrics_page.py)."""
    module, batch = build(tmp_path)
    module.configure_optimizers()
    module.improve(batch)
    sampled = [SimpleNamespace(verdict=Verdict(Status.WRONG))] * len(batch)
    report_step(module.metrics, module.algorithm, sampled, batch)
    # an algorithm with a critic has no reference, and only an engine with weights of its own is probed
    absent = {"actor/kl_reference", "engine/probe_gap", "engine/servers", "response/length_correct_mean"}
    assert set(module.metrics.flush()) - {*GAUGES} | absent == {*MEANS, *SHARES, *EXPLAINED_VARIANCES} | absent


def test_shares_of_micro_batches_add_up_to_the_mean_over_minibatches():
    """Three minibatches of six rollouts, the last of which has no value (a minibatch without correct responses)."""
    metrics, rng = StepMetrics(), random.Random(0)
    values = []
    for number, cut in enumerate([(6,), (1, 2, 0, 3), (5, 1)]):
        parts = [rng.random() if number < 2 else 0.0 for _ in cut]
        values.append(sum(parts))
        for size, part in zip(cut, parts, strict=True):
            metrics.part("actor/positive_nll", torch.tensor(part), size / 6 if number < 2 else 0.0)
            metrics.part("critic/value_loss", part, size / 6)
    found = metrics.flush()
    assert found["actor/positive_nll"] == pytest.approx(sum(values[:2]) / 2, rel=1e-6)
    assert found["critic/value_loss"] == pytest.approx(sum(values) / 3, rel=1e-6)
    with pytest.raises(AssertionError, match="reward/mean"):
        metrics.part("reward/mean", 1.0, 1.0)


def test_the_clock_adds_up_phases_even_when_they_fail():
    clock = PhaseClock()
    with clock.phase("rollout", tokens=3):
        pass
    before = clock.seconds["rollout"]
    with pytest.raises(RuntimeError), clock.phase("rollout", tokens=4):
        raise RuntimeError
    assert clock.tokens == {"rollout": 7}
    assert clock.seconds["rollout"] > before > 0


def test_the_clock_waits_for_the_gpu_at_both_ends_of_a_phase(monkeypatch):
    """What one phase queued would otherwise run in the next one's time."""
    seconds = {"now": 0.0, "queued": 0.0}

    def synchronize():
        seconds["now"], seconds["queued"] = seconds["now"] + seconds["queued"], 0.0

    for name in ("reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(time, "perf_counter", lambda: seconds["now"])
    clock = PhaseClock()
    seconds["queued"] = 5.0  # before the first phase
    with clock.phase("actor_update"):
        seconds["queued"] = 3.0
    with clock.phase("evaluation"):
        seconds["now"] += 1.0
    assert clock.seconds == {"actor_update": 3.0, "evaluation": 1.0}


def test_a_value_on_the_gpu_is_not_waited_for_until_the_step_is_over(monkeypatch):
    """Copies to the CPU are counted; with a GPU, each would wait for all that is queued."""
    copies = []
    for name in ("cpu", "item", "tolist", "__float__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda x, original=original: copies.append(x) or original(x))
    metrics, loss = StepMetrics(), torch.tensor(0.5, requires_grad=True)
    for _ in range(3):
        metrics.mean("actor/entropy_mean", loss * 2, 4)
        metrics.part("actor/surrogate_loss", loss, 1 / 3)
        metrics.mean("actor/grad_norm", 2.0)
    assert copies == []
    assert metrics.flush() == {"actor/entropy_mean": 0.25, "actor/surrogate_loss": 1.5, "actor/grad_norm": 2.0}
    assert len(copies) > 0


def test_sums_move_to_the_gpu_with_their_values_and_are_gathered_on_the_cpu(monkeypatch):
    """With the meta device in the GPU's place: what is copied from it reads 3."""
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: torch.full(x.shape, 3.0, dtype=x.dtype) if x.is_meta else cpu(x))
    metrics = StepMetrics()
    for _ in range(2):
        metrics.mean("actor/entropy_mean", 1.0, 2)
        metrics.mean("actor/entropy_mean", torch.ones((), device="meta"), 1)
        metrics.mean("actor/entropy_mean", torch.ones(()), 1)
        metrics.mean("actor/kl_k1", torch.ones(()), 2)
        assert metrics._metrics["actor/entropy_mean"].total.is_meta and not metrics._metrics["actor/kl_k1"].total.is_meta
        assert metrics.flush() == {"actor/entropy_mean": 0.75, "actor/kl_k1": 0.5}
