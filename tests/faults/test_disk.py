"""Checkpoints are written where they are to be, and a disk that is full is named; the last good state stays intact."""

import errno
import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tests.runs import FAST, metrics, resume, run

from vapo.analysis.compare import compare
from vapo.callbacks.rl_checkpoint import RLCheckpoint
from vapo.metrics_csv import MetricsCSV
from vapo.module import RLModule


def test_a_checkpoint_does_not_go_through_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "the temporary folder is full")

    for name in ("mkstemp", "NamedTemporaryFile", "TemporaryFile", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    run(tmp_path, *FAST, "module.policy_steps=1")
    assert (tmp_path / "checkpoints" / "last.ckpt").resolve().name == "step_000002.ckpt"


def break_disk(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Files of this name go to a device that is full, or to one that has become read-only, as after an error of the disk."""
    original = Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if path.name != name or "w" not in mode:
            return original(path, mode, *args, **options)
        if number == errno.EROFS:
            raise OSError(number, os.strerror(number), str(path))
        return open("/dev/full", mode)

    monkeypatch.setattr(Path, "open", opened)


DISKS = {errno.ENOSPC: "No space left", errno.EROFS: "Read-only file system"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("number", DISKS)
def test_a_disk_that_is_full_or_read_only_is_named_and_nothing_is_left_behind(
    number: int, fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_disk(patch, "step_000003.ckpt.partial", number)
        with pytest.raises(OSError, match=rf"written to {tmp_path}/checkpoints \(.*{DISKS[number]}.*step_000002.ckpt is intact"):
            run(tmp_path, *FAST)
    assert not list(tmp_path.rglob("*.partial"))
    resume(tmp_path)
    assert metrics(tmp_path).equals(metrics(fast_run))


@pytest.mark.parametrize("number", DISKS)
def test_metrics_that_cannot_be_written_stop_the_run(
    number: int, fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the checkpoint of their step: no row is lost."""
    original = MetricsCSV.log_metrics

    def log_metrics(self: MetricsCSV, values: dict[str, float], step: int | None = None) -> None:
        if step == 3:
            break_disk(patch, "metrics.csv.partial", number)
        original(self, values, step)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsCSV, "log_metrics", log_metrics)
        with pytest.raises(OSError, match=DISKS[number]):
            run(tmp_path, *FAST)
    assert (tmp_path / "checkpoints" / "last.ckpt").resolve().name == "step_000002.ckpt"
    resume(tmp_path)
    assert metrics(tmp_path).equals(metrics(fast_run))


def test_a_slow_disk_changes_nothing(fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that a run opens or renames takes its time."""
    opened, replaced, waits = Path.open, Path.replace, []

    def slowly(original: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            waits.append(time.sleep(0.02))
            return original(*args, **options)

        return call

    monkeypatch.setattr(Path, "open", slowly(opened))
    monkeypatch.setattr(Path, "replace", slowly(replaced))
    run(tmp_path, *FAST)
    assert len(waits) > 10 and compare(fast_run, tmp_path).first is None


def test_a_clock_that_jumps_changes_nothing(fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it is set while a run is under way: each look at the time of day is hours later or earlier than the last. Time is
    measured with clocks that nobody sets."""
    original, hours = time.time, itertools.cycle((5, -3, 24))
    monkeypatch.setattr(time, "time", lambda: original() + 3600 * next(hours))
    run(tmp_path, *FAST)
    assert compare(fast_run, tmp_path).first is None
    measured = pd.read_csv(tmp_path / "metrics.csv")
    seconds = measured[[name for name in measured if name.startswith("time/")]]
    assert len(seconds.columns) > 2 and ((seconds >= 0) & (seconds < 3000) | seconds.isna()).all(axis=None)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = RLCheckpoint.on_train_batch_end

    def poison(self: RLCheckpoint, trainer: Any, module: RLModule, *args: Any) -> None:
        if module.rl_step == 3:
            with torch.no_grad():
                next(module.critic.parameters())[0, 0] = float("inf")
        original(self, trainer, module, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RLCheckpoint, "on_train_batch_end", poison)
        with pytest.raises(FloatingPointError, match=r"critic\.\S+ is not finite after RL step 3.*step_000002.ckpt is intact"):
            run(tmp_path, *FAST)
    assert (tmp_path / "checkpoints" / "last.ckpt").resolve().name == "step_000002.ckpt"
    resume(tmp_path)
    assert metrics(tmp_path)["rl_step"].tolist() == [1, 2, 3]
