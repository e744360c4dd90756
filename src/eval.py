"""Scores a model on a benchmark: avg@k, pass@k and maj@k from the same samples.

python src/eval.py run=logs/train/runs/<time>                                            a run of ours, on its own benchmark
python src/eval.py model.path=Qwen/Qwen2.5-7B data=aime24 sampling.max_new_tokens=20480  any Hugging Face model
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads that spin made runs 3 to 15 times slower

import hydra
from omegaconf import DictConfig

from vapo.run.entry import run_main
from vapo.run.resolvers import register

register()


@hydra.main(version_base="1.3", config_path="../configs", config_name="eval")
def main(config: DictConfig) -> None:
    from vapo.run.evaluation import evaluate  # here: `--help` should not wait for torch

    evaluate(config)


if __name__ == "__main__":
    run_main(main, "src/eval.py")
