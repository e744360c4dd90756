"""Prints a table of results at the end of a run, and draws `training_curves.png`."""

from pathlib import Path

from lightning import Callback, Trainer
from rich.console import Console
from rich.table import Table

from vapo.analysis.curves import load_metrics, plot_training_curves, score_column
from vapo.module import RLModule


class Summary(Callback):
    """Summarizes `metrics.csv`; does nothing without the CSV logger."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: Trainer, module: RLModule) -> None:
        if not trainer.is_global_zero or not (self.folder / "metrics.csv").exists():
            return
        metrics = load_metrics(self.folder)
        table = Table(title="run", show_header=False)
        score = score_column(metrics)
        if score is not None and metrics[score].notna().any():
            evaluated = metrics.dropna(subset=[score])
            first, last = evaluated.iloc[0], evaluated.iloc[-1]
            table.add_row(f"{score} before", f"{first[score]:.3f}")
            table.add_row(
                f"{score} after",
                f"{last[score]:.3f}  (95 % interval over problems {last[score + '_low95']:.3f} to {last[score + '_high95']:.3f})",
            )
        timed = [name for name in metrics.columns if name.startswith("time/") and name != "time/evaluation_seconds"]
        if timed:
            seconds = metrics[timed].sum().sum()
            if module.overlap:  # both networks train at the same time
                updates = metrics.reindex(columns=["time/critic_update_seconds", "time/actor_update_seconds"])
                seconds -= updates.min(axis=1, skipna=False).sum()
            table.add_row("training, evaluation not included", f"{seconds / 60:.1f} min, {module.rl_step} RL steps")
        figure = self.folder / "training_curves.png"
        plot_training_curves(metrics).savefig(figure, dpi=120)
        table.add_row("curves", str(figure))
        table.add_row("metrics, rollouts, checkpoints", f"{self.folder}/")
        Console(width=None).print(table)
