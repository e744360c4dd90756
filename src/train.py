"""Trains a language model with VAPO or one of its ancestors.

python src/train.py experiment=vapo_full            all seven techniques, on the mini scale
python src/train.py experiment=ppo_vanilla          none of them
python src/train.py resume=logs/train/runs/<time>   goes on where a run stopped
"""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads that spin made runs 3 to 15 times slower

import hydra
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vapo.run.resolvers import register

register()

USERS_ERRORS = (ValueError, OSError, FloatingPointError, HydraException, OmegaConfBaseException)


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(config: DictConfig) -> float | None:
    from vapo.run.training import train  # here: `--help` should not wait for torch

    latest = train(config)
    if config.optimized_metric is None:
        return None
    if config.optimized_metric not in latest:
        raise ValueError(f"no metric {config.optimized_metric}: set optimized_metric to one of {', '.join(sorted(latest))}")
    return latest[config.optimized_metric]


def one_line(error: Exception) -> str:
    """What was wrong and what to set, without Hydra's wrapping."""
    if isinstance(error, ConfigCompositionException) and "Could not override" in str(error):
        return f"{str(error).splitlines()[0]} There is no such key: `python src/train.py --cfg job` lists those there are"
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    return " ".join(str(cause).split())


if __name__ == "__main__":
    wants_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra pass errors on to here
    try:
        main()
    except USERS_ERRORS as error:
        if wants_traceback:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
