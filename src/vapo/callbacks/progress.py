"""A progress bar with accuracy, reward, length, entropy and speed; without a terminal, one line per RL step."""

from typing import Any

from lightning import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from vapo.callbacks.value_pretraining import ValuePretraining
from vapo.module import RLModule


class Progress(Callback):
    """Shows the RL steps: value pretraining first, then policy training."""

    def __init__(self) -> None:
        self.console = Console()
        self.bar: RichProgress | None = None

    def on_train_start(self, trainer: Trainer, module: RLModule) -> None:
        pretraining = next((c.steps for c in trainer.callbacks if isinstance(c, ValuePretraining)), 0)  # type: ignore[attr-defined]
        self.total = pretraining + module.policy_steps
        if self.console.is_terminal and trainer.is_global_zero:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[watch]}"),
            )
            self.bar = RichProgress(*columns, console=self.console)
            self.task = self.bar.add_task("value pretraining", total=self.total, completed=module.rl_step, watch="")
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        latest = module.latest
        phase = "policy training" if module.policy_step else "value pretraining"
        watch = "  ".join(
            f"{label} {latest[name]:{form}}"
            for label, name, form in (
                ("accuracy", "response/accuracy", ".3f"),
                ("reward", "reward/mean", "+.2f"),
                ("length", "response/length_mean", ".0f"),
                ("entropy", "actor/entropy_mean", ".3f"),
                ("explained variance", "critic/explained_variance", ".2f"),
                ("tokens/s", "speed/rollout_tokens_per_second", ".0f"),
            )
            if name in latest
        )
        if self.bar is not None:
            self.bar.update(self.task, description=phase, completed=module.rl_step, watch=watch)
        elif trainer.is_global_zero:
            self.console.print(f"{phase} {module.rl_step}/{self.total}  {watch}", highlight=False, soft_wrap=True)

    def on_exception(self, trainer: Trainer, module: RLModule, exception: BaseException) -> None:
        self.teardown(trainer, module, "fit")  # otherwise the terminal stays without a cursor

    def teardown(self, trainer: Trainer, module: RLModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()
