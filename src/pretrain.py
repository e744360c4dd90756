"""Makes the models of the mini scale: the base policy, and the outcome reward model that critics start from.

python src/pretrain.py                 the shipped ones, into src/vapo/assets/mini
python src/pretrain.py out=/tmp/mine   others, elsewhere
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads that spin made runs 3 to 15 times slower

import hydra
from omegaconf import DictConfig

from vapo.run.entry import run_main
from vapo.run.resolvers import register

register()


@hydra.main(version_base="1.3", config_path="../configs", config_name="pretrain")
def main(config: DictConfig) -> None:
    from vapo.run.pretrain import pretrain

    pretrain(config)


if __name__ == "__main__":
    run_main(main, "src/pretrain.py")
