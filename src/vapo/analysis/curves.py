"""Plots the training curves of one run from its `metrics.csv`."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PANELS = (
    ("reward/mean", "reward, mean of a step"),
    ("response/length_mean", "response length, tokens"),
    ("actor/entropy_mean", "entropy, nats per token"),
    ("critic/explained_variance", "explained variance of the return"),
    ("critic/value_loss", "value loss"),
)


def load_metrics(folder: Path | str) -> pd.DataFrame:
    """`metrics.csv` of a run folder, one row per RL step, in order."""
    return pd.read_csv(Path(folder) / "metrics.csv").sort_values("rl_step", ignore_index=True)


def newest_run(logs: Path | str) -> Path:
    """The folder of the run under `logs` that logged last.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(Path(logs).rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"no run under {logs}: start one with `python src/train.py experiment=vapo_full`")
    return found[-1].parent


def score_column(metrics: Iterable[str]) -> str | None:
    """The name of the benchmark's avg@k, if it is among the metrics (names, or a frame with these columns)."""
    return next((name for name in metrics if re.search(r"/avg@\d+$", name)), None)


def plot_training_curves(metrics: pd.DataFrame) -> Figure:
    """Score, reward, length, entropy, explained variance and value loss over RL steps; value pretraining is shaded."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3).flatten()
    score = score_column(metrics)
    if score is not None:
        evaluated = metrics.dropna(subset=[score])
        axes[0].plot(evaluated["rl_step"], evaluated[score], marker="o", markersize=4)
        axes[0].fill_between(evaluated["rl_step"], evaluated[f"{score}_low95"], evaluated[f"{score}_high95"], alpha=0.2)
        axes[0].set_title(f"{score.replace('mini_aime_t1_p0.7/', 'MiniAIME ')}, 95 % interval", fontsize="medium")
        axes[0].set_ylim(0, 1)
    for axis, (name, title) in zip(axes[1:], PANELS, strict=True):
        axis.set_title(title)
        if name in metrics:
            shown = metrics.dropna(subset=[name])
            axis.plot(shown["rl_step"], shown[name])
    axes[4].set_ylim(max(-0.5, axes[4].get_ylim()[0]), 1)
    frozen = metrics.loc[metrics.get("clock/policy_step", pd.Series(dtype=float)) == 0, "rl_step"].max()
    for axis in axes:
        axis.set_xlabel("RL step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        if frozen == frozen:
            axis.axvspan(0, frozen, color="0.92", zorder=-1, label="value pretraining")
    if frozen == frozen:
        axes[0].legend(loc="lower right")
    return figure
