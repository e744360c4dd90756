"""From a configuration to a trained policy: instantiate, fit, or go on where a killed run stopped."""

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Callback
from omegaconf import DictConfig, OmegaConf

from vapo.callbacks.metrics_csv import trim
from vapo.module import RLModule
from vapo.run.record import CONFIG, save_record


def train(config: DictConfig) -> dict[str, float]:
    """Trains, and returns the newest value of every metric.

    Raises:
        ValueError, FileNotFoundError: a setting is wrong; the message says what to set.
    """
    folder, checkpoint = Path(config.paths.output_dir), None
    if config.resume is not None:
        config = resumed_config(config)
        checkpoint = find_checkpoint(folder, config.checkpoint)
    else:
        save_record(config, folder)
    quiet_libraries()
    torch.set_num_threads(config.threads)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = instantiate(config.data)
    module: RLModule = instantiate(config.module)
    callbacks: list[Callback] = [instantiate(callback) for callback in (config.callbacks or {}).values() if callback is not None]
    loggers = [instantiate(logger) for logger in (config.logger or {}).values() if logger is not None]
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers)
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=None if checkpoint is None else True)
    return module.latest


def quiet_libraries() -> None:
    """Leaves the terminal to the run: no tips, no loading bars, no warnings about others' deprecations."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"lightning\..*")


def resumed_config(config: DictConfig) -> DictConfig:
    """The configuration that the run in `config.resume` was started with, and what the command line adds to it."""
    saved = Path(config.resume) / CONFIG
    if not saved.exists():
        raise FileNotFoundError(
            f"no {CONFIG} in {config.resume}: set resume to the folder of a run, such as logs/train/runs/<time>"
        )
    merged = OmegaConf.load(saved)
    assert isinstance(merged, DictConfig)
    OmegaConf.set_struct(merged, True)
    changes = [change for change in HydraConfig.get().overrides.task if not change.startswith("resume=")]
    try:
        merged.merge_with_dotlist(changes)
    except Exception as error:
        raise ValueError(
            f"cannot resume with {changes}: {str(error).splitlines()[0]}; give plain keys, such as module.policy_steps=100"
        ) from error
    return merged


def find_checkpoint(folder: Path, name: str) -> Path | None:
    """The checkpoint to go on from, with the logs cut back to it; None when the run was killed before its first."""
    path = folder / "checkpoints" / name
    if not path.exists():
        trim(folder / "metrics.csv", -1)
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        rl_step = state["vapo"]["rl_step"]
    except Exception as error:
        others = sorted(p.name for p in path.parent.glob("step_*.ckpt") if p.resolve() != path.resolve())
        remedy = f"set checkpoint to one of {', '.join(others)}" if others else "start the run anew"
        raise ValueError(f"the checkpoint {path} is damaged ({type(error).__name__}): {remedy}") from error
    trim(folder / "metrics.csv", rl_step)
    return path
