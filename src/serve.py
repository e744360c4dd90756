"""Generates for trainings elsewhere: one vLLM server for one model, on this machine's GPUs or CPU.

python src/serve.py model.path=<folder> port=8000                 then, in the training: rollout=vllm_server
python src/serve.py model=qwen2_5_7b tensor_parallel_size=2       one model over two GPUs
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads that spin made runs 3 to 15 times slower

import hydra
from omegaconf import DictConfig

from vapo.run.entry import run_main
from vapo.run.resolvers import register

register()


@hydra.main(version_base="1.3", config_path="../configs", config_name="serve")
def main(config: DictConfig) -> None:
    from vapo.run.serving import serve  # here: `--help` should not wait for torch

    serve(config)


if __name__ == "__main__":
    run_main(main, "src/serve.py")
