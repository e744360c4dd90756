"""Starts one vLLM server that generates for a training run, on this machine's GPUs or CPU.

python src/serve.py model.path=<folder> port=8000                 then, in the training run: rollout=vllm_server
python src/serve.py model=qwen2_5_7b tensor_parallel_size=2       one model over two GPUs
"""

from omegaconf import DictConfig

from vapo.run.entry import hydra_main


@hydra_main("serve")
def main(config: DictConfig) -> None:
    from vapo.run.serving import serve

    serve(config)


if __name__ == "__main__":
    main()
