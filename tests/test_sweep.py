"""A multirun: one failing job does not stop the others, and the same command again does what was left undone."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from tests.commands import run_python
from tests.runs import metrics

ROOT = Path(__file__).resolve().parents[1]
Start = Callable[..., subprocess.CompletedProcess[str]]


def sweep(folder: Path, *overrides: str, start: Start = run_python) -> subprocess.CompletedProcess[str]:
    words = [str(ROOT / "src" / "train.py"), "-m", "experiment=vapo_full", "debug=fast", "threads=1"]
    words += ["algorithm.group_size=4", "callbacks.aime_evaluation.k=1", f"hydra.sweep.dir={folder}", *overrides]
    return start(*words, cwd=Path.cwd(), env={**os.environ, "OMP_NUM_THREADS": "1"})


def of_its_own(*words: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A python that leaves as pythons do: joblib's workers wait for that."""
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True)


def job(folder: Path, **values: object) -> Path:
    (found,) = [path for path in folder.iterdir() if all(f"{k}={v}" in path.name.split(",") for k, v in values.items())]
    return found


def kill_after_first_step(run: Path) -> None:
    """Leaves what a run killed in its second RL step leaves."""
    checkpoints = run / "checkpoints"
    first = min(checkpoints.glob("step_*.ckpt"))
    (checkpoints / "last.ckpt").unlink()
    (checkpoints / "last.ckpt").symlink_to(first.name)


def test_a_failing_job_stops_no_other_and_a_repeated_sweep_finishes_the_unfinished(tmp_path):
    overrides = ["module.actor_optimizer.lr=-1,2e-4", "seed=0,1"]
    first = sweep(tmp_path, *overrides)
    assert first.returncode != 0 and "module.actor_optimizer.lr is -1; set it to 0 or more" in first.stderr
    good = [job(tmp_path, seed=seed, **{"module.actor_optimizer.lr": 0.0002}) for seed in (0, 1)]
    assert all((run / "training_curves.png").exists() for run in good)
    expected = [metrics(run) for run in good]
    kill_after_first_step(good[1])
    again = sweep(tmp_path, *overrides)
    assert "another configuration" not in again.stderr
    for run in good:
        assert (run / "checkpoints" / "last.ckpt").resolve().name == "step_000003.ckpt"
    for run, before in zip(good, expected, strict=True):
        pd.testing.assert_frame_equal(metrics(run), before)


def test_jobs_in_parallel_give_what_jobs_in_turn_give(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert sweep(one, "ablation=none,no_clip_higher").returncode == 0
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    parallel = sweep(two, "ablation=none,no_clip_higher", *joblib, start=of_its_own)
    assert parallel.returncode == 0, parallel.stderr
    names = sorted(path.name for path in one.iterdir() if path.is_dir())
    assert all("threads" not in name for name in names)  # how a job is run does not name it
    assert len(names) == 2 and names == sorted(path.name for path in two.iterdir() if path.is_dir())
    for name in names:
        pd.testing.assert_frame_equal(metrics(one / name), metrics(two / name))


def test_a_sweep_folder_with_other_settings_is_refused(tmp_path):
    numbered = "hydra.sweep.subdir=${hydra:job.num}"
    assert sweep(tmp_path, "seed=0", numbered).returncode == 0
    refused = sweep(tmp_path, "seed=1", numbered)
    assert refused.returncode == 1 and "another configuration" in refused.stderr
    unnamed = sweep(tmp_path, "seed=0", numbered, "module.overlap=false")
    assert unnamed.returncode == 1 and "threads, module.overlap, " in unnamed.stderr
    other_logger = sweep(tmp_path, "seed=0", numbered, "logger=tensorboard")
    assert "another configuration" not in other_logger.stderr


@pytest.mark.parametrize("experiment", ["grpo", "dapo"])
def test_an_ablation_of_what_an_algorithm_does_not_have_says_so(tmp_path, experiment):
    found = sweep(tmp_path, f"experiment={experiment}", "ablation=no_decoupled_gae")
    assert found.returncode == 1
    assert "critic_lambda" in found.stderr and "no meaning" in found.stderr
