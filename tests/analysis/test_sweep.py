"""The report's numbers, from hand-made metrics files whose answers are known."""

import itertools
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from tests.commands import run_python

from vapo.analysis.report import markdown_table, write_report
from vapo.analysis.sweep import arm_and_seed, compare_with_paper, finished, interval, load_sweep, score_of_run, separate, summarize
from vapo.analysis.sweep_figures import plot_columns, smoothness, steps_share
from vapo.run.resolvers import job_folder

BENCHMARK = "mini_aime_t1_p0.7"


def evaluation(score: float, length: float) -> dict[str, float]:
    values = {"avg@32": score, "avg@32_low95": score - 0.05, "avg@32_high95": score + 0.05, "length_mean": length}
    return {f"{BENCHMARK}/{name}": value for name, value in values.items()}


def write_run(folder: Path, scores: list[float], lengths: list[float], every: int = 5, updates: int = 4) -> None:
    """A run evaluated at policy steps 0, every, 2 * every, ..., after one RL step of value pretraining."""
    rows = [{"rl_step": 0, **evaluation(scores[0], lengths[0])}]
    rows.append({"rl_step": 1, "clock/policy_step": 0, "clock/actor_updates": 0, "reward/mean": -1.0})
    for step in range(1, every * (len(scores) - 1) + 1):
        row = {"rl_step": step + 1, "clock/policy_step": step, "clock/actor_updates": updates * step, "reward/mean": step / 10}
        row |= {"clock/rollouts": 256 * step, "response/length_mean": 50.0, "actor/entropy_mean": 0.1}
        if step % every == 0:
            row |= evaluation(scores[step // every], lengths[step // every])
        rows.append(row)
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    arms = {
        "experiment=vapo_full": ([0.1, 0.5, 0.9], [0.1, 0.7, 0.9]),
        "ablation=no_clip_higher,experiment=vapo_full": ([0.1, 0.3, 0.7], [0.1, 0.3, 0.5]),
        "experiment=ppo_vanilla": ([0.1, 0.1, 0.2], [0.1, 0.1, 0.0]),
        "experiment=dapo": ([0.1, 0.3, 0.5], [0.1, 0.3, 0.5]),
    }
    for name, seeds in arms.items():
        for seed, scores in enumerate(seeds):
            collapses = name == "experiment=ppo_vanilla" and seed == 1
            write_run(tmp_path / f"{name},seed={seed}", scores, [100.0, 80.0, 40.0 if collapses else 60.0])
    return tmp_path


def test_arms_are_what_the_overrides_say():
    assert arm_and_seed(["experiment=dapo", "seed=3"]) == ("dapo", 3)
    assert arm_and_seed(["ablation=no_clip_higher", "experiment=dapo", "seed=3"]) == ("dapo, no_clip_higher", 3)  # not VAPO's
    assert arm_and_seed(["ablation=no_clip_higher", "seed=3"]) == ("no_clip_higher", 3)
    assert arm_and_seed(["ablation=none", "seed=3"]) == arm_and_seed(["seed=3"]) == ("vapo_full", 3)  # train.py's own default
    assert arm_and_seed(["algorithm=grpo", "seed=3"]) == ("algorithm=grpo", 3)
    assert arm_and_seed([]) == ("", 0)


def test_a_sweep_over_paths_and_lists_has_an_arm_for_each(tmp_path):
    """The record says what was varied, in any order; the folders' names are only names."""
    paths = ["/x/A/base", "/x/B/base"]
    for number, (path, tags, seed) in enumerate(itertools.product(paths, ["[x,y]", "[x,z]"], (1, 2))):
        varied = [f"model.path={path}", f"algorithm.list={tags}", f"seed={seed}", f"threads={number}"]
        folder = tmp_path / job_folder(",".join(varied))
        assert folder.parent == tmp_path
        write_run(folder, [0.1, 0.2], [9.0, 9.0])
        (folder / "record.json").write_text(
            json.dumps([{"overrides": ["experiment=vapo_full", *varied[:: 1 if seed == 1 else -1]]}, {"overrides": []}])
        )
    counts = load_sweep(tmp_path).groupby("arm")["seed"].unique().map(list).to_dict()
    expected = [f"vapo_full, algorithm.list={tags}, model.path={path}" for path in paths for tags in ("[x,y]", "[x,z]")]
    assert counts == {arm: [1, 2] for arm in expected}


def test_long_names_stay_different_and_below_the_limit_of_a_file_system():
    names = {job_folder(f"model.path={'x' * 300}{seed}") for seed in range(3)}
    assert len(names) == 3 and all(len(name.encode()) < 255 for name in names)


def test_what_all_runs_share_names_none(tmp_path):
    for name in ("experiment=dapo,model=x,seed=0", "experiment=dapo,model=x,seed=1", "alpha=2,experiment=vapo_full,model=x,seed=0"):
        write_run(tmp_path / name, [0.1, 0.2], [9.0, 9.0])
    assert set(load_sweep(tmp_path)["arm"]) == {"dapo", "vapo_full, alpha=2"}


def test_runs_cut_short_are_left_out_and_named(sweep):
    write_run(sweep / "experiment=dapo,seed=7", [0.1, 0.8], [9.0, 9.0])  # of three evaluations it has two
    write_run(sweep / "experiment=dapo,seed=8", [0.1], [9.0])
    (sweep / "experiment=dapo,seed=9").mkdir()
    (sweep / "experiment=dapo,seed=9" / "metrics.csv").write_text("rl_step,reward/mean\n1,0.5\n")  # not evaluated yet
    curves, left_out = finished(load_sweep(sweep))
    assert left_out == ["dapo, seed 7", "dapo, seed 8", "dapo, seed 9"]
    assert summarize(curves).set_index("arm").loc["dapo", "seeds"] == 2
    assert "dapo, seed 8" in write_report([sweep], sweep / "report").read_text()
    with pytest.raises(ValueError, match="evaluated yet"):
        finished(curves.assign(score=math.nan))


def test_the_base_policys_score_counts_the_rollouts_of_value_pretraining(tmp_path):
    rows = [{"rl_step": 0, **evaluation(0.2, 9.0)}]
    rows += [{"rl_step": i, "clock/policy_step": 0, "clock/actor_updates": 0, "clock/rollouts": 256 * i} for i in (1, 2)]
    rows += [{"rl_step": 3, "clock/policy_step": 1, "clock/actor_updates": 4, "clock/rollouts": 768, **evaluation(0.6, 9.0)}]
    (tmp_path / "experiment=vapo_full,seed=0").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "experiment=vapo_full,seed=0" / "metrics.csv", index=False)
    base = load_sweep(tmp_path).iloc[0]
    assert base[["policy_step", "actor_updates", "rollouts"]].tolist() == [0, 0, 512]


def test_interval_is_student_t():
    mean, half = interval([0.7, 0.8, 0.9])
    assert mean == pytest.approx(0.8)
    assert half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)  # t quantile 0.975 with 2 degrees of freedom
    assert math.isnan(interval([0.5])[1])


def test_area_and_steps_of_a_run(sweep):
    curves = load_sweep(sweep)
    run = curves[(curves["arm"] == "vapo_full") & (curves["seed"] == 0)]
    found = score_of_run(run)
    assert found["last"] == 0.9
    assert found["area"] == pytest.approx((0.3 * 5 + 0.7 * 5) / 10)
    assert found["steps_to_0.4"] == 5 and found["steps_to_0.6"] == 10 and found["collapsed"] == 0


def test_summary_is_over_seeds_and_sorted(sweep):
    table = summarize(load_sweep(sweep)).set_index("arm")
    assert list(table.index) == ["vapo_full", "no_clip_higher", "dapo", "ppo_vanilla"]
    assert table.loc["no_clip_higher", "last"] == pytest.approx(0.6)
    assert table.loc["no_clip_higher", "reached_0.6"] == 1 and table.loc["no_clip_higher", "steps_to_0.6"] == 10
    assert table.loc["ppo_vanilla", "lowest"] == 0.0 and table.loc["ppo_vanilla", "largest_fall"] == pytest.approx(0.1)
    assert table.loc["vapo_full", "lowest"] == 0.9 and table.loc["vapo_full", "largest_fall"] == 0.0
    assert table.loc["ppo_vanilla", "collapsed"] == 1 and math.isnan(table.loc["ppo_vanilla", "steps_to_0.4"])


def test_an_arm_is_separate_when_its_interval_ends_below_the_references():
    arms = [
        ("vapo_full", 0.9, 0.1),
        ("overlapping", 0.7, 0.11),
        ("below", 0.6, 0.15),
        ("wide", 0.2, 0.7),
        ("once", 0.1, math.nan),
        ("above", 1.0, 0.0),
    ]
    table = pd.DataFrame(arms, columns=["arm", "last", "last_half"])
    assert separate(table, "last") == ["below"]
    assert separate(table[1:], "last") == []


def test_comparison_with_the_paper(sweep):
    found = compare_with_paper(summarize(load_sweep(sweep)))
    assert found["arms"] == 3 and found["last_same_sign"] == 3
    assert found["last_rank_correlation"] == pytest.approx(0.8)  # order 1 2 3 4 against the paper's 1 3 2 4


def test_share_of_dapos_updates(sweep):
    """DAPO ends at 0.5 after 40 updates; VAPO's mean passes 0.1, 0.6 (20 updates): 0.5 is reached at 16."""
    assert steps_share(load_sweep(sweep)) == pytest.approx(16 / 40)
    assert math.isnan(steps_share(load_sweep(sweep), arm="ppo_vanilla"))
    curves = load_sweep(sweep)
    started = curves[(curves["arm"] == "vapo_full") | (curves["policy_step"] == 0)]
    assert math.isnan(steps_share(started)), "DAPO was scored at the start alone"


def test_a_share_where_vapo_starts_above_dapos_end(tmp_path):
    for arm, scores in (("vapo_full", [0.9, 0.8]), ("dapo", [0.6, 0.5])):
        write_run(tmp_path / f"experiment={arm},seed=0", scores, [100.0] * 2)
    assert steps_share(load_sweep(tmp_path)) == 0


def test_arms_that_have_got_less_far_are_named(sweep, tmp_path):
    write_run(sweep / "experiment=grpo,seed=0", [0.1, 0.3], [100.0] * 2)
    write_run(sweep / "experiment=vc_ppo,seed=0", [0.1], [100.0])
    text = write_report([sweep], tmp_path / "out").read_text()
    assert "Left out, not finished: vc_ppo, seed 0." in text and "| vc_ppo" not in text
    assert "Policy steps, of 10, of arms that have fewer: grpo 5." in text


def test_a_straight_line_is_smooth(sweep):
    assert smoothness(load_sweep(sweep), "dapo") == pytest.approx(0.0, abs=1e-9)


def test_the_report_is_rebuilt_from_its_own_curves(sweep, tmp_path):
    first = write_report([sweep], tmp_path / "a")
    again = write_report([tmp_path / "a" / "curves.csv"], tmp_path / "b")
    assert first.read_text() == again.read_text()
    assert "| vapo_full | 2 | 0.90 ±" in first.read_text()
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        *("report.md", "table.csv", "curves.csv", "accuracy.png", "arms.png", "vapo_against_dapo.png"),
    }
    assert len(markdown_table(summarize(load_sweep(sweep))).splitlines()) == 6


def test_seeds_of_another_sweep_join_the_arms_of_a_kept_report(sweep, tmp_path):
    """What all runs of the second sweep share still names its arms, as in the report; a run given twice is refused."""
    names = ("ablation=no_clip_higher,experiment=vapo_full,m=1,n=1", "experiment=vapo_full,m=1,n=1", "experiment=vapo_full,m=2,n=1")
    for folder, seed, kept in (("a", 0, names), ("b", 1, names[:2])):
        for name in kept:
            write_run(tmp_path / folder / f"{name},seed={seed}", [0.1, 0.5 + seed / 10], [9.0, 9.0])
    report = write_report([tmp_path / "a"], tmp_path / "report").parent
    joined = write_report([report / "curves.csv", tmp_path / "b"], tmp_path / "joined").parent
    together = load_sweep(tmp_path / "a", tmp_path / "b")
    assert summarize(load_sweep(joined / "curves.csv")).equals(summarize(together))
    assert summarize(together).set_index("arm")["seeds"].to_dict() == {
        "vapo_full, m=1": 2,
        "no_clip_higher, m=1": 2,
        "vapo_full, m=2": 1,
    }
    with pytest.raises(ValueError, match="two runs of no_clip_higher, m=1 with seed 1"):
        write_report([joined / "curves.csv", tmp_path / "b"], tmp_path / "twice")


def test_a_folder_without_runs_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the folder of a multirun"):
        load_sweep(tmp_path)


def test_an_arm_without_a_column_draws_nothing_and_the_others_their_mean(sweep):
    curves = load_sweep(sweep).assign(explained_variance=lambda frame: frame["reward"].where(frame["arm"] == "vapo_full"))
    axis = plot_columns(curves, ["dapo", "vapo_full"], ["explained_variance"], smooth=1).axes[0]
    empty, drawn = (line.get_ydata().tolist() for line in axis.lines)
    assert empty == [] and drawn == pytest.approx([step / 10 for step in range(1, 11)])


def test_the_report_of_a_sweep_without_evaluations_is_one_line(tmp_path):
    (tmp_path / "seed=0").mkdir()
    (tmp_path / "seed=0" / "metrics.csv").write_text("rl_step,reward/mean\n1,0.5\n")
    done = run_python("src/report.py", str(tmp_path), cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 1 and done.stderr == "error: no run of the sweep has been evaluated yet: wait, or look at its logs\n"


def test_a_sweep_that_has_only_begun_has_a_report(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"experiment=vapo_full,seed={seed}", [0.2], [9.0])
    assert "| vapo_full | 2 | 0.20 ± 0.00 |" in write_report([tmp_path], tmp_path).read_text()
