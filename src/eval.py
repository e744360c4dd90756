"""Scores a model on a benchmark: avg@k, pass@k and maj@k from the same samples.

python src/eval.py run=logs/train/runs/<time>                                            one of your runs, on its own benchmark
python src/eval.py model.path=Qwen/Qwen2.5-7B data=aime24 sampling.max_new_tokens=20480  any Hugging Face model
"""

from omegaconf import DictConfig

from vapo.run.entry import hydra_main


@hydra_main("eval")
def main(config: DictConfig) -> None:
    from vapo.run.settings import announce, check_evaluation

    announce(config)
    check_evaluation(config)
    from vapo.run.evaluation import evaluate  # imports everything, which takes seconds

    evaluate(config)


if __name__ == "__main__":
    main()
