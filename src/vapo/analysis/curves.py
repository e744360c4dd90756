"""Plots the training curves of runs from their `metrics.csv`: one run, or arms of several seeds over each other."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    """Score, reward, length, entropy, explained variance and value loss of one run over RL steps; value pretraining is shaded."""
    return plot_runs({"": [metrics]})


def plot_runs(arms: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """The same six panels with a curve per arm: the mean over its runs, which differ in their seed, as far as all of them go, and a
    band from the lowest to the highest of them. The score of a single run has its 95 % interval over problems instead.

    Args:
        arms: the `metrics.csv` of each run, by the name of the arm.
    """
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True).flatten()
    runs = [run for seeds in arms.values() for run in seeds]
    score = ", ".join(sorted({score_title(name) for run in runs if (name := score_column(run))})) or "no score"
    for axis, (column, title) in zip(axes, ((None, score), *PANELS), strict=True):
        axis.set_title(title, fontsize="medium")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        for number, (arm, seeds) in enumerate(arms.items()):
            name = column or next(filter(None, map(score_column, seeds)), "")
            shown = [run.set_index("rl_step")[name].dropna() for run in seeds if name in run]
            if not shown:
                continue
            curves = pd.concat(shown, axis=1).sort_index().loc[: min(run.index.max() for run in shown)]  # while all runs go on
            low, high = curves.min(axis=1), curves.max(axis=1)
            if column is None and len(seeds) == 1:
                low, high = (seeds[0].set_index("rl_step")[f"{name}_{end}95"].dropna() for end in ("low", "high"))
            label = f"{arm}, {len(seeds)} seeds" if len(seeds) > 1 else arm
            style: dict[str, Any] = {"marker": "o", "markersize": 4, "clip_on": False} if column is None else {}
            axis.plot(curves.mean(axis=1), color=f"C{number}", label=label, **style)
            axis.fill_between(curves.index, low, high, color=f"C{number}", alpha=0.2, linewidth=0)
    for axis in axes[3:]:
        axis.set_xlabel("RL step")
    axes[0].set_ylim(0, 1)
    axes[4].set_ylim(max(-0.5, axes[4].get_ylim()[0]), 1)
    handles = axes[1].get_legend_handles_labels()[0] if len(arms) > 1 else []
    frozen = {run.loc[run.get("clock/policy_step", pd.Series(dtype=float)) == 0, "rl_step"].max() for run in runs}
    if len(frozen) == 1 and (end := frozen.pop()) == end:  # the same in all runs, and there is one
        handles += [axis.axvspan(0, end, color="0.92", zorder=-1, label="value pretraining") for axis in axes][:1]
    bands = ["lowest to highest seed"] * any(len(seeds) > 1 for seeds in arms.values())
    bands += ["score's 95 % interval over problems"] * any(len(seeds) == 1 for seeds in arms.values())
    figure.legend(handles=handles, loc="outside lower center", ncols=3, title=f"bands: {'; of one run: '.join(bands)}")
    return figure


def score_title(name: str) -> str:
    """`mini_aime_t1_p0.7/avg@32` -> `MiniAIME avg@32`."""
    return re.sub(r"_t[\d.]+_p[\d.]+/", " ", name).replace("mini_aime", "MiniAIME")
