"""Dose and response: what an arm loses at each value of one setting, the dose, which the arms' names carry (`no_x, data.y=4`)."""

import pandas as pd
from matplotlib.figure import Figure

from vapo.analysis.sweep import MEASURES, interval, score_of_run
from vapo.analysis.sweep_figures import arm_color


def by_dose(curves: pd.DataFrame, key: str, base: str | None = None) -> pd.DataFrame:
    """One row per arm, dose and seed, in the doses' order: `arm` without the dose, `dose`, `seed` and the MEASURES of a run.

    Args:
        curves: of `load_sweep`.
        key: the setting that is the dose; its values are sorted as numbers where all are.
        base: the dose of arms whose names do not say one; None: they are left out.

    Raises:
        ValueError: no arm's name says the dose.
    """
    rows = []
    for (name, seed), run in curves.groupby(["arm", "seed"]):
        parts = str(name).split(", ")
        doses = [part.removeprefix(f"{key}=") for part in parts if part.startswith(f"{key}=")] or ([] if base is None else [base])
        if doses:
            arm = ", ".join(part for part in parts if not part.startswith(f"{key}="))
            found = score_of_run(run)
            rows.append({"arm": arm, "dose": doses[0], "seed": seed} | {measure: found[measure] for measure in MEASURES})
    if all(row["dose"] == base for row in rows):
        raise ValueError(f"no arm's name says {key}: the arms are {', '.join(map(str, curves['arm'].unique()))}")
    table = pd.DataFrame(rows)
    numbers = pd.to_numeric(table["dose"], errors="coerce")
    order = table["dose"] if numbers.isna().any() else numbers
    return table.assign(order=order).sort_values(["order", "arm", "seed"], ignore_index=True).drop(columns="order")


def effects(runs: pd.DataFrame, reference: str = "vapo_full", measure: str = "accuracy") -> pd.DataFrame:
    """What each arm loses at each dose: the mean over seeds of `measure`, and of the paired difference over the seeds that both
    have, each with half of its 95 % interval. The difference is to the reference at the same dose or, in a sweep without that arm,
    to the arm's own runs at the last dose.

    Args:
        runs: of `by_dose`.
    """
    doses, arms = list(runs["dose"].unique()), sorted(runs["arm"].unique(), key=lambda arm: (arm != reference, arm))
    of = {cell: own.set_index("seed")[measure] for cell, own in runs.groupby(["dose", "arm"])}
    rows = []
    for dose, arm in ((dose, arm) for dose in doses for arm in arms if (dose, arm) in of):
        mean, half = interval(of[dose, arm].tolist())
        row = {"dose": dose, "arm": arm, "seeds": len(of[dose, arm]), "mean": mean, "half": half}
        compared = (dose, reference) if reference in arms else (doses[-1], arm)
        if compared != (dose, arm) and compared in of:
            lost = (of[compared] - of[dose, arm]).dropna().tolist()
            row["loss"], row["loss_half"] = interval(lost) if lost else (float("nan"), float("nan"))
        rows.append(row)
    return pd.DataFrame(rows)


def plot_doses(runs: pd.DataFrame, key: str) -> Figure:
    """Training accuracy and last score of each arm against the dose, the mean over seeds with 95 % intervals.

    Args:
        runs: of `by_dose`.
        key: label of the doses.
    """
    figure, doses = Figure(figsize=(9, 3.6), layout="constrained"), list(runs["dose"].unique())
    axes = figure.subplots(1, 2)
    for axis, measure in zip(axes, ("accuracy", "last"), strict=True):
        for number, arm in enumerate(sorted(runs["arm"].unique(), key=lambda name: (name != "vapo_full", name))):
            own = runs[runs["arm"] == arm]
            at = [dose for dose in doses if (own["dose"] == dose).any()]
            means, halves = zip(*(interval(own.loc[own["dose"] == dose, measure].tolist()) for dose in at), strict=True)
            shift = 0.04 * number  # so that intervals do not hide each other
            color, at_x = arm_color(arm, number), [doses.index(dose) + shift for dose in at]
            axis.errorbar(at_x, means, halves, label=arm, color=color, marker="o", capsize=3)
        axis.set(title=MEASURES[measure], xlabel=key, xticks=range(len(doses)), xticklabels=doses)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure
