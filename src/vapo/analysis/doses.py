"""Dose and response: what an arm loses at each value of one setting, the dose, which the arms' names carry (`no_x, data.y=4`)."""

import math
from itertools import product

import pandas as pd
from matplotlib.figure import Figure

from vapo.analysis.sweep import MEASURES, interval, score_of_run
from vapo.analysis.sweep_figures import arm_color


def by_dose(curves: pd.DataFrame, key: str | None) -> pd.DataFrame:
    """One row per arm, dose and seed, in the doses' order: `arm` without the dose, `dose`, `seed` and the MEASURES of a run.

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
    table = pd.DataFrame(rows).assign(number=lambda frame: pd.to_numeric(frame["dose"], errors="coerce"))
    return table.sort_values(["number", "dose", "arm", "seed"], ignore_index=True).drop(columns="number")


def effects(runs: pd.DataFrame, reference: str = "vapo_full") -> pd.DataFrame:
    """What each arm loses at each dose, a row per dose, arm and measure, the reference first: the mean over seeds, and how far it
    is below that of `than`, a mean paired difference over the seeds that both have, each with half of its 95 % interval. `than` is
    the reference at the same dose or, in a sweep of one arm or without the reference, the arm's own runs at the last dose.

    Args:
        runs: of `by_dose`.
    """
    doses, arms = list(runs["dose"].unique()), sorted(runs["arm"].unique(), key=lambda arm: (arm != reference, arm))
    than = reference if reference in arms and len(arms) > 1 else "the last dose"
    cells, rows = dict(list(runs.groupby(["dose", "arm"]))), []
    for dose, arm, measure in product(doses, arms, MEASURES):
        if (dose, arm) not in cells:
            continue
        own = cells[dose, arm].set_index("seed")[measure]
        mean, half = interval(own.tolist())
        row = {"dose": dose, "arm": arm, "measure": measure, "seeds": len(own), "mean": mean, "half": half, "than": than}
        compared = (dose, reference) if than == reference else (doses[-1], arm)
        lost: list[float] = []
        if compared != (dose, arm) and compared in cells:
            lost = (cells[compared].set_index("seed")[measure] - own).dropna().tolist()
        row["below"], row["below_half"] = interval(lost) if lost else (math.nan, math.nan)
        rows.append(row)
    return pd.DataFrame(rows)


def plot_doses(found: pd.DataFrame, key: str) -> Figure:
    """Training accuracy and last score of each arm against the dose, the mean over seeds with 95 % intervals.

    Args:
        found: of `effects`.
        key: label of the doses.
    """
    doses, arms = list(found["dose"].unique()), list(found["arm"].unique())
    figure = Figure(figsize=(9, 3.6 + 0.2 * len(arms)), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, measure in zip(axes, ("accuracy", "last"), strict=True):
        for number, arm in enumerate(arms):
            own = found[(found["arm"] == arm) & (found["measure"] == measure)]
            at = [doses.index(dose) + 0.04 * number for dose in own["dose"]]  # apart, so that intervals do not hide each other
            axis.errorbar(at, own["mean"], own["half"], label=arm, color=arm_color(arm, number), marker="o", capsize=3)
        axis.set(title=MEASURES[measure], xlabel=key, xticks=range(len(doses)), xticklabels=doses)
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, 0.0), min(high, 1.05))  # shares; the intervals of two seeds would extend far beyond
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    return figure
