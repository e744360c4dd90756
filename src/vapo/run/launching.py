"""Launching runs: first rank, one folder that no other run writes, ids of ranks, sweeps. docs/scaling.md has the commands."""

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vapo.distributed.ranks import RUN_ID

if TYPE_CHECKING:
    from lightning import Trainer  # takes seconds, and `is_first_rank` is asked before


LOCK = ".lock"  # in the run folder
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # environment variables of launchers
LAUNCHER = "VAPO_LAUNCHER"  # environment variable: id of the first rank's process, if that starts the others
PR_SET_PDEATHSIG = 1


def is_first_rank() -> bool:
    """True on global rank 0. Reads the launcher's environment variables, because there is no process group yet."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def name_ranks(folder: Path) -> None:
    """Sets the id under which the ranks of this run find each other: a random one that ranks started from here inherit, or the run
    folder where a launcher has started them."""
    if any(name in os.environ for name in RANKS):
        os.environ.setdefault(RUN_ID, str(folder.resolve()))
    else:
        os.environ |= {RUN_ID: uuid4().hex, LAUNCHER: str(os.getpid())}


def end_with_launcher() -> None:
    """If the first rank has started this process, Linux is to terminate it when that one ends, in whatever way: as long as
    ranks have not met, they would wait for it."""
    if LAUNCHER not in os.environ or os.environ.get("LOCAL_RANK", "0") == "0" or sys.platform != "linux":
        return
    launcher = int(os.environ[LAUNCHER])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        os.kill(launcher, 0)
    except ProcessLookupError:
        sys.exit(f"process {launcher}, which has started this rank, has ended")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run's folder, until this process ends at the latest. Raises ValueError if another process holds it."""
    if not is_first_rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is writing to {folder}: wait until it has ended, or set hydra.run.dir to a new folder"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield


def check_one_folder(config: DictConfig) -> None:
    """Raises if torchrun or srun started several ranks that would each create their own run folder, named by the second."""
    ranks = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))
    hydra = HydraConfig.get()
    named = any(override.startswith("hydra.run.dir=") for override in hydra.overrides.hydra)
    if ranks > 1 and hydra.mode == RunMode.RUN and config.resume is None and not named:
        raise ValueError(f"{ranks} processes would each write to their own folder: set hydra.run.dir=logs/train/runs/<name>")


def check_sweep(trainer: "Trainer") -> None:
    """Raises if the jobs of a sweep would start ranks: each rank would run the whole sweep again."""
    if HydraConfig.get().mode == RunMode.MULTIRUN and trainer.strategy.launcher is not None and trainer.world_size > 1:
        raise ValueError(
            f"a sweep cannot start {trainer.world_size} processes for each job: start one torchrun for each, or add "
            "hydra/launcher=submitit_slurm, which does (docs/scaling.md)"
        )
