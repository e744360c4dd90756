"""Shows what a metric cannot to the loggers that can: the configuration, a table of responses, the figure of the curves."""

from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.image import imread

from vapo.module import RLModule


class Samples(Callback):
    """For W&B and TensorBoard; rollouts/*.parquet has responses token by token. Comes after Summary, which draws the figure."""

    def __init__(self, folder: str, every_n_steps: int, responses: int) -> None:
        """
        Args:
            folder: the run's, with resolved.yaml and training_curves.png.
            every_n_steps: RL steps between tables, >= 1.
            responses: rows of a table, spread over a step's problems, >= 1.
        """
        if every_n_steps < 1 or responses < 1:
            raise ValueError(
                f"samples every_n_steps is {every_n_steps}, responses {responses}; set both callbacks.samples values to 1 or more"
            )
        self.folder, self.every_n_steps, self.responses = Path(folder), every_n_steps, responses

    def on_train_start(self, trainer: Trainer, module: RLModule) -> None:
        if trainer.is_global_zero:
            config = yaml.safe_load((self.folder / "resolved.yaml").read_text())  # without secrets
            for logger in trainer.loggers:
                logger.log_hyperparams(config)
                if isinstance(logger, TensorBoardLogger):  # Lightning has written the file, empty, and writes it only once
                    (Path(logger.log_dir) / logger.NAME_HPARAMS_FILE).unlink(missing_ok=True)
                    logger.save()

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        shown = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger | TensorBoardLogger)]
        if module.rl_step % self.every_n_steps != 0 or not trainer.is_global_zero or not shown:
            return
        rows = self.table(module)
        columns, data = list(rows[0]), [list(row.values()) for row in rows]
        for logger in shown:
            if isinstance(logger, WandbLogger):
                logger.log_table("samples", columns, data, step=module.rl_step)
            else:
                cells = [columns, ["---"] * len(columns), *data]
                logger.experiment.add_text(
                    "samples", "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in cells), module.rl_step
                )

    def table(self, module: RLModule) -> list[dict[str, Any]]:
        """Responses of the last step, evenly spread over its rollouts."""
        assert module.batch is not None
        rollouts, value_R = module.rollouts, module.batch.value_R
        values = None if value_R is None else [v.mean().item() for v in value_R.split(module.batch.response_length_B.tolist())]
        chosen = torch.linspace(0, len(rollouts) - 1, min(self.responses, len(rollouts))).round().int().tolist()
        return [
            {
                "problem": rollouts[i].prompt.text,
                "response": module.sampler.decode(rollouts[i].completion.token_ids),
                "reference": rollouts[i].prompt.reference,
                "answer": rollouts[i].verdict.answer,
                "verdict": rollouts[i].verdict.status.value,
                "length": len(rollouts[i].completion.token_ids),
                **({} if values is None else {"mean V": values[i]}),
            }
            for i in chosen
        ]

    def on_train_end(self, trainer: Trainer, module: RLModule) -> None:
        figure = self.folder / "training_curves.png"
        if not trainer.is_global_zero or not figure.exists():
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("training_curves", [str(figure)], step=module.rl_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("training_curves", imread(figure), module.rl_step, dataformats="HWC")


def _cell(value: object) -> str:
    """A value in a Markdown table."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", "<br>")
