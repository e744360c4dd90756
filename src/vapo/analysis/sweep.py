"""Loads the runs of a sweep into one table of curves, and summarizes each arm with intervals over seeds."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.integrate import trapezoid
from scipy.stats import sem, spearmanr, t

from vapo.analysis.arms import SAME_ARM, within
from vapo.analysis.curves import load_metrics, score_column

PAPER = {  # AIME 2024 avg@32 of Qwen2.5-32B (VAPO Table 1)
    "vapo_full": 60,
    "no_group_sampling": 55,
    "no_positive_example_lm_loss": 54,
    "no_token_level_loss": 53,
    "dapo": 50,
    "grpo": 47,
    "no_clip_higher": 46,
    "no_length_adaptive_gae": 45,
    "no_decoupled_gae": 33,
    "no_value_pretraining": 11,
    "ppo_vanilla": 5,
}
THRESHOLDS = (0.4, 0.6, 0.8)
# of a run; its training accuracy is the mean over policy steps
MEASURES = {"accuracy": "training accuracy", "last": "last score", "area": "area under the curve"}
NAMES = ("experiment=", "ablation=", "seed=")  # overrides that always name a run
COLUMNS = {  # columns kept of a run: name in metrics.csv -> short name
    "clock/policy_step": "policy_step",
    "clock/actor_updates": "actor_updates",
    "clock/rollouts": "rollouts",
    "reward/mean": "reward",
    "response/accuracy": "accuracy",
    "response/length_mean": "length",
    "actor/entropy_mean": "entropy",
    "actor/lambda_mean": "actor_lambda",
    "critic/explained_variance": "explained_variance",
    "value_pretraining/heldout_explained_variance": "heldout_explained_variance",
    "credit/first_slip_auroc_advantage": "auroc_advantage",
    "credit/first_slip_auroc_value_drop": "auroc_value_drop",
    "credit/value_drop_slip": "value_drop_slip",
    "credit/value_drop_other": "value_drop_other",
}


def overrides_of(run: Path) -> list[str]:
    """What a run's command set, from its record; runs before December 2026 have it only in their folder's name. Settings that make
    no other arm are left out."""
    record = run / "record.json"
    first = json.loads(record.read_text())[0] if record.exists() else {}
    found = first["overrides"] if "overrides" in first else [part for part in run.name.split(",") if "=" in part]
    return [part for part in found if part.startswith("seed=") or not within(part.lstrip("+~").partition("=")[0], SAME_ARM)]


def arm_and_seed(overrides: Sequence[str]) -> tuple[str, int]:
    """What a run is called by its overrides, in whatever order they were given, and its seed. Without an experiment it is VAPO's.

    >>> arm_and_seed(["ablation=no_clip_higher", "experiment=vapo_full", "seed=2"])
    ('no_clip_higher', 2)
    >>> arm_and_seed(["ablation=none", "experiment=vapo_full", "model.critic.head_init=zero", "data=sums_reveal", "seed=0"])
    ('vapo_full, data=sums_reveal, model.critic.head_init=zero', 0)
    >>> arm_and_seed(["ablation=none", "seed=1"])
    ('vapo_full', 1)
    """
    values = dict(part.lstrip("+").partition("=")[::2] for part in overrides)
    default = "vapo_full" if values and "algorithm" not in values else None
    seed = int(values.pop("seed", 0))
    ablation, experiment = values.pop("ablation", "none"), values.pop("experiment", default)
    names = [experiment] if ablation == "none" else [ablation] if experiment == "vapo_full" else [experiment, ablation]
    return ", ".join([*filter(None, names), *(f"{key}={value}" if value else key for key, value in sorted(values.items()))]), seed


def load_sweep(*sources: Path | str, dose: str | None = None) -> pd.DataFrame:
    """The runs under multirun folders, and those of the `curves.csv` of earlier reports, as one table. Arms of folders are named by
    what differs between their runs, by settings that name an arm in a `curves.csv`, and by the setting `dose` in any case.

    Returns:
        a row per run and RL step, with arm, seed, rl_step, score and the short names of COLUMNS.

    Raises:
        FileNotFoundError: there is no run in a folder.
        ValueError: no setting tells two runs apart.
    """
    kept = [pd.read_csv(source) for source in sources if Path(source).suffix == ".csv"]
    paths: list[Path] = []
    for folder in (Path(source) for source in sources if Path(source).suffix != ".csv"):
        if not (found := sorted(folder.rglob("metrics.csv"))):
            raise FileNotFoundError(f"no metrics.csv under {folder}: give the folder of a multirun, logs/train/multiruns/<time>")
        paths += found
    settings = [overrides_of(path.parent) for path in paths]
    common = set.intersection(*map(set, settings)) if settings else set()
    named = {str(dose), *(part.partition("=")[0] for rows in kept for arm in rows["arm"].unique() for part in arm.split(", "))}
    common = {part for part in common if part.partition("=")[0] not in named}
    for path, overrides in zip(paths, settings, strict=True):
        metrics = load_metrics(path.parent)
        arm, seed = arm_and_seed([part for part in overrides if part.startswith(NAMES) or part not in common])
        arm = arm or path.parent.name
        rows = metrics[["rl_step", *(name for name in COLUMNS if name in metrics)]].rename(columns=COLUMNS)
        score = score_column(metrics)
        if score is not None:
            rows["score"] = metrics[score]
            rows["evaluated_length"] = metrics[score.split("/")[0] + "/length_mean"]
        kept.append(_with_base_clocks(rows).assign(arm=arm, seed=seed))
    curves = pd.concat(kept, ignore_index=True)
    if (twice := curves[curves.duplicated(["arm", "seed", "rl_step"])]).size:
        raise ValueError(f"two runs of {twice['arm'].iloc[0]} with seed {twice['seed'].iloc[0]}: no setting tells them apart")
    return curves[["arm", "seed", *(name for name in curves if name not in ("arm", "seed"))]]


def _with_base_clocks(run: pd.DataFrame) -> pd.DataFrame:
    """Fills the clocks of the base policy's evaluation, which comes before any step: its score holds until the policy moves,
    so it counts the rollouts of value pretraining."""
    if "policy_step" not in run:
        return run.assign(policy_step=0)
    base, frozen = run["policy_step"].isna(), run["policy_step"].fillna(0) == 0
    clocks = {"policy_step": 0.0, "actor_updates": 0.0, "rollouts": run.loc[frozen, "rollouts"].max() if "rollouts" in run else 0.0}
    for name, value in clocks.items():
        run.loc[base, name] = 0.0 if pd.isna(value) else value
    return run


def finished(curves: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Leaves out the runs that were not evaluated as far as their arm's longest run: killed, diverged, or still running. An arm
    whose runs have all got to no policy step, where others have, is left out too.

    Returns:
        the rest of the table, and the names of the runs left out.

    Raises:
        ValueError: no run has been evaluated.
    """
    if "score" not in curves or curves["score"].isna().all():
        raise ValueError("no run of the sweep has been evaluated yet: wait, or look at its logs")
    reached = curves["policy_step"].where(curves["score"].notna()).groupby([curves["arm"], curves["seed"]]).transform("max")
    short = ~(reached == reached.groupby(curves["arm"]).transform("max")) | ((reached == 0) & (reached.max() > 0))
    left_out = curves.loc[short, ["arm", "seed"]].drop_duplicates().sort_values(["arm", "seed"])
    return curves[~short], [f"{row.arm}, seed {row.seed}" for row in left_out.itertuples()]


def shorter_arms(curves: pd.DataFrame) -> dict[str, int]:
    """The policy step of each arm's last evaluation, of those that got less far than another arm."""
    last = curves[curves["score"].notna()].groupby("arm")["policy_step"].max()
    return {str(arm): int(step) for arm, step in last.items() if step < last.max()}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of the 95 % Student-t interval over seeds; the half is nan for one seed.

    >>> interval([1.0, 2.0, 3.0])[0]
    2.0
    """
    n, mean = len(values), sum(values) / len(values)
    return mean, math.nan if n < 2 else float(t.ppf(0.975, n - 1) * sem(values))


def score_of_run(run: pd.DataFrame) -> dict[str, float]:
    """Results of one run: last score, its fall from the best one, area under its curve, mean training accuracy over the policy
    steps (finer than the area where evaluations are rare), steps to thresholds, whether its responses collapsed."""
    evaluated = run.dropna(subset=["score"]).sort_values("rl_step")
    step, score = evaluated["policy_step"].to_numpy(), evaluated["score"].to_numpy()
    span = step[-1] - step[0]
    area = float(trapezoid(score, step) / span) if span > 0 else float(score[-1])
    first, last = evaluated["evaluated_length"].iloc[0], evaluated["evaluated_length"].iloc[-1]
    found = {
        "last": float(score[-1]),
        "fall": float(score.max() - score[-1]),
        "area": area,
        "accuracy": float(run.loc[run["policy_step"] > 0, "accuracy"].mean()) if "accuracy" in run else math.nan,
        "length_last": last,
        "collapsed": float(last < first / 2),
    }
    for threshold in THRESHOLDS:
        reached = step[score >= threshold]
        found[f"steps_to_{threshold}"] = float(reached[0]) if len(reached) else math.nan
    for name in ("auroc_advantage", "auroc_value_drop"):
        measured = run[name].dropna() if name in run else pd.Series(dtype=float)
        found[f"{name}_first"] = float(measured.iloc[0]) if len(measured) else math.nan
        found[f"{name}_last"] = float(measured.iloc[-1]) if len(measured) else math.nan
    return found


def summarize(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per arm, best last score first: means and half intervals over seeds, the lowest last score of a seed, the largest
    fall of one below its own best, and the paper's score.

    `steps_to_x` is the mean over the seeds that got there, `reached_x` how many did; `collapsed` counts seeds whose responses
    at the end are less than half as long as the base policy's.
    """
    rows = []
    for arm, runs in curves.groupby("arm"):
        found = pd.DataFrame([score_of_run(run) for _, run in runs.groupby("seed")])
        row: dict[str, object] = {"arm": arm, "seeds": len(found), "paper": PAPER.get(str(arm), math.nan)}
        for name in MEASURES:
            row[name], row[f"{name}_half"] = interval(found[name].tolist())
        row |= {"lowest": found["last"].min(), "largest_fall": found["fall"].max()}
        for threshold in THRESHOLDS:
            row[f"steps_to_{threshold}"] = found[f"steps_to_{threshold}"].mean()
            row[f"reached_{threshold}"] = int(found[f"steps_to_{threshold}"].notna().sum())
        row["collapsed"] = int(found["collapsed"].sum())
        rows.append(row | found[[name for name in found if name.startswith(("length", "auroc"))]].mean().to_dict())
    return pd.DataFrame(rows).sort_values("last", ascending=False, ignore_index=True)


def compare_with_paper(table: pd.DataFrame, reference: str = "vapo_full") -> dict[str, Any]:
    """Whether removing a technique, or another algorithm, hurts as in the paper: signs of effects and order of arms.

    Returns:
        `arms` in both tables without the reference; of those, how many effects on each measure have the paper's sign, and
        which do not; Spearman's rank correlation of each with the paper's scores, reference included.
    """
    shared = table.dropna(subset=["paper"]).set_index("arm")
    if reference not in shared.index or len(shared) < 3:
        return {}
    others = shared.drop(index=reference)
    result: dict[str, Any] = {"arms": len(others)}
    for name in MEASURES:
        effect = others[name] - shared.loc[reference, name]
        wanted = others["paper"] - shared.loc[reference, "paper"]
        result[f"{name}_same_sign"] = int((effect * wanted > 0).sum())
        result[f"{name}_other_sign"] = list(others.index[~(effect * wanted > 0)])
        result[f"{name}_rank_correlation"] = float(spearmanr(shared[name], shared["paper"]).statistic)
    return result


def separate(table: pd.DataFrame, measure: str, reference: str = "vapo_full") -> list[str]:
    """Arms whose 95 % interval of `measure` (one of MEASURES) lies wholly below the reference's."""
    if reference not in set(table["arm"]):
        return []
    best = table.set_index("arm").loc[reference]
    below = table[measure] + table[f"{measure}_half"] < best[measure] - best[f"{measure}_half"]  # nan (one seed) is not below
    return [str(arm) for arm in table.loc[below, "arm"]]
