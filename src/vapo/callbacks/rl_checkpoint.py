"""Checkpoints on the RL step's clock, whole or not at all, so that a killed run loses at most `every_n_steps` steps."""

from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from vapo.module import RLModule

LAST = "last.ckpt"  # a link to the newest


class RLCheckpoint(Callback):
    """Must be the last callback: what it saves, the others have already logged."""

    def __init__(self, folder: str, every_n_steps: int, keep: int) -> None:
        """
        Args:
            folder: where `step_000010.ckpt` and `last.ckpt` go.
            every_n_steps: RL steps between checkpoints, >= 1; value pretraining counts.
            keep: newest checkpoints kept, >= 1.
        """
        if every_n_steps < 1 or keep < 1:
            raise ValueError(
                f"checkpoint every_n_steps is {every_n_steps}, keep {keep}; set both callbacks.rl_checkpoint values to 1 or more"
            )
        self.folder, self.every_n_steps, self.keep = Path(folder), every_n_steps, keep

    def on_train_batch_end(self, trainer: Trainer, pl_module: RLModule, *args: Any) -> None:  # type: ignore[override]
        if pl_module.rl_step % self.every_n_steps == 0 or pl_module.is_last_step:
            self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, module: RLModule) -> None:
        name = f"step_{module.rl_step:06d}.ckpt"
        partial = self.folder / f"{name}.partial"
        trainer.save_checkpoint(partial)
        if not trainer.is_global_zero:
            return
        partial.replace(self.folder / name)
        link = self.folder / f"{LAST}.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.replace(self.folder / LAST)
        for old in sorted(self.folder.glob("step_*.ckpt"))[: -self.keep]:
            old.unlink()
