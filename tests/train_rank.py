"""One rank of a run, started by `tests.ranks`: the real training entry, with notes of what it does and disturbances."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from tests.runs import config_for
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter

import vapo.callbacks.rl_checkpoint
from vapo.callbacks.self_test import SELF_TEST_STEP
from vapo.distributed.ranks import rank
from vapo.distributed.sharding import full
from vapo.learner import Learner
from vapo.module import RLModule
from vapo.rollout.sampler import Sampler
from vapo.run.training import train
from vapo.types import Batch, MicroBatch, Rollout


def note_gradients(folder: Path) -> None:
    """Saves whole gradients before every update, as `<number>_<network>.pt`, and the weights after the last."""
    original, numbers = Learner.step, iter(range(10**6))

    def step(self: Learner, batch: Batch, index_B: Tensor, dump: Path) -> None:
        gradients = {n: full(p.grad).clone() for n, p in self.network.named_parameters() if p.grad is not None}
        if rank() == 0:
            torch.save(gradients, folder / f"{next(numbers):03d}_{self.name}.pt")
        original(self, batch, index_B, dump)

    Learner.step = step  # type: ignore[method-assign]


def replay(file: Path) -> None:
    """Rollouts come from `file`, or go there if it is not there yet: sampled tokens differ once weights do in the last digit."""
    original = Sampler.sample
    recorded: list[list[Rollout]] | None = torch.load(file, weights_only=False) if file.exists() else None
    made: list[list[Rollout]] = []

    def sample(self: Sampler, *args: Any, **options: Any) -> list[Rollout]:
        if args[-1] == SELF_TEST_STEP:
            return original(self, *args, **options)
        if recorded is not None:
            return recorded.pop(0)
        made.append(original(self, *args, **options))
        torch.save(made, file)
        return made[-1]

    Sampler.sample = sample  # type: ignore[method-assign]


def poison(at_rank: int) -> None:
    """A NaN in the loss of one rank's micro-batch, in the first update of the actor."""
    original, updates = Learner.update, []

    def update(self: Learner, batch: Batch, index_B: Tensor, loss: Any, dump: Path) -> None:
        def poisoned(micro: MicroBatch) -> torch.Tensor:
            return loss(micro) * float("nan")

        updates.append(self.name)
        first = self.name == "actor" and updates.count("actor") == 1
        original(self, batch, index_B, poisoned if first and rank() == at_rank else loss, dump)

    Learner.update = update  # type: ignore[method-assign]


def note_state(file: Path, when: str) -> None:
    """Saves whole weights and optimizer states: before the first update of this process (start) or when training ends (end)."""

    def save(module: RLModule) -> None:
        state: dict[str, Any] = {name: full(tensor).clone() for name, tensor in module.state_dict().items()}
        for network, learner in module.learners.items():
            names = [name for name, _ in learner.network.named_parameters()]
            for number, entries in learner.optimizer.state_dict()["state"].items():
                state |= {f"{network}.{names[number]}.{key}": full(value).clone() for key, value in entries.items()}
        if rank() == 0:
            torch.save(state, file)

    original, done = RLModule.improve, []

    def improve(self: RLModule, batch: Batch) -> None:
        if when == "start" and not done:
            save(self)
            done.append(True)
        original(self, batch)
        if when == "end" and self.is_last_step:
            save(self)

    RLModule.improve = improve  # type: ignore[method-assign]


def fill_disk(rl_step: int) -> None:
    """A rank has no room for the checkpoint of this RL step: rank 1 for its part if it is sharded, else rank 0 for the whole."""
    original, save = FileSystemWriter.write_data, torch.save

    def write_data(self: FileSystemWriter, *args: Any) -> Any:
        if rank() == 1 and f"step_{rl_step:06d}" in str(self.path):
            raise OSError(28, "No space left on device")
        return original(self, *args)

    def save_whole(state: object, file: Any, **options: Any) -> None:
        if f"step_{rl_step:06d}.ckpt" in str(getattr(file, "name", "")):
            raise OSError(28, "No space left on device")
        save(state, file, **options)

    FileSystemWriter.write_data = write_data  # type: ignore[method-assign]
    torch.save = save_whole


def slow_disk(folder: Path, slow_step: int, until: str) -> None:
    """The checkpoint of a step is written when this has happened; rank 0 notes what happens when, in `events.txt`."""
    original, improve, publish = FileSystemWriter.write_data, RLModule.improve, vapo.callbacks.rl_checkpoint.publish

    def note(event: str) -> None:
        if rank() == 0:
            with (folder / "events.txt").open("a") as file:
                file.write(f"{event}\n")

    def write_data(self: FileSystemWriter, *args: Any) -> Any:
        step = int(Path(self.path).name[5:11])
        note(f"writing_{step}")
        while step == slow_step and until not in (folder / "events.txt").read_text().split():
            time.sleep(0.05)
        future = original(self, *args)
        note(f"written_{step}")
        return future

    def noted_improve(self: RLModule, batch: Batch) -> None:
        note(f"step_{self.rl_step + 1}")
        improve(self, batch)

    def noted_publish(folder: Path, name: str, *args: Any) -> None:
        publish(folder, name, *args)
        note(f"published_{int(name[5:11])}")

    FileSystemWriter.write_data = write_data  # type: ignore[method-assign]
    RLModule.improve = noted_improve  # type: ignore[method-assign]
    vapo.callbacks.rl_checkpoint.publish = noted_publish


def pause(file: Path, rl_step: int) -> None:
    """Rank 1 makes `file` in the updates of this RL step, or with 0 when it evaluates the base policy, and waits there until
    someone removes it."""
    sample, improve = RLModule.sample, RLModule.improve

    def wait() -> None:
        file.touch()
        while file.exists():
            time.sleep(0.01)

    def paused_sample(self: RLModule, *args: Any) -> list[Rollout]:
        if rank() == 1 and args[-1] == "evaluation" and rl_step == self.rl_step == 0:
            wait()
        return sample(self, *args)

    def paused_improve(self: RLModule, batch: Batch) -> None:
        if rank() == 1 and rl_step == self.rl_step + 1:
            wait()
        improve(self, batch)

    RLModule.sample = paused_sample  # type: ignore[method-assign]
    RLModule.improve = paused_improve  # type: ignore[method-assign]


def main(options: dict[str, Any]) -> None:
    folder = Path(options["folder"])
    torch.set_num_threads(1)
    if "gradients" in options:
        note_gradients(Path(options["gradients"]))
    for when in ("start", "end"):
        if when in options:
            note_state(Path(options[when]), when)
    if "slow_disk" in options:
        slow_disk(folder, *options["slow_disk"])
    if "full_disk_at" in options:
        fill_disk(options["full_disk_at"])
    if "replay" in options:
        replay(Path(options["replay"]))
    if "pause" in options:
        pause(Path(options["pause"][0]), options["pause"][1])
    if "poison" in options:
        poison(options["poison"])
    latest = train(config_for(folder, *options["overrides"]))
    if rank() == 0:
        (folder / "latest.json").write_text(json.dumps(latest))
