"""Figures of a sweep: one curve or row per arm, the mean over seeds, with its interval."""

from collections.abc import Sequence

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vapo.analysis.sweep import MEASURES, interval

TITLES = {
    "score": "score, avg@k of the benchmark",
    "length": "response length, tokens",
    "reward": "reward, mean of a step",
    "entropy": "entropy, nats per token",
    "explained_variance": "explained variance of the return",
    "auroc_advantage": "AUROC of -advantage at the first slip",
}
# The algorithms, in the colors of every figure; ablations and settings of a sweep take others.
NAMES = {"vapo_full": "VAPO", "dapo": "DAPO", "grpo": "GRPO", "vc_ppo": "VC-PPO", "ppo_vanilla": "PPO"}
COLORS = dict(zip(NAMES, ("tab:red", "tab:purple", "tab:blue", "tab:green", "tab:orange"), strict=True))
OTHERS = [f"tab:{name}" for name in ("brown", "pink", "gray", "olive", "cyan")] + [
    to_hex(colormaps["tab20"](i)) for i in range(1, 20, 2)
]
X_LABELS = {"policy_step": "RL step of policy training", "actor_updates": "gradient update of the actor"}


def arm_color(arm: str, number: int) -> str:
    """An algorithm has its own color; others take the five strong colors that are left, then ten pale ones, then these again."""
    return COLORS.get(arm) or OTHERS[number % len(OTHERS)]


def draw_curve(axis: Axes, runs: pd.DataFrame, column: str, x: str, label: str, color: str, smooth: int = 1) -> None:
    """Mean over seeds of `column` against `x`, and the 95 % Student-t interval as a band.

    Args:
        runs: one arm's rows of `load_sweep`; an arm that does not log `column` draws nothing.
        smooth: rows of a running mean taken over each seed first; 1 is none.
    """
    shown = (runs if column in runs else runs.assign(**{column: float("nan")})).dropna(subset=[column, x]).sort_values("rl_step")
    shown = shown.assign(**{column: shown.groupby("seed")[column].transform(lambda y: y.rolling(smooth, min_periods=1).mean())})
    at, seeds = shown.groupby("policy_step")[x].mean(), shown.groupby("policy_step")[column]
    mean, half = seeds.mean(), seeds.agg(lambda y: interval(list(y))[1]).fillna(0.0)
    axis.plot(at, mean, label=label, color=color, marker="o" if column == "score" else None, markersize=3)
    axis.fill_between(at, mean - half, mean + half, alpha=0.15, color=color, linewidth=0)


def fade(axis: Axes, number: int) -> None:
    """Redraws the last curve as an ablation among many: gray, without a band, with its own dashes and markers."""
    axis.collections[-1].remove()
    axis.lines[-1].set(
        color="0.55", linewidth=1, linestyle=("-", "--", ":", "-.")[number % 4], marker="ov^sDxP"[number % 7], markersize=4
    )


def draw_panel(axis: Axes, curves: pd.DataFrame, arms: Sequence[str], column: str, x: str = "policy_step", smooth: int = 1) -> None:
    """One curve per arm, of the base policy's evaluation and the RL steps in which the actor trained. Scores are never smoothed."""
    for number, arm in enumerate(arms):
        runs = curves[(curves["arm"] == arm) & ((curves["policy_step"] > 0) | curves["score"].notna())]
        draw_curve(axis, runs, column, x, arm, arm_color(arm, number), 1 if column == "score" else smooth)
        if arm.startswith("no_"):
            fade(axis, number)
    axis.set(title=TITLES.get(column, column), xlabel=X_LABELS[x])
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)


def plot_baselines(curves: pd.DataFrame, arms: Sequence[str] = ("vapo_full", "grpo", "ppo_vanilla")) -> Figure:
    """Score of VAPO and of the algorithms it is compared with, the mean over seeds with 95 % intervals."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for arm in arms:
        runs = curves[(curves["arm"] == arm) & curves["score"].notna()]
        draw_curve(axis, runs, "score", "policy_step", f"{NAMES[arm]} ({runs['seed'].nunique()} seeds)", COLORS[arm])
    axis.set(xlabel=X_LABELS["policy_step"], ylabel=TITLES["score"], ylim=(0, 1))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left")
    return figure


def plot_accuracy(runs: pd.DataFrame) -> Figure:
    """Training accuracy of each arm, the highest first: a dot per run, the mean over seeds and its 95 % interval.

    Args:
        runs: of `vapo.analysis.doses.by_dose`.
    """
    arms = list(runs.groupby("arm")["accuracy"].mean().sort_values(na_position="first").index)
    names = [arm.replace(", ", ",\n") for arm in arms]
    lines = sum(name.count("\n") for name in names)
    figure = Figure(figsize=(8, 0.8 + 0.34 * len(arms) + 0.16 * lines), layout="constrained")
    axis = figure.subplots()
    for height, arm in enumerate(arms):
        found = runs.loc[runs["arm"] == arm, "accuracy"]
        mean, half = interval(found.tolist())
        color = COLORS.get(arm, "0.4")
        axis.plot(found, [height] * len(found), "o", color=color, markersize=4, alpha=0.4)
        axis.errorbar(mean, height, xerr=half, color=color, marker="|", markersize=14, capsize=4)
    axis.set(yticks=range(len(arms)), yticklabels=names, ylim=(-0.6, len(arms) - 0.4), xlabel=MEASURES["accuracy"])
    axis.grid(alpha=0.3)
    return figure


def plot_arms(curves: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Score and length of every arm against the RL steps in which the actor trained."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    score, length = figure.subplots(1, 2)
    draw_panel(score, curves, arms, "score")
    draw_panel(length, curves, arms, "length")
    score.set_ylim(0, 1)
    heights = [height for line in length.lines for height in line.get_ydata()]
    length.set_ylim(0, 1.1 * max(heights, default=1.0))  # the bands of two seeds would extend far beyond
    figure.legend(*length.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)  # names can be long
    return figure


def plot_columns(curves: pd.DataFrame, arms: Sequence[str], columns: Sequence[str], smooth: int = 1) -> Figure:
    """One panel per column of `load_sweep`'s table, one curve per arm, against the RL steps of policy training."""
    figure = Figure(figsize=(13, 3.3 * -(-len(columns) // 3)), layout="constrained")
    axes = figure.subplots(-(-len(columns) // 3), 3, squeeze=False).flatten()
    for axis, column in zip(axes, columns, strict=False):
        draw_panel(axis, curves, arms, column, smooth=smooth)
    for axis in axes[len(columns) :]:
        axis.set_visible(False)
    axes[0].legend()
    return figure


def plot_two(curves: pd.DataFrame, arms: Sequence[str] = ("vapo_full", "dapo")) -> Figure:
    """The paper's Figures 1 and 2 in small: two arms' score, length, reward and entropy, by RL step and by gradient update."""
    figure = Figure(figsize=(15, 6.5), layout="constrained")
    rows = figure.subplots(2, 4, sharey="col")
    for axes, x in zip(rows, X_LABELS, strict=True):
        for axis, column in zip(axes, ("score", "length", "reward", "entropy"), strict=True):
            draw_panel(axis, curves, arms, column, x)
    rows[0][0].legend()
    return figure


def steps_share(curves: pd.DataFrame, arm: str = "vapo_full", other: str = "dapo", x: str = "actor_updates") -> float:
    """The share of `other`'s last `x` at which `arm`'s mean score first reaches `other`'s last (the paper: 0.6); nan if never.

    Between evaluations the mean score is interpolated.
    """
    scored = curves.dropna(subset=["score"]).sort_values("policy_step")
    means = {name: scored[scored["arm"] == name].groupby("policy_step")[["score", x]].mean() for name in (arm, other)}
    if any(len(frame) < 2 for frame in means.values()):  # not scored yet, or at the start alone
        return float("nan")
    goal, end = means[other]["score"].iloc[-1], means[other][x].iloc[-1]
    score, at = means[arm]["score"].tolist(), means[arm][x].tolist()
    if score[0] >= goal:
        return float(at[0] / end)
    for i in range(1, len(score)):
        if score[i] >= goal:
            weight = (goal - score[i - 1]) / (score[i] - score[i - 1])
            return float((at[i - 1] + weight * (at[i] - at[i - 1])) / end)
    return float("nan")


def smoothness(curves: pd.DataFrame, arm: str, column: str = "reward") -> float:
    """How much a curve jumps: standard deviation of its second differences, mean over seeds; 0 is a straight line."""
    runs = curves[(curves["arm"] == arm) & (curves["policy_step"] > 0)].dropna(subset=[column]).sort_values("rl_step")
    jumps = [run[column].diff().diff().std() for _, run in runs.groupby("seed")]
    return float(sum(jumps) / len(jumps)) if jumps else float("nan")
