"""Trains a language model with VAPO or one of its ancestors.

python src/train.py experiment=vapo_full            all seven techniques, on the mini scale
python src/train.py experiment=ppo_vanilla          none of them
python src/train.py resume=logs/train/runs/<time>   goes on where a run stopped
"""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads that spin made runs 3 to 15 times slower

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vapo.run.resolvers import register

register()


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(config: DictConfig) -> float | None:
    from vapo.run.training import train  # here: `--help` should not wait for torch

    try:
        latest = train(config)
        if config.optimized_metric is not None and config.optimized_metric not in latest:
            raise ValueError(f"no metric {config.optimized_metric}: set optimized_metric to one of {', '.join(sorted(latest))}")
    except (ValueError, OSError, FloatingPointError, InstantiationException, OmegaConfBaseException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") or HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # a launcher has to see which job failed
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        print(f"error: {cause}", file=sys.stderr)
        sys.exit(1)
    return latest[config.optimized_metric] if config.optimized_metric else None


if __name__ == "__main__":
    main()
