"""Ranks end with the run that started them, and none joins another run."""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from tests.ranks import finish, output, start_function, wait_until
from tests.runs import CONFIGS

from vapo.distributed.ranks import RUN_ID
from vapo.run.launching import LAUNCHER, RANKS

ROOT = Path(CONFIGS).parent
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true", "debug=fast", "threads=1")


def processes_with(word: str) -> list[int]:
    """Ids of the running processes whose command line holds `word`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            if word in command and "Z" not in (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]:
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_port_in_use_is_one_line_and_leaves_no_rank_behind(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"MASTER_PORT": str(port)}
        done = subprocess.run(
            [sys.executable, "src/train.py", *TWO, f"hydra.run.dir={tmp_path}"],
            cwd=ROOT,
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode != 0 and "Traceback" not in done.stderr
        assert len(lines) == 1 and f"cannot meet at 127.0.0.1:{port}" in lines[0] and "set MASTER_PORT to a free port" in lines[0]
        wait_until(lambda: processes_with(str(tmp_path)) == [])


FIRST_RANK = """
import os, subprocess, sys, time
from pathlib import Path
from vapo.run.launching import name_ranks
name_ranks(Path("."))
subprocess.Popen([sys.executable, *sys.argv[1:]], env=os.environ | {"LOCAL_RANK": "1"})
time.sleep(3600)
"""
OTHER_RANK = """
import sys, time
from pathlib import Path
from vapo.run.launching import end_with_launcher
folder = Path(sys.argv[1])
if sys.argv[2] == "waits":
    end_with_launcher()
(folder / "ready").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
end_with_launcher()
time.sleep(3600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
@pytest.mark.parametrize("rank", ["waits", "starts"])
def test_a_rank_ends_with_the_process_that_started_it(rank: str, tmp_path: Path) -> None:
    """Killed with -9, it can tell nobody: when the other rank waits for it, or while that one still starts."""
    (tmp_path / "first.py").write_text(FIRST_RANK)
    (tmp_path / "other.py").write_text(OTHER_RANK)
    environment = {name: value for name, value in os.environ.items() if name not in (*RANKS, LAUNCHER)}
    words = [sys.executable, tmp_path / "first.py", tmp_path / "other.py", tmp_path, rank]
    launcher = subprocess.Popen(words, env=environment)
    wait_until((tmp_path / "ready").exists)
    assert len(processes_with(str(tmp_path))) == 2
    launcher.kill()
    launcher.wait()
    if rank == "starts":
        (tmp_path / "go").touch()
    wait_until(lambda: processes_with(str(tmp_path)) == [])


def meet(folder: Path, seconds: float) -> None:
    """Joins as a strategy does; rank 1 was left behind by another run."""
    from types import SimpleNamespace

    import torch

    from vapo.distributed import strategy

    number = int(os.environ["RANK"])
    os.environ[RUN_ID] = f"run {number if (folder / 'foreign').exists() else 0}"
    environment: Any = SimpleNamespace(
        main_address="127.0.0.1", main_port=int(os.environ["MASTER_PORT"]), global_rank=lambda: number, world_size=lambda: 2
    )
    accelerator = SimpleNamespace(setup_device=lambda device: None)
    parts: Any = SimpleNamespace(cluster_environment=environment, accelerator=accelerator, root_device=torch.device("cpu"))
    try:
        strategy.join(parts, timedelta(seconds=seconds))
        dist.barrier()
        (folder / f"joined_{number}").touch()
    except (OSError, RuntimeError) as error:
        print(error)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_rank_of_another_run_does_not_join(foreign: bool, tmp_path: Path) -> None:
    if foreign:
        (tmp_path / "foreign").touch()
    finish(start_function(2, tmp_path, meet, tmp_path, 5.0 if foreign else 120.0))
    assert len(list(tmp_path.glob("joined_*"))) == (0 if foreign else 2), output(tmp_path)
