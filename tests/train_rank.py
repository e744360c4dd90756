"""One rank of a run, started by `tests.ranks`: the real training entry, with notes of what it does and disturbances."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from tests.runs import config_for
from torch.distributed.checkpoint import FileSystemWriter

import vapo.experience
from vapo.callbacks.rl_checkpoint import RLCheckpoint
from vapo.models.sharding import full
from vapo.module import RLModule
from vapo.ranks import rank
from vapo.run.training import train
from vapo.types import Batch, Rollout


def note_gradients(folder: Path) -> None:
    """Saves whole gradients before every update, as `<number>_<network>.pt`, and the weights after the last."""
    original, numbers = RLModule.apply_gradient, iter(range(10**6))

    def apply(self: RLModule, name: str, minibatch: Batch) -> None:
        gradients = {n: full(p.grad).clone() for n, p in self.networks[name].named_parameters() if p.grad is not None}
        if rank() == 0:
            torch.save(gradients, folder / f"{next(numbers):03d}_{name}.pt")
        original(self, name, minibatch)

    RLModule.apply_gradient = apply  # type: ignore[method-assign]


def replay(file: Path) -> None:
    """Rollouts come from `file`, or go there if it is not there yet: sampled tokens differ once weights do in the last digit."""
    original = vapo.experience.collect
    recorded: list[list[Rollout]] | None = torch.load(file, weights_only=False) if file.exists() else None
    made: list[list[Rollout]] = []

    def collect(*args: Any) -> list[Rollout]:
        if recorded is not None:
            return recorded.pop(0)
        made.append(original(*args))
        torch.save(made, file)
        return made[-1]

    vapo.experience.collect = collect


def poison(at_rank: int) -> None:
    """A NaN in the loss of one rank's micro-batch, in the first update of the actor."""
    original = RLModule.backward_actor

    def backward(self: RLModule, minibatch: Batch) -> None:
        if rank() == at_rank and self.actor_updates == 0:
            assert minibatch.advantage_R is not None
            minibatch = minibatch.with_(advantage_R=minibatch.advantage_R * float("nan"))
        original(self, minibatch)

    RLModule.backward_actor = backward  # type: ignore[method-assign]


def note_state(file: Path, when: str) -> None:
    """Saves whole weights and optimizer states: before the first update of this process (start) or when training ends (end)."""

    def save(module: RLModule) -> None:
        state: dict[str, Any] = {name: full(tensor).clone() for name, tensor in module.state_dict().items()}
        for network, optimizer in module.raw_optimizers.items():
            names = [name for name, _ in module.networks[network].named_parameters()]
            for number, entries in optimizer.state_dict()["state"].items():
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
    """Rank 1 finds no room for its part of the checkpoint after this RL step."""
    original = FileSystemWriter.write_data

    def write_data(self: FileSystemWriter, *args: Any) -> Any:
        if rank() == 1 and f"step_{rl_step:06d}" in str(self.path):
            raise OSError(28, "No space left on device")
        return original(self, *args)

    FileSystemWriter.write_data = write_data  # type: ignore[method-assign]


def slow_disk(folder: Path, seconds: float) -> None:
    """Writing takes so long; rank 0 notes what happens when, in `events.txt`."""
    original, improve, publish = FileSystemWriter.write_data, RLModule.improve, RLCheckpoint._publish

    def note(event: str) -> None:
        if rank() == 0:
            with (folder / "events.txt").open("a") as file:
                file.write(f"{event}\n")

    def write_data(self: FileSystemWriter, *args: Any) -> Any:
        step = int(Path(self.path).name[5:11])
        note(f"writing_{step}")
        time.sleep(seconds)
        future = original(self, *args)
        note(f"written_{step}")
        return future

    def noted_improve(self: RLModule, batch: Batch) -> None:
        note(f"step_{self.rl_step + 1}")
        improve(self, batch)

    def noted_publish(self: RLCheckpoint, name: str, *args: Any) -> None:
        publish(self, name, *args)
        note(f"published_{int(name[5:11])}")

    FileSystemWriter.write_data = write_data  # type: ignore[method-assign]
    RLModule.improve = noted_improve  # type: ignore[method-assign]
    RLCheckpoint._publish = noted_publish  # type: ignore[method-assign]


def main(options: dict[str, Any]) -> None:
    folder = Path(options["folder"])
    torch.set_num_threads(1)
    if "gradients" in options:
        note_gradients(Path(options["gradients"]))
    for when in ("start", "end"):
        if when in options:
            note_state(Path(options[when]), when)
    if "slow_disk" in options:
        slow_disk(folder, options["slow_disk"])
    if "full_disk_at" in options:
        fill_disk(options["full_disk_at"])
    if "replay" in options:
        replay(Path(options["replay"]))
    if "poison" in options:
        poison(options["poison"])
    latest = train(config_for(folder, *options["overrides"]))
    if rank() == 0:
        (folder / "latest.json").write_text(json.dumps(latest))
