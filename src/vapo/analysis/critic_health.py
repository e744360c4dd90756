"""Figures of the critic: where in a response it sees, whether its values mean what they say, whether its head trains."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from safetensors.numpy import load_file

from vapo.algorithms import ActorCritic
from vapo.analysis.tokens import as_batch

TENTHS = [f"critic/explained_variance_decile_{i}" for i in range(10)]
HEAD = ("critic/head_weight_norm", "critic/head_grad_norm")


def plot_explained_variance(metrics: pd.DataFrame) -> Figure:
    """Explained variance of the return over RL steps: in the step's rollouts, held out, and by tenth of the response."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    curve, position = figure.subplots(1, 2)
    names = {
        "critic/explained_variance": "rollouts of the step",
        "value_pretraining/heldout_explained_variance": "held out, frozen policy",
    }
    for name, label in names.items():
        if name in metrics:
            shown = metrics.dropna(subset=[name])
            curve.plot(shown["rl_step"], shown[name], label=label, marker=".")
    curve.set(title="explained variance of the return", xlabel="RL step", ylim=(-0.5, 1))
    curve.xaxis.set_major_locator(MaxNLocator(integer=True))
    curve.grid(alpha=0.3)
    curve.legend()
    shown = metrics.dropna(subset=TENTHS)
    image = position.pcolormesh(
        np.arange(1, 11), shown["rl_step"], shown[TENTHS].to_numpy(), vmin=-1, vmax=1, cmap="RdBu", shading="nearest"
    )
    position.set(title="by tenth of the response", xlabel="tenth", ylabel="RL step")
    position.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=position)
    return figure


def by_token(rollouts: pd.DataFrame, algorithm: ActorCritic) -> pd.DataFrame:
    """A row per response token: V, the return it predicts, the tenth of the response it is in (0 to 9), the response's length."""
    batch = as_batch(rollouts)
    assert batch.value_R is not None
    lengths = rollouts["length"].to_numpy()
    place = np.concatenate([np.arange(length) * 10 // length for length in lengths])
    columns = {"value": batch.value_R.numpy(), "return": algorithm.monte_carlo_return(batch).numpy()}
    return pd.DataFrame(columns | {"tenth": place, "length": np.repeat(lengths, lengths)})


def plot_calibration(tokens: pd.DataFrame) -> Figure:
    """Left: the mean return of tokens whose V is about the same; a calibrated critic is on the diagonal. Middle and right: mean of
    V minus return, by tenth of the response and by its length in five classes: 0 is unbiased.

    Args:
        tokens: of `by_token`.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    calibration, position, length = figure.subplots(1, 3)
    bins = tokens.groupby(pd.cut(tokens["value"], np.linspace(-1.5, 1.5, 16)), observed=True)
    mean, size = bins[["value", "return"]].mean(), bins.size()
    calibration.plot([-1, 1], [-1, 1], color="0.7")
    calibration.scatter(mean["value"], mean["return"], s=300 * size / size.max() + 5, alpha=0.7)
    calibration.set(title="calibration; area: number of tokens", xlabel="V", ylabel="mean return")
    bias = tokens.assign(bias=tokens["value"] - tokens["return"])
    for name, runs in (("correct", bias[bias["return"] > 0]), ("wrong", bias[bias["return"] < 0]), ("all", bias)):
        position.plot(runs.groupby("tenth")["bias"].mean(), marker="o", label=name)
    position.set(title="V minus return, by tenth of the response", xlabel="tenth, from 0")
    position.legend()
    classes = bias.groupby(pd.cut(bias["length"], 5), observed=True)
    length.bar([f"{c.left:.0f}–{c.right:.0f}" for c in classes.groups], classes["bias"].mean())
    length.set(title="V minus return, by length", xlabel="tokens")
    length.tick_params("x", labelsize=8)
    for axis in (position, length):
        axis.axhline(0, color="0.6", linewidth=0.8)
    return figure


def head_change(run: Path | str, critic: Path | str | None = None) -> pd.Series:
    """The value head's weight before and after a run: norms, and the cosine of the angle between them. A head that does not train
    keeps its norm, and a cosine of exactly 1.

    Args:
        critic: the folder that the critic started from; None: the one the run's configuration names, a reward model.
    """
    start = critic or yaml.safe_load(Path(run, "resolved.yaml").read_text())["model"]["critic"]["path"]
    before, after = (
        load_file(Path(folder, "model.safetensors"))["score.weight"].ravel().astype(float)
        for folder in (start, Path(run, "export", "critic"))
    )
    norms = np.linalg.norm(before), np.linalg.norm(after)
    cosine = float(before @ after / np.prod(norms)) if min(norms) > 0 else float("nan")
    return pd.Series({"norm before": norms[0], "norm after": norms[1], "cosine": cosine})


def plot_head(metrics: pd.DataFrame) -> Figure:
    """Norm of the value head's weight and of its gradient over RL steps, where a run logged them (since 2026-11-27)."""
    figure = Figure(figsize=(13, 3), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), HEAD, strict=True):
        if name in metrics:
            shown = metrics.dropna(subset=[name])
            axis.plot(shown["rl_step"], shown[name], marker=".")
        axis.set(title=name, xlabel="RL step")
        axis.grid(alpha=0.3)
    return figure
