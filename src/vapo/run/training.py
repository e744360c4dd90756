"""From a configuration to a trained policy: instantiate, fit, or go on where a killed run stopped."""

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import Callback
from omegaconf import DictConfig, OmegaConf

from vapo.callbacks.aime_evaluation import AIMEEvaluation
from vapo.callbacks.rl_checkpoint import RLCheckpoint
from vapo.checkpoints import LAST, discard_after, find_checkpoint
from vapo.metrics_csv import trim
from vapo.models.ends import check_positions
from vapo.models.loading import check_model_path, check_same_tokens
from vapo.module import RLModule
from vapo.run.launching import check_one_folder, check_sweep, end_with_launcher, is_first_rank, locked, name_ranks
from vapo.run.naming import name_run
from vapo.run.record import CONFIG, RESOLVED, load_config, record_texts, save_record
from vapo.run.settings import check_combinations
from vapo.run.value_types import check_ranges, check_types

LIMIT = "sampling.max_new_tokens"


def train(config: DictConfig) -> dict[str, float]:
    """Trains, and returns the newest value of every metric.

    Raises:
        ValueError, FileNotFoundError: a setting is wrong; the message says what to set.
    """
    end_with_launcher()
    check_one_folder(config)
    folder = Path(config.paths.output_dir)
    with locked(folder):
        return _train(config, folder)


def _train(config: DictConfig, folder: Path) -> dict[str, float]:
    checkpoint, rl_step = None, -1
    if config.resume is not None:
        if folder.resolve() != Path(config.resume).resolve():
            raise ValueError(f"a resumed run goes on in its own folder, not in {folder}: resume one run at a time, without -m")
        name, config = config.checkpoint, resumed_config(config)
        checkpoint, rl_step = find_checkpoint(folder / "checkpoints", name)
    else:
        name_run(config)
        if "recipe" in config.model:
            config.model.folder = config.model.folder  # written out: a resumed run goes on with the model that it began with
        if (folder / CONFIG).exists():
            if is_first_rank():  # it has just made the folder, when the others look
                check_same_job(config, folder)
            checkpoint, rl_step = find_checkpoint(folder / "checkpoints", LAST)
    check_combinations(config)
    check_types(config)
    check_ranges(config)
    texts = record_texts(config)  # before instantiate(), which writes values over interpolations
    quiet_libraries()
    torch.set_num_threads(config.threads)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision(config.get("float32_matmul", "high"))
    os.environ["OMP_NUM_THREADS"] = str(config.threads)  # or Lightning sets it, to another number on each rank
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = instantiate(config.data)
    module: RLModule = instantiate(config.module)
    callbacks: list[Callback] = [instantiate(callback) for callback in chosen_callbacks(config)]
    callbacks.sort(key=lambda callback: isinstance(callback, RLCheckpoint))  # last: it saves what the others have done
    callbacks.insert(0, Record(texts, config.paths.root, folder, rl_step))
    loggers = [instantiate(logger) for logger in (config.get("logger") or {}).values() if logger is not None]
    limits = {f"callbacks.aime_evaluation.{LIMIT}": c.sampling for c in callbacks if isinstance(c, AIMEEvaluation)}
    longest, actor, critic = datamodule.longest_prompt(), config.module.actor, config.module.critic
    for key, sampling in {f"rollout.{LIMIT}": module.sampling, **limits}.items():
        check_positions(actor, longest, sampling.max_new_tokens, key)
    if module.algorithm.needs_critic and critic.path != actor.path:
        check_model_path(critic.path, "model.critic.path")
        check_positions(critic, longest, module.sampling.max_new_tokens, f"rollout.{LIMIT}")
        check_same_tokens(module.tokenizer.get_vocab(), critic.path, actor.loading.trust_remote_code)
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers)
    check_sweep(trainer)
    name_ranks(folder)
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=None if checkpoint is None else True)
    except Exception:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)  # the ranks that this process started, which may wait for it
        raise
    finally:
        if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
            sys.modules["wandb"].finish()  # or the next job of a sweep would go on in this one's run
    return module.latest


class Record(Callback):
    """Writes the run's record and cuts its logs back to the checkpoint's step, once everything has been loaded: a start that fails
    before changes nothing. The first callback: what others log comes after it."""

    def __init__(self, texts: dict[str, str], root: str, folder: Path, rl_step: int) -> None:
        self.texts, self.root, self.folder, self.rl_step = texts, root, folder, rl_step

    def on_train_start(self, *args: Any) -> None:
        if is_first_rank():
            save_record(self.texts, self.root, self.folder)
            discard_after(self.folder, self.rl_step)
            trim(self.folder / "metrics.csv", self.rl_step)


def chosen_callbacks(config: DictConfig) -> list[DictConfig]:
    """The callbacks that are not null; with callbacks=null there are none. Raises ValueError if one has lost its `_target_`, as all
    do with ~callbacks."""
    if OmegaConf.select(config, "callbacks.none"):  # configs/callbacks/none.yaml
        return []
    chosen = {name: callback for name, callback in (config.get("callbacks") or {}).items() if callback is not None}
    for name, callback in chosen.items():
        if "_target_" not in callback:
            raise ValueError(
                f"callbacks.{name} has no _target_: keep the group callbacks, and set callbacks.{name}=null to leave this one out"
            )
    return list(chosen.values())


def quiet_libraries() -> None:
    """Leaves the terminal to the run: no tips, no loading bars, no warnings about others' deprecations, nothing twice."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # They have a handler, and Hydra's would print their lines again (transformers lets its lines through where CI=true is set).
    for name in ("datasets", "huggingface_hub", "transformers"):
        logging.getLogger(name).propagate = False
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"lightning\..*")


def resumed_config(config: DictConfig) -> DictConfig:
    """The configuration that the run in `config.resume` was started with, and what the command line adds to it."""
    saved = Path(config.resume) / CONFIG
    if not saved.exists():
        raise FileNotFoundError(
            f"no {CONFIG} in {config.resume}: set resume to the folder of a run, such as logs/train/runs/<time>"
        )
    merged = load_config(saved)
    OmegaConf.set_struct(merged, True)
    changes = [c for c in HydraConfig.get().overrides.task if not c.startswith(("resume=", "checkpoint="))]
    try:
        groups = [
            key
            for key in (c.split("=")[0] for c in changes if not c.endswith("=null"))
            if isinstance(OmegaConf.select(merged, key), DictConfig)
        ]
        if groups:
            raise ValueError(f"{groups[0]} is a group of settings")
        merged.merge_with_dotlist(changes)
    except Exception as error:
        raise ValueError(
            f"cannot resume with {changes}: {str(error).splitlines()[0]}; give plain keys, such as module.policy_steps=100"
        ) from error
    return merged


def check_same_job(config: DictConfig, folder: Path) -> None:
    """Raises unless this is the job of a sweep that `folder` holds: a sweep run again goes on with what it had not finished."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        raise ValueError(f"{folder} holds a run already: set resume={folder} to go on with it, or hydra.run.dir to a new folder")
    before, now = (yaml.safe_load(text) for text in ((folder / RESOLVED).read_text(), record_texts(config)[RESOLVED]))
    if before | {"logger": None} != now | {"logger": None}:  # loggers depend on the network
        unnamed = ", ".join(HydraConfig.get().job.config.override_dirname.exclude_keys)
        raise ValueError(
            f"{folder} holds a job with another configuration: set hydra.sweep.dir to a new folder, or repeat the command "
            f"that made this one. {unnamed} are not in a folder's name, so a sweep cannot vary them"
        )
