"""Makes the models of the mini scale: the base policy, and the outcome reward model that critics start from.

python src/pretrain.py                 the shipped models, into src/vapo/assets/mini
python src/pretrain.py out=<folder>    others, into another folder
"""

from omegaconf import DictConfig

from vapo.run.entry import hydra_main


@hydra_main("pretrain")
def main(config: DictConfig) -> None:
    from vapo.run.settings import check_device

    check_device("device", config.device, "device=cpu")
    from vapo.run.pretrain import pretrain

    pretrain(config)


if __name__ == "__main__":
    main()
