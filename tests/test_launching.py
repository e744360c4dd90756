"""Commands that would start several processes in a way that cannot work are refused, with what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.commands import run_python

ROOT = Path(__file__).resolve().parents[1]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=2")


SMALL = ("debug=fast", "threads=1")


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_ranks_that_others_start_need_a_named_folder(variable: str, tmp_path: Path) -> None:
    done = run_python("src/train.py", *SMALL, f"paths.logs={tmp_path}", cwd=ROOT, env=os.environ | {variable: "2"})
    assert done.returncode != 0 and "2 processes would each write to their own folder: set hydra.run.dir=" in done.stderr


def test_a_sweep_does_not_start_ranks(tmp_path: Path) -> None:
    done = run_python("src/train.py", *SMALL, "-m", "seed=0,1", *TWO, f"hydra.sweep.dir={tmp_path}/sweep", cwd=ROOT)
    assert done.returncode != 0 and "a sweep cannot start 2 processes for each job" in done.stderr
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.distributed
def test_one_command_starts_its_ranks_which_share_a_folder_and_torchrun_resumes_it(tmp_path: Path) -> None:
    words = [sys.executable, "src/train.py", *SMALL, *TWO, f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "metrics.csv").exists() and [path.name for path in tmp_path.iterdir()] == ["run"]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    ]
    words = [*torchrun, "src/train.py", f"resume={tmp_path}/run"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
