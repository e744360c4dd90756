"""Groups set to null, Ctrl-C, full disks and secrets, as a user meets them on the command line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from tests.commands import run_python
from tests.runs import CONFIGS

ROOT = Path(CONFIGS).parent
FAST = ("debug=fast", "threads=1", "algorithm.group_size=4", "callbacks.aime_evaluation=null", "callbacks.export_hf=null")
SECRET = "planted-key-5b1f0c"


def environment(**variables: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"OMP_NUM_THREADS": "1", **variables}


def train(folder: Path, *arguments: str, **variables: str) -> str:
    """What a run prints that ends well."""
    done = run_python("src/train.py", *arguments, f"hydra.run.dir={folder}", cwd=ROOT, env=environment(**variables))
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "src/train.py", *arguments, f"hydra.run.dir={folder}"]
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores Ctrl-C, and so would its children
    try:
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_without_loggers_and_one_without_callbacks(tmp_path: Path) -> None:
    for name, setting in {"null": "logger=null", "absent": "~logger"}.items():
        train(tmp_path / name, *FAST, "module.policy_steps=1", setting)
        assert (tmp_path / name / "checkpoints/last.ckpt").exists() and not (tmp_path / name / "metrics.csv").exists()
    output = train(tmp_path / "bare", "debug=fast", "threads=1", "module.policy_steps=1", "callbacks=null")
    assert "there is no value pretraining without callbacks.value_pretraining" in output
    assert len(pd.read_csv(tmp_path / "bare/metrics.csv")) == 1 and not (tmp_path / "bare/checkpoints").exists()


def test_a_full_disk_that_names_no_file_is_one_line_with_the_runs_folder(tmp_path: Path) -> None:
    script, run = tmp_path / "full.py", tmp_path / "run"
    script.write_text(
        f"""
import runpy, sys, vapo.run.training

def train(config):
    raise OSError(28, "No space left on device")

vapo.run.training.train = train
sys.argv = ["src/train.py", "hydra.run.dir={run}"]
runpy.run_path("{ROOT}/src/train.py", run_name="__main__")
"""
    )
    done = run_python(str(script), cwd=ROOT, env=environment())
    assert done.returncode == 1 and done.stderr == f"error: [Errno 28] No space left on device: '{run}'\n"


def test_control_c_saves_the_step_and_the_run_goes_on_where_it_was(tmp_path: Path) -> None:
    process = start(tmp_path, *FAST, "module.policy_steps=500", "callbacks.rl_checkpoint.every_n_steps=1000")
    while process.poll() is None and not (tmp_path / "metrics.csv").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 128 + signal.SIGINT and "stopping after this RL step, with a checkpoint" in error
    assert "Traceback" not in error
    (saved,) = (tmp_path / "checkpoints").glob("step_*.ckpt")
    steps = pd.read_csv(tmp_path / "metrics.csv")["rl_step"].tolist()
    assert steps == list(range(1, int(saved.name[5:11]) + 1))
    train(tmp_path, f"resume={tmp_path}", f"module.policy_steps={len(steps) + 1}")
    assert pd.read_csv(tmp_path / "metrics.csv")["rl_step"].tolist()[: len(steps)] == steps


def test_no_secret_is_in_anything_that_a_run_leaves(tmp_path: Path) -> None:
    keys = ("WANDB_API_KEY", "HF_TOKEN", "VAPO_SERVER_TOKEN")
    token = ("+rollout.engine.token=" + SECRET, "rollout.engine._target_=tests.faults.engine.TokenEngine")
    output = train(
        tmp_path,
        *FAST,
        "module.policy_steps=1",
        "logger=[wandb,tensorboard]",
        "logger.wandb.offline=true",
        *token,
        **dict.fromkeys(keys, SECRET),
    )
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"config.yaml", "resolved.yaml", "record.json", "train.log"} <= {file.name for file in files}
    assert [file.name for file in files if SECRET.encode() in file.read_bytes()] == [] and SECRET not in output
