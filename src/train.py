"""Trains a language model with VAPO or one of its baselines.

python src/train.py experiment=vapo_full            all seven techniques, on the mini scale
python src/train.py experiment=ppo_vanilla          none of them
python src/train.py resume=logs/train/runs/<time>   resumes a run where it stopped
"""

from omegaconf import DictConfig

from vapo.run.entry import hydra_main


@hydra_main("train")
def main(config: DictConfig) -> float | None:
    from vapo.run.settings import announce, check_training

    announce(config)
    check_training(config)
    from vapo.run.pretrain import make_model  # imports everything, which takes seconds
    from vapo.run.training import train

    make_model(config)  # with model=made, where it does not exist yet
    latest = train(config)
    if config.optimized_metric is None:
        return None
    if config.optimized_metric not in latest:
        raise ValueError(f"no metric {config.optimized_metric}: set optimized_metric to one of {', '.join(sorted(latest))}")
    return latest[config.optimized_metric]


if __name__ == "__main__":
    main()
