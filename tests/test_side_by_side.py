"""Passes of two networks on two threads: the same numbers, and never where they could mix."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from tests.runs import build, metrics, run

from vapo.side_by_side import may_overlap, side_by_side


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_calls_meet_on_threads_of_their_own_with_their_share_of_torchs_threads(two_threads):
    barrier = threading.Barrier(2, timeout=60)  # both have to be running to pass it

    def call(name):
        barrier.wait()
        return name, torch.get_num_threads()

    assert side_by_side({"a": lambda: call("a"), "b": lambda: call("b")}, overlap=True) == {"a": ("a", 1), "b": ("b", 1)}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("threads", "overlap"), [(1, True), (2, False)])
def test_otherwise_calls_run_one_after_the_other_in_this_thread(threads, overlap):
    torch.set_num_threads(threads)
    found = side_by_side({name: threading.get_ident for name in "ab"}, overlap)
    torch.set_num_threads(1)
    assert set(found.values()) == {threading.get_ident()}


def test_an_error_of_one_call_reaches_the_caller(two_threads):
    def fail():
        raise FloatingPointError("not finite")

    with pytest.raises(FloatingPointError, match="not finite"):
        side_by_side({"a": fail, "b": lambda: 1}, overlap=True)
    assert torch.get_num_threads() == 2


def test_nothing_overlaps_where_passes_could_mix(monkeypatch):
    plain, dropout = torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Dropout(0.1))
    trainer, cpu = SimpleNamespace(profiler=PassThroughProfiler()), torch.device("cpu")
    assert may_overlap([plain, torch.nn.Dropout(0.0)], cpu, trainer)
    assert not may_overlap([plain, dropout], cpu, trainer)
    assert not may_overlap([plain], torch.device("cuda"), trainer)
    assert not may_overlap([plain], cpu, SimpleNamespace(profiler=SimpleProfiler()))
    attention = torch.nn.Linear(2, 2)
    attention.attention_dropout = 0.1
    assert not may_overlap([attention], cpu, trainer)
    monkeypatch.setattr("vapo.side_by_side.world_size", lambda: 2)
    assert not may_overlap([plain], cpu, trainer)


def test_updates_side_by_side_are_those_one_after_the_other_bit_for_bit(tmp_path: Path, two_threads):
    found = []
    for overlap in (False, True):
        module, batch = build(tmp_path, "module.minibatch_rollouts=8", "module.epochs=2")
        module.configure_optimizers()
        module.overlap = overlap
        torch.set_num_threads(2 if overlap else 1)
        module.improve(batch)
        found.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], torch.cat([p.detach().flatten() for p in build(tmp_path)[0].parameters()]))


def test_two_runs_with_two_threads_are_equal_bit_for_bit(tmp_path: Path):
    for name in "ab":
        run(tmp_path / name, "threads=2", "module.policy_steps=2")
    assert metrics(tmp_path / "a").equals(metrics(tmp_path / "b"))
