"""Writes the report of a sweep: Markdown, CSV and figures."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from vapo.analysis.doses import by_dose, effects, plot_doses
from vapo.analysis.sweep import (
    MEASURES,
    PAPER,
    THRESHOLDS,
    compare_with_paper,
    finished,
    load_sweep,
    separate,
    shorter_arms,
    summarize,
)
from vapo.analysis.sweep_figures import plot_accuracy, plot_arms, plot_baselines, plot_two, smoothness, steps_share


def _number(value: float, digits: int = 2) -> str:
    return "–" if isinstance(value, float) and math.isnan(value) else f"{value:.{digits}f}"


def markdown_table(table: pd.DataFrame) -> str:
    """The summary as a Markdown table; ± is half of the 95 % Student-t interval over seeds."""
    steps = " | ".join(f"steps to {threshold}" for threshold in THRESHOLDS)
    lines = [
        f"| arm | seeds | last score | lowest | largest fall | area under curve | training accuracy | {steps} | "
        "length at end | collapsed | AUROC adv. first → last | AUROC drop first → last | paper |",
        "|" + "---|" * (12 + len(THRESHOLDS)),
    ]
    for row in table.to_dict("records"):
        reached = " | ".join(f"{_number(row[f'steps_to_{x}'], 0)} ({row[f'reached_{x}']} of {row['seeds']})" for x in THRESHOLDS)
        lines.append(
            f"| {row['arm']} | {row['seeds']} | {_number(row['last'])} ± {_number(row['last_half'])} | {_number(row['lowest'])} | "
            f"{_number(row['largest_fall'])} | {_number(row['area'])} ± "
            f"{_number(row['area_half'])} | {_number(row['accuracy'])} ± {_number(row['accuracy_half'])} | "
            f"{reached} | {_number(row['length_last'], 0)} | {row['collapsed']} | "
            f"{_number(row['auroc_advantage_first'])} → {_number(row['auroc_advantage_last'])} | "
            f"{_number(row['auroc_value_drop_first'])} → {_number(row['auroc_value_drop_last'])} | {_number(row['paper'], 0)} |"
        )
    return "\n".join(lines)


def _except(arms: list[str]) -> str:
    return f" (not {', '.join(arms)})" if arms else ""


def comparison(table: pd.DataFrame) -> str:
    """Sentences on how the order of arms compares with the paper's."""
    found = compare_with_paper(table)
    if not found:
        return "No comparison with the paper: it takes vapo_full and two other arms of the paper's table."
    signs = [f"{found[f'{name}_same_sign']} in the {MEASURES[name]}{_except(found[f'{name}_other_sign'])}" for name in MEASURES]
    ranks = [f"{_number(found[f'{name}_rank_correlation'])} ({MEASURES[name]})" for name in MEASURES]
    return (
        f"Effects with the paper's sign, of {found['arms']}: {', '.join(signs)}. "
        f"Spearman's rank correlation with the paper's scores: {', '.join(ranks)}."
    )


def separation(table: pd.DataFrame) -> str:
    """A sentence on the arms whose intervals are below VAPO's and do not overlap with them."""
    if "vapo_full" not in set(table["arm"]):
        return "No vapo_full in this sweep to compare with."
    listed = [f"in the {MEASURES[name]}: {', '.join(separate(table, name)) or 'none'}" for name in MEASURES]
    return f"Below vapo_full by intervals that do not overlap, {'; '.join(listed)}."


def against_dapo(curves: pd.DataFrame) -> str:
    """Sentences on VAPO compared with DAPO, as in the paper's Figures 1 and 2."""
    shares = {what: steps_share(curves, x=x) for x, what in (("actor_updates", "gradient updates"), ("rollouts", "rollouts"))}
    parts = [
        f"VAPO reaches DAPO's last mean score after {share:.2f} of DAPO's {what}"
        for what, share in shares.items()
        if share == share
    ]
    parts = parts or ["VAPO's mean score does not reach DAPO's last one"]
    jumps = ", ".join(f"{arm} {_number(smoothness(curves, arm), 3)}" for arm in ("vapo_full", "dapo"))
    return f"{'; '.join(parts)} (paper: 0.6 of its steps). Standard deviation of the reward's second differences: {jumps}."


def effect_table(found: pd.DataFrame, key: str | None = None) -> str:
    """The effects on training accuracy and last score as a Markdown table: in the doses' order or, without a key, from the highest
    training accuracy to the lowest, beside the paper's scores."""
    accuracy, last = (found[found["measure"] == measure].reset_index(drop=True) for measure in ("accuracy", "last"))
    order = accuracy.index if key else accuracy["mean"].sort_values(ascending=False, kind="stable").index
    below = [f"below {found['than'].iloc[0]}"] if found["below"].notna().any() else []
    columns = ["arm", "seeds", "training accuracy", *below, "last score", *below]
    columns = [key, *columns] if key else [*columns, "paper"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in order:
        arm = accuracy.loc[row, "arm"]
        cells = [arm, str(accuracy.loc[row, "seeds"])]
        for measure in (accuracy.loc[row], last.loc[row]):
            cells.append(f"{_number(measure['mean'], 3)} ± {_number(measure['half'], 3)}")
            lost, half = measure["below"], _number(measure["below_half"], 3)
            fewer = "" if measure["pairs"] == measure["seeds"] else f" ({measure['pairs']} pairs)"
            cells += ["" if math.isnan(lost) else f"{lost:.3f} ± {half}{fewer}"] * len(below)
        cells = [accuracy.loc[row, "dose"], *cells] if key else [*cells, _number(PAPER.get(arm, math.nan), 0)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_report(sources: Sequence[Path | str], out: Path | str, dose: str | None = None) -> Path:
    """Writes report.md, table.csv, curves.csv and the figures; with a dose doses.csv and doses.png too, without one accuracy.png.

    Args:
        sources: folders of multiruns, and `curves.csv` of earlier reports.
        out: folder for the files.
        dose: a setting that the sweep varies beside its arms: with and without a technique at each of its values.

    Returns:
        the path of report.md.
    """
    out = Path(out)
    curves, left_out = finished(load_sweep(*sources, dose=dose))
    table, runs = summarize(curves), by_dose(curves, dose)
    found = effects(runs)
    out.mkdir(parents=True, exist_ok=True)
    curves.to_csv(out / "curves.csv", index=False, float_format="%.6g")
    table.to_csv(out / "table.csv", index=False, float_format="%.6g")
    parts = [
        effect_table(found, dose),
        '± is half of the 95 % Student-t interval over seeds; "below" is a mean difference, paired by seed.',
    ]
    if dose:
        found.to_csv(out / "doses.csv", index=False, float_format="%.6g")
        plot_doses(runs, dose).savefig(out / "doses.png", dpi=100)
        parts += ["![what is lost at each dose](doses.png)"]
    else:
        plot_accuracy(runs).savefig(out / "accuracy.png", dpi=110)
        parts += ["![training accuracy of every arm](accuracy.png)"]
    plot_arms(curves, list(table["arm"])).savefig(out / "arms.png", dpi=110)
    if {"vapo_full", "grpo", "ppo_vanilla"} <= set(table["arm"]):
        plot_baselines(curves).savefig(out / "baselines.png", dpi=110)
    parts += [markdown_table(table), *([f"Left out, not finished: {'; '.join(left_out)}."] if left_out else [])]
    if shorter := [f"{arm} {step}" for arm, step in shorter_arms(curves).items()]:
        parts += [f"Policy steps, of {curves['policy_step'].max():.0f}, of arms that have fewer: {', '.join(shorter)}."]
    parts += [separation(table), comparison(table), "![score and length of every arm](arms.png)"]
    if {"vapo_full", "dapo"} <= set(table["arm"]):
        plot_two(curves).savefig(out / "vapo_against_dapo.png", dpi=110)
        parts += [against_dapo(curves), "![VAPO against DAPO](vapo_against_dapo.png)"]
    report = out / "report.md"
    report.write_text("\n\n".join(parts) + "\n")
    return report
