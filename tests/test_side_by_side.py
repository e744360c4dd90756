"""Passes of two networks on two threads: the same numbers, and never where they could mix."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from tests.runs import metrics, run

from vapo.learner import Learner
from vapo.side_by_side import may_overlap, side_by_side


def test_calls_meet_on_threads_of_their_own_with_the_callers_number_of_torchs_threads():
    barrier = threading.Barrier(2, timeout=1800)  # both have to be running to pass it

    def call(name):
        barrier.wait()
        return name, torch.get_num_threads()

    assert side_by_side({"a": lambda: call("a"), "b": lambda: call("b")}, overlap=True) == {"a": ("a", 1), "b": ("b", 1)}


@pytest.mark.parametrize(("names", "overlap"), [("ab", False), ("a", True)])
def test_otherwise_calls_run_one_after_the_other_in_this_thread(names, overlap):
    found = side_by_side({name: threading.get_ident for name in names}, overlap)
    assert set(found.values()) == {threading.get_ident()}


def test_an_error_of_one_call_reaches_the_caller():
    def fail():
        raise FloatingPointError("not finite")

    with pytest.raises(FloatingPointError, match="not finite"):
        side_by_side({"a": fail, "b": lambda: 1}, overlap=True)


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


def test_overlap_changes_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor does it in a second run; and passes did run on other threads."""
    idents: dict[str, set[int]] = {}
    original = Learner.micro_batches

    def micro_batches(self: Learner, *rollouts: Any) -> Any:
        idents.setdefault(name, set()).add(threading.get_ident())
        return original(self, *rollouts)

    monkeypatch.setattr(Learner, "micro_batches", micro_batches)
    for name, overlap in (("one", "true"), ("two", "true"), ("off", "false")):
        run(tmp_path / name, f"module.overlap={overlap}", "module.policy_steps=3", "callbacks.self_test.equal_gap=null")
    assert idents["off"] == {threading.get_ident()} and len(idents["one"]) > 1
    assert metrics(tmp_path / "one").equals(metrics(tmp_path / "two"))
    assert metrics(tmp_path / "one").equals(metrics(tmp_path / "off"))
