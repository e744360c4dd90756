"""Runs the real training entry on the real configs, made small by `debug=fast`."""

from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from vapo.run.resolvers import register
from vapo.run.training import train

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")
MEASURED = ("time/", "speed/", "memory/")  # differ from run to run


def config_for(folder: Path, *overrides: str) -> DictConfig:
    """The composed `train.yaml` with its run folder set."""
    register()
    with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
        config = compose("train", [*overrides, f"paths.output_dir={folder}"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def run(folder: Path, *overrides: str) -> dict[str, float]:
    """Trains with `experiment=vapo_full debug=fast` and `overrides`."""
    return train(config_for(folder, "experiment=vapo_full", "debug=fast", "threads=1", "algorithm.group_size=4", *overrides))


def resume(folder: Path, *overrides: str) -> dict[str, float]:
    """What `python src/train.py resume=<folder>` does."""
    return train(config_for(folder, f"resume={folder}", *overrides))


def metrics(folder: Path) -> pd.DataFrame:
    """`metrics.csv` without what is measured with a clock."""
    frame = pd.read_csv(folder / "metrics.csv")
    return frame[sorted(name for name in frame.columns if not name.startswith(MEASURED))]
