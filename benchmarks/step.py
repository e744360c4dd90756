"""Seconds of one RL step of VAPO, critic included, by phase: median of the steps after the first.

python -m benchmarks.step                  mini, on one core and on two
python -m benchmarks.step --size 135M      a random Llama of SmolLM2-135M's size: 64 rollouts, prompts of 97 tokens, responses of 32
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.models import SIZES, folder_of, shape_of
from benchmarks.tables import ROOT, machine, markdown, output_of, versions
from lightning import Callback, Trainer

from vapo.module import RLModule

OFF = ("aime_evaluation", "credit_assignment", "rollout_log", "export_hf", "rl_checkpoint", "progress", "summary", "throughput")
FROZEN = ("algorithm.value_pretraining_steps=0", "module.actor_optimizer.lr=0", "module.critic_optimizer.lr=0")  # lengths stay
PHASES = ("rollout", "annotate", "critic_update", "actor_update")


class StepClock(Callback):
    """Writes seconds and tokens of each RL step to a JSON file."""

    def __init__(self, file: str) -> None:
        self.file, self.steps = Path(file), []  # type: ignore[var-annotated]

    def on_train_batch_start(self, trainer: Trainer, module: RLModule, *args: Any) -> None:  # type: ignore[override]
        module.clock.seconds = {}
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:  # type: ignore[override]
        seconds = {"step": time.perf_counter() - self.started} | module.clock.seconds
        self.steps.append(seconds | {"length": module.latest["response/length_mean"]})
        self.file.write_text(json.dumps(self.steps))


def run(model: Path, shape: dict[str, int], cores: int, steps: int, folder: Path, *overrides: str) -> list[dict[str, float]]:
    """Seconds by phase of each RL step but the first, and the mean response length.

    Args:
        cores: 1, or 2: mini's critic and actor side by side, two threads for each operation of a larger model.
    """
    if cores not in (1, 2):
        raise ValueError(f"--cores {cores}: give 1 or 2")
    folder.mkdir(parents=True)
    file, mini = folder / "steps.json", "assets" in model.parts
    settings = {
        "threads": 1 if mini else cores,
        "module.overlap": mini and cores == 2,
        "model.path": model,
        "data.rollouts_per_step": shape["rollouts"],
        "algorithm.group_size": shape["group"],
        "module.minibatch_rollouts": shape["minibatch"],
        "data.source.min_operands": shape["least"],
        "data.source.max_operands": shape["most"],
        "module.policy_steps": steps + 1,
        "rollout.sampling.max_new_tokens": shape["tokens"],
        "scale_overrides.overlong_buffer": 4,
        "+callbacks.clock._target_": "benchmarks.step.StepClock",
        "+callbacks.clock.file": file,
        "hydra.run.dir": folder / "run",
    }
    if not mini:  # the reward model that ships is mini's
        settings |= {"model.critic.path": model, "model.critic.head_init": "zero"}
    words = [f"{key}={value}" for key, value in settings.items()] + [f"callbacks.{name}=null" for name in OFF]
    output_of([sys.executable, "src/train.py", "experiment=vapo_full", *words, *FROZEN, *overrides], PYTHONPATH=str(ROOT))
    return list(json.loads(file.read_text())[1:])


def medians(steps: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(step.get(name, 0.0) for step in steps) for name in ("step", *PHASES, "length")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=(*SIZES, "tiny"), default="mini", help="tiny: a few tokens of mini")
    parser.add_argument("--cores", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=5, help="after a first, uncounted one")
    arguments = parser.parse_args()
    shape, rows = shape_of(arguments.size), []
    with tempfile.TemporaryDirectory() as folder:
        model = folder_of(arguments.size, Path(folder))
        for cores in arguments.cores:
            found = medians(run(model, shape, cores, arguments.steps, Path(folder) / str(cores)))
            rows.append([cores, *(f"{found[name]:.2f}" for name in ("step", *PHASES)), f"{found['length']:.0f}"])
    print(markdown(("cores", "step, s", *(f"{name}, s" for name in PHASES), "tokens per response"), rows))
    print(f"\n{arguments.size}, medians of {arguments.steps} steps; {machine()}; {versions()}")


if __name__ == "__main__":
    main()
