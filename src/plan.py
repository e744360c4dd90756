"""Says whether a run would fit on a cluster, what it needs where, and how long it would take; needs no GPU.

python src/plan.py experiment=vapo_full scale=paper cluster.gpus=128 cluster.gpu=h100
python src/plan.py experiment=vapo_full scale=paper model.path=<folder> rollout=vllm cluster.gpus=64 cluster.gpu=h200
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads that spin made runs 3 to 15 times slower

import hydra
from omegaconf import DictConfig

from vapo.run.entry import run_main
from vapo.run.resolvers import register

register()


@hydra.main(version_base="1.3", config_path="../configs", config_name="plan")
def main(config: DictConfig) -> None:
    from vapo.plan.plan import plan  # here: `--help` should not wait for torch

    plan(config)


if __name__ == "__main__":
    run_main(main, "src/plan.py")
