"""Trains a language model with VAPO or one of its ancestors.

python src/train.py experiment=vapo_full            all seven techniques, on the mini scale
python src/train.py experiment=ppo_vanilla          none of them
python src/train.py resume=logs/train/runs/<time>   goes on where a run stopped
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads that spin made runs 3 to 15 times slower

import hydra
from omegaconf import DictConfig

from vapo.run.entry import run_main
from vapo.run.resolvers import register

register()


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(config: DictConfig) -> float | None:
    from vapo.run.training import train  # here: `--help` should not wait for torch

    latest = train(config)
    if config.optimized_metric is None:
        return None
    if config.optimized_metric not in latest:
        raise ValueError(f"no metric {config.optimized_metric}: set optimized_metric to one of {', '.join(sorted(latest))}")
    return latest[config.optimized_metric]


if __name__ == "__main__":
    run_main(main, "src/train.py")
