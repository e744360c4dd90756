"""Checkpoints are written where they are to be, and a disk that is full is named; the last good state stays intact."""

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import metrics, resume, run

from vapo.callbacks.rl_checkpoint import RLCheckpoint
from vapo.module import RLModule

FAST = ("callbacks.aime_evaluation=null", "callbacks.export_hf=null")


def test_a_checkpoint_does_not_go_through_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "the temporary folder is full")

    for name in ("mkstemp", "NamedTemporaryFile", "TemporaryFile", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    run(tmp_path, *FAST, "module.policy_steps=1")
    assert (tmp_path / "checkpoints" / "last.ckpt").resolve().name == "step_000002.ckpt"


def fill_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Files of this name go to a device that is full."""
    original = Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        return open("/dev/full", mode) if path.name == name and "w" in mode else original(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", *FAST)
    with monkeypatch.context() as patch:
        fill_disk(patch, "step_000003.ckpt.partial")
        with pytest.raises(OSError, match=rf"written to {tmp_path}/run/checkpoints \(.*No space left.*step_000002.ckpt is intact"):
            run(tmp_path / "run", *FAST)
    assert not list(tmp_path.rglob("*.partial"))
    resume(tmp_path / "run")
    assert metrics(tmp_path / "run").equals(metrics(tmp_path / "whole"))


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
