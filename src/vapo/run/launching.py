"""Checks for launching a run in several processes: first rank, one run folder, sweeps. docs/scaling.md has the commands."""

import os
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

if TYPE_CHECKING:
    from lightning import Trainer  # takes seconds, and `is_first_rank` is asked before


def is_first_rank() -> bool:
    """True on global rank 0. Reads the launcher's environment variables, because there is no process group yet."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


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
