"""What loggers call a run. Set once, before the first step: a resumed run keeps it."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

WORDS = ("experiment", "ablation", "debug", "scale")  # groups whose choices name a run


def name_run(config: DictConfig) -> None:
    """Fills `run_name` (experiment, ablation, scale, seed) and, in a sweep, `run_group` (the sweep's folder) where they are null,
    and adds the same choices to `tags`."""
    hydra = HydraConfig.get()
    choices = hydra.runtime.choices
    words = [word for word in (choices.get(name) for name in WORDS) if word not in (None, "none", "null")]
    if choices.get("experiment") in (None, "null"):
        words.insert(0, choices.get("algorithm", "run"))
    config.run_name = config.run_name or "-".join([*words, f"seed{config.seed}"])
    if hydra.mode == RunMode.MULTIRUN:
        config.run_group = config.run_group or Path(hydra.sweep.dir).name
    config.tags = [*config.tags, *(word for word in words if word not in config.tags)]
