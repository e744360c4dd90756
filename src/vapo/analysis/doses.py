"""Dose and response: what an arm loses at each value of one setting, the dose, which the arms' names carry (`no_x, data.y=4`)."""

import math

import pandas as pd
from matplotlib.figure import Figure

from vapo.analysis.sweep import MEASURES, interval, score_of_run
from vapo.analysis.sweep_figures import arm_color

REFERENCE = "vapo_full"


def by_dose(curves: pd.DataFrame, key: str | None) -> pd.DataFrame:
    """One row per arm, dose and seed, in the doses' order, VAPO first: `arm` without the dose, `dose`, `seed`, the MEASURES of
    a run, `than`, and for each measure m `m_below`: how far the run is below the run of the same seed that it is compared with.
    That is VAPO's at the same dose (`than` is `vapo_full`) or, in a sweep of one arm or without VAPO, its own at the last dose.

    Args:
        curves: of `load_sweep`.
        key: the setting that is the dose; numbers come in their order, then words. Arms whose names do not say it are left out.
            None: the sweep varies its arms alone, and the dose is an empty word.

    Raises:
        ValueError: no arm's name says the dose.
    """
    rows = []
    for (name, seed), run in curves.groupby(["arm", "seed"]):
        rest: list[str] = []
        doses: list[str] = []
        for part in str(name).split(", "):
            (doses if part.startswith(f"{key}=") else rest).append(part)
        if doses or key is None:
            found = score_of_run(run)
            dose = doses[0].removeprefix(f"{key}=") if doses else ""
            rows.append({"arm": ", ".join(rest), "dose": dose, "seed": seed} | {measure: found[measure] for measure in MEASURES})
    if not rows:
        raise ValueError(f"no arm's name says {key}: the arms are {', '.join(map(str, curves['arm'].unique()))}")
    table = pd.DataFrame(rows)
    table["number"], table["other"] = pd.to_numeric(table["dose"], errors="coerce"), table["arm"] != REFERENCE
    table = table.sort_values(["number", "dose", "other", "arm", "seed"], ignore_index=True).drop(columns=["number", "other"])
    return _paired(table)


def _paired(runs: pd.DataFrame) -> pd.DataFrame:
    if runs["arm"].nunique() > 1 and REFERENCE in set(runs["arm"]):
        than, compared, same = REFERENCE, runs["arm"] == REFERENCE, ["dose", "seed"]
    else:
        than, compared, same = "the last dose", runs["dose"] == runs["dose"].iloc[-1], ["arm", "seed"]
    pairs = runs.merge(runs.loc[compared, [*same, *MEASURES]], how="left", on=same, suffixes=("", "_than"))
    below = {f"{m}_below": (pairs[f"{m}_than"] - pairs[m]).mask(compared) for m in MEASURES}
    return runs.assign(than=than, **below)


def effects(runs: pd.DataFrame) -> pd.DataFrame:
    """What each arm loses at each dose, a row per dose, arm and measure: the mean over seeds, and that of the differences,
    each with half of its 95 % interval; `pairs` is the number of differences.

    Args:
        runs: of `by_dose`.
    """
    rows = []
    for (dose, arm), own in runs.groupby(["dose", "arm"], sort=False):
        for measure in MEASURES:
            mean, half = interval(own[measure].tolist())
            lost = own[f"{measure}_below"].dropna().tolist()
            below, below_half = interval(lost) if lost else (math.nan, math.nan)
            row = {"dose": dose, "arm": arm, "measure": measure, "seeds": len(own), "mean": mean, "half": half}
            rows.append(row | {"than": own["than"].iloc[0], "pairs": len(lost), "below": below, "below_half": below_half})
    return pd.DataFrame(rows)


def plot_doses(runs: pd.DataFrame, key: str) -> Figure:
    """Training accuracy, last score, and how far training accuracy is below what it is compared with, against the dose: a dot per
    run, and a line through the means over seeds. Intervals are in the table.

    Args:
        runs: of `by_dose`.
        key: label of the doses.
    """
    doses, arms = list(runs["dose"].unique()), list(runs["arm"].unique())
    figure = Figure(figsize=(13, 3.6 + 0.2 * len(arms)), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True)
    below = f"{MEASURES['accuracy']} below {runs['than'].iloc[0]}"
    titles = {"accuracy": MEASURES["accuracy"], "last": MEASURES["last"], "accuracy_below": below}
    for axis, (column, title) in zip(axes, titles.items(), strict=True):
        for number, arm in enumerate(arms):
            own = runs[runs["arm"] == arm].dropna(subset=[column])
            at = [doses.index(dose) + 0.06 * number for dose in own["dose"]]  # aside, so that arms do not hide each other
            axis.plot(at, own[column], "o", color=arm_color(arm, number), markersize=3, alpha=0.5)
            means = own.groupby("dose", sort=False)[column].mean()
            axis.plot(list(dict.fromkeys(at)), means, "o-", color=arm_color(arm, number), label=arm)
        axis.set(title=title, xlabel=key, xticks=range(len(doses)), xticklabels=doses, xlim=(-0.5, len(doses) - 0.5))
        axis.grid(alpha=0.3)
        axis.axhline(0.0, color="0.3", linewidth=1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    return figure
