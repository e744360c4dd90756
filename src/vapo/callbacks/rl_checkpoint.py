"""Writes atomic checkpoints every few RL steps: a killed run loses at most `every_n_steps` steps, and one that is asked to stop
(SIGTERM, SLURM preemption, Ctrl-C) loses none."""

import logging
import os
import shutil
import signal
import subprocess
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn
from torch.distributed.tensor import DTensor

from vapo.checkpoints import checkpoint_name, digest_files, publish, random_state, remove, restore_random_state, saved_checkpoints
from vapo.distributed.ranks import barrier, gather_lists, raise_on_all_ranks, rank, rank_slice, sum_over_ranks, world_size
from vapo.distributed.strategy import FSDP2
from vapo.module import RLModule

COSTLY_SHARE, COSTLY_GIB = 0.1, 1.0  # above both, a warning
SAVING = "\nstopping after this RL step, with a checkpoint; Ctrl-C again stops at once, without\n"
log = logging.getLogger(__name__)


class InPlace(TorchCheckpointIO):
    """Writes a checkpoint where it is to be: Lightning makes a copy in memory, and another one in the temporary folder."""

    error: Exception | None = None  # of the last one, kept: with trainer=ddp only rank 0 writes, and the others already wait for it

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        self.error = None
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with Path(path).open("wb") as file:  # not by torch, whose error would not say that the disk is full
                torch.save(checkpoint, file)
        except Exception as error:
            self.error = error

    def check(self) -> None:
        """Raises what the last writing raised."""
        if self.error is not None:
            raise self.error


class RLCheckpoint(Callback):
    """Saves checkpoints. Must be the last callback, so that the others have already logged the step."""

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
        self._in_place = InPlace()
        self._asked_to_go = 0  # by this signal
        self._last_save = time.monotonic()
        self._unfinished: str | None = None  # name of the checkpoint that is being written
        self._unsaved = False  # whether a step was made since the last
        self._random_state: dict[str, Any] | None = None  # this rank's state from a checkpoint, until the first step

    def setup(self, trainer: Trainer, module: RLModule, stage: str) -> None:
        """Replaces Lightning's handlers of SIGTERM and SIGUSR1 as soon as they are registered: they would save in the middle of a
        step, and broadcast in the middle of another collective, such as in the evaluation before the first step."""
        if not isinstance(trainer.strategy, FSDP2):
            trainer.strategy.checkpoint_io = self._in_place

        def go(number: int, frame: object) -> None:
            self._asked_to_go = number
            if number == signal.SIGINT:
                signal.signal(number, signal.default_int_handler)
                os.write(2, SAVING.encode() if rank() == 0 else b"")
            if trainer.strategy.launcher is not None:  # to the ranks that this process started; the terminal sends them a Ctrl-C
                trainer.strategy.launcher.kill(signal.SIGTERM)

        def register() -> None:
            lightnings()
            for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                if signal.getsignal(name) != signal.SIG_IGN:  # as `nohup` and `&` set it
                    signal.signal(name, go)

        lightnings = trainer._signal_connector.register_signal_handlers  # its teardown restores the handlers from before
        trainer._signal_connector.register_signal_handlers = register  # type: ignore[method-assign]

    def on_fit_start(self, trainer: Trainer, module: RLModule) -> None:
        """Says beforehand how much room large checkpoints take: weights, and two Adam states of those that train."""
        gib = sum(p.numel() * p.element_size() * (3 if p.requires_grad else 1) for p in module.parameters()) / 2**30
        if rank() == 0 and gib * self.keep > COSTLY_GIB:
            place = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
            free = shutil.disk_usage(place).free / 2**30
            room = f"{self.keep} x {gib:.1f} GiB in {self.folder}, and one more while it is written; {free:.1f} GiB are free there"
            log.log(logging.INFO if free > gib * (self.keep + 1) else logging.WARNING, f"checkpoints take {room}")

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        going = sum_over_ranks(torch.tensor(float(self._asked_to_go > 0))) > 0
        self._unsaved = True
        if module.rl_step % self.every_n_steps == 0 or trainer.should_stop or going:
            started = time.monotonic()
            with module.clock.phase("checkpoint"):
                self._save(trainer, module)
            self._warn_of_cost(started, trainer.should_stop)
        writing = isinstance(trainer.strategy, FSDP2) and not trainer.strategy.saved()
        if trainer.should_stop or going or sum_over_ranks(torch.tensor(float(writing))) == 0:
            self._finish(trainer)
        if going and not trainer.should_stop:
            if rank() == 0 and self._asked_to_go != signal.SIGINT:
                requeue()
            started_here = trainer.strategy.launcher is not None and rank() != 0  # Lightning kills rank 0 if one of these fails
            raise SystemExit(0 if started_here else 128 + (self._asked_to_go or signal.SIGTERM))

    def on_train_end(self, trainer: Trainer, module: RLModule) -> None:
        """Saves what nobody knew to be the last step: Lightning's timer (`trainer.max_time`) stops the run after all callbacks."""
        if self._unsaved:
            self._save(trainer, module)
        self._finish(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: RLModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_states"] = gather_lists([random_state()])

    def on_load_checkpoint(self, trainer: Trainer, module: RLModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get("random_states") or checkpoint["vapo"]["random_states"]  # checkpoints before November 2026
        self._random_state = states[rank()] if len(states) == world_size() else None  # saved with another number of ranks

    def on_train_batch_start(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        if self._random_state is not None:  # only here: making the loader's iterator draws a random number
            restore_random_state(self._random_state)
            self._random_state = None

    def _save(self, trainer: Trainer, module: RLModule) -> None:
        self._finish(trainer)
        module.sampler.prefetched.check()  # raise generation errors here, or they would be reported as a failed save
        name = checkpoint_name(module.rl_step)
        with raise_on_all_ranks():
            if broken := not_finite(module):
                raise FloatingPointError(
                    f"{broken} is not finite after RL step {module.rl_step}, which is not saved: resume with a lower "
                    f"learning rate; {self._newest()}"
                )
        partial = self.folder / f"{name}.partial"
        if rank() == 0:
            remove(partial)
        barrier()
        self._unfinished, self._unsaved = name, False
        try:
            trainer.save_checkpoint(partial)
            with raise_on_all_ranks():
                self._in_place.check()
        except Exception as error:
            raise self._failed(name, error) from error
        if not (isinstance(trainer.strategy, FSDP2) and trainer.strategy.asynchronous_checkpoints):
            self._finish(trainer)

    def _warn_of_cost(self, started: float, last: bool) -> None:
        """Warns of large checkpoints that take much of the time, unless this was the last."""
        now = time.monotonic()
        share, self._last_save = (now - started) / (now - self._last_save), now
        if rank() != 0 or last or share <= COSTLY_SHARE:
            return
        gib = 0.0
        with suppress(OSError):  # one that is written meanwhile changes its name
            gib = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file() and not file.is_symlink()) / 2**30
        if gib > COSTLY_GIB:
            warnings.warn(
                f"checkpoints take {share:.0%} of the time ({gib:.1f} GiB are in {self.folder}): raise "
                f"callbacks.rl_checkpoint.every_n_steps, which is {self.every_n_steps}",
                stacklevel=2,
            )

    def _finish(self, trainer: Trainer) -> None:
        """Publishes a written checkpoint as the newest; a crash before this leaves the previous one."""
        name, self._unfinished = self._unfinished, None
        if name is None:
            return
        partial = self.folder / f"{name}.partial"
        try:
            if isinstance(trainer.strategy, FSDP2):
                trainer.strategy.finish_saving()
            barrier()
            with raise_on_all_ranks():
                digests = digest_files(partial, rank_slice)
            digests = dict(gather_lists(list(digests.items())))
            with raise_on_all_ranks():
                if rank() == 0:
                    publish(self.folder, name, partial, digests, self.keep)
        except Exception as error:
            raise self._failed(name, error) from error

    def _failed(self, name: str, error: Exception) -> OSError:
        if rank() == 0:
            with suppress(OSError):
                remove(self.folder / f"{name}.partial")
        reason = " ".join(str(error).split())[:200]
        return OSError(
            f"checkpoint {name} could not be written to {self.folder} ({reason}): make room or fix it, then resume; "
            f"{self._newest()}"
        )

    def _newest(self) -> str:
        saved = saved_checkpoints(self.folder)
        return f"{saved[-1].name} is intact" if saved else "there is no earlier one"


def not_finite(module: nn.Module) -> str | None:
    """The name of a parameter of which this rank's part has a NaN or an infinity."""
    parts = ((name, p.to_local() if isinstance(p, DTensor) else p) for name, p in module.named_parameters())
    return next((name for name, part in parts if not part.isfinite().all()), None)


def requeue() -> None:
    """Asks SLURM to start the job again later; does nothing elsewhere."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None and shutil.which("scontrol") is not None:
        subprocess.run(["scontrol", "requeue", job], check=False)
