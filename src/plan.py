"""Says whether a run fits on a cluster, what would make it fit, and how long it would take; needs no GPU.

python src/plan.py experiment=vapo_full scale=paper cluster.gpus=128 cluster.gpu=h100
python src/plan.py experiment=vapo_full scale=paper model.path=<folder> rollout=vllm cluster.gpus=64 cluster.gpu=h200
"""

from omegaconf import DictConfig

from vapo.run.entry import hydra_main


@hydra_main("plan")
def main(config: DictConfig) -> None:
    from vapo.plan.plan import plan

    plan(config)


if __name__ == "__main__":
    main()
