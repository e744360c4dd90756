"""One GRPO run of TRL, without this project. Prints seconds and mean response length of each RL step.

.venv-trl/bin/python benchmarks/trl_grpo.py --model FOLDER --prompts FILE …        `vs_trl.py` calls it
"""

import argparse
import json
import re
import statistics
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class StepClock(TrainerCallback):
    """An RL step is one generation and all optimizer steps on it."""

    def __init__(self, updates: int) -> None:
        self.updates, self.seconds = updates, []  # type: ignore[var-annotated]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.updates == 0:
            self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.updates == 0:
            self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", required=True, help="JSON lines with prompt and reference")
    parser.add_argument("--out", required=True, help="folder for what TRL writes")
    for name in ("rollouts", "group", "minibatch", "tokens", "threads", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--settings", type=json.loads, default={}, help="more of GRPOConfig, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lengths: list[float] = []

    def reward(completions: list[str], completion_ids: list[list[int]], reference: list[str], **kwargs: Any) -> list[float]:
        lengths.append(statistics.mean(map(len, completion_ids)))
        answers = [re.search(r"A(\d)$", completion) for completion in completions]
        return [1.0 if answer and answer[1] == right else -1.0 for answer, right in zip(answers, reference, strict=True)]

    updates = arguments.rollouts // arguments.minibatch
    config = GRPOConfig(
        output_dir=arguments.out,
        use_cpu=True,
        per_device_train_batch_size=arguments.minibatch,
        steps_per_generation=updates,
        num_generations=arguments.group,
        max_completion_length=arguments.tokens,
        learning_rate=0.0,
        max_steps=arguments.steps * updates,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        **arguments.settings,
    )
    clock = StepClock(updates)
    with open(arguments.prompts) as lines:
        data = Dataset.from_list([json.loads(line) for line in lines])
    GRPOTrainer(model=arguments.model, reward_funcs=reward, args=config, train_dataset=data, callbacks=[clock]).train()
    print(json.dumps([{"step": s, "length": n} for s, n in zip(clock.seconds, lengths, strict=True)]))


if __name__ == "__main__":
    main()
