"""Checkpoints on the RL step's clock, whole or not at all: a killed run loses at most `every_n_steps` steps, and one that is asked
to go (SIGTERM, SLURM's preemption) none."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from vapo.digests import DIGESTS, digest_files
from vapo.module import RLModule
from vapo.ranks import barrier, gather_lists, rank, share, sum_over_ranks, together
from vapo.strategy import FSDP2

LAST = "last.ckpt"  # a link to the newest


class RLCheckpoint(Callback):
    """Must be the last callback: what it saves, the others have already logged."""

    def __init__(self, folder: str, every_n_steps: int, keep: int) -> None:
        """
        Args:
            folder: where `step_000010.ckpt` (a folder if the trainer shards) and `last.ckpt` go.
            every_n_steps: RL steps between checkpoints, >= 1; value pretraining counts.
            keep: newest checkpoints kept, >= 1.
        """
        if every_n_steps < 1 or keep < 1:
            raise ValueError(
                f"checkpoint every_n_steps is {every_n_steps}, keep {keep}; set both callbacks.rl_checkpoint values to 1 or more"
            )
        self.folder, self.every_n_steps, self.keep = Path(folder), every_n_steps, keep
        self._asked_to_go = False
        self._unfinished: str | None = None  # a checkpoint that is being written

    def on_train_start(self, trainer: Trainer, pl_module: RLModule) -> None:  # type: ignore[override]
        """Takes the signals from Lightning, which would save in the middle of a step and broadcast in that of a collective."""

        def go(number: int, frame: object) -> None:
            self._asked_to_go = True
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(number)  # type: ignore[arg-type]  # to the ranks that this process started

        for name in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(name, go)

    def on_train_batch_end(self, trainer: Trainer, pl_module: RLModule, *args: Any) -> None:  # type: ignore[override]
        going = sum_over_ranks(torch.tensor(float(self._asked_to_go))) > 0
        if pl_module.rl_step % self.every_n_steps == 0 or pl_module.is_last_step or going:
            self._save(trainer, pl_module)
        writing = isinstance(trainer.strategy, FSDP2) and not trainer.strategy.saved()
        if pl_module.is_last_step or going or sum_over_ranks(torch.tensor(float(writing))) == 0:
            self._finish(trainer)
        if going and not pl_module.is_last_step:
            if rank() == 0:
                requeue()
            started_here = trainer.strategy.launcher is not None and rank() != 0  # Lightning kills rank 0 if these fail
            raise SystemExit(0 if started_here else 128 + signal.SIGTERM)

    def _save(self, trainer: Trainer, module: RLModule) -> None:
        self._finish(trainer)
        module.ahead.check()  # what failed there is no failure to save
        name = f"step_{module.rl_step:06d}.ckpt"
        partial = self.folder / f"{name}.partial"
        if rank() == 0:
            remove(partial)
        barrier()
        self._unfinished = name
        try:
            trainer.save_checkpoint(partial)
        except Exception as error:
            raise self._failed(name, error) from error
        if not (isinstance(trainer.strategy, FSDP2) and trainer.strategy.asynchronous_checkpoints):
            self._finish(trainer)

    def _finish(self, trainer: Trainer) -> None:
        """Makes a written checkpoint the newest: until here a crash leaves the one before it."""
        name, self._unfinished = self._unfinished, None
        if name is None:
            return
        partial = self.folder / f"{name}.partial"
        try:
            if isinstance(trainer.strategy, FSDP2):
                trainer.strategy.finish_saving()
            barrier()
            with together():
                digests = digest_files(partial, share)
            digests = dict(gather_lists(list(digests.items())))
            with together():
                if rank() == 0:
                    self._publish(name, partial, digests)
        except Exception as error:
            raise self._failed(name, error) from error

    def _publish(self, name: str, partial: Path, digests: dict[str, str]) -> None:
        (self.folder / f"{name}{DIGESTS}").write_text(json.dumps(digests, indent=1))
        remove(self.folder / name)
        partial.replace(self.folder / name)
        link = self.folder / f"{LAST}.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.replace(self.folder / LAST)
        for old in sorted(self.folder.glob("step_*.ckpt"))[: -self.keep]:
            remove(old)
            old.with_name(f"{old.name}{DIGESTS}").unlink(missing_ok=True)

    def _failed(self, name: str, error: Exception) -> OSError:
        saved = sorted(path.name for path in self.folder.glob("step_*.ckpt"))
        remedy = f"then resume: {saved[-1]} is whole" if saved else "then start anew: there is no earlier one"
        reason = " ".join(str(error).split())[:200]
        return OSError(f"checkpoint {name} could not be written to {self.folder} ({reason}): make room or fix it, {remedy}")


def remove(path: Path) -> None:
    """A file or a folder, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def requeue() -> None:
    """Asks SLURM to start the job again later; elsewhere nothing."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None and shutil.which("scontrol") is not None:
        subprocess.run(["scontrol", "requeue", job], check=False)
