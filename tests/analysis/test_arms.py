"""Curves of several runs: which are seeds of one arm, what arms are called, and what is drawn."""

import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from matplotlib.ticker import MaxNLocator
from tests.commands import run_python

from vapo.analysis.arms import load_arms
from vapo.analysis.curves import plot_runs, plot_training_curves

ROOT = Path(__file__).resolve().parents[2]


def write_run(folder: Path, name: str, seed: int, reward: float, score: str = "mini_aime_t1_p0.7/avg@32", **settings: Any) -> Path:
    """Four RL steps, the first of value pretraining, scored before and after."""
    folder.mkdir(parents=True)
    config = {"run_name": f"{name}-seed{seed}", "seed": seed, "paths": {"output_dir": str(folder)}, "threads": seed}
    config["algorithm"] = {"clip_high": 0.28, "gamma": 1.0} | settings
    config["module"] = {"seed": "${seed}", "overlap": seed == 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    steps: list[dict[str, float]] = [{"rl_step": i, "clock/policy_step": i - 1, "reward/mean": reward * i} for i in (1, 2, 3, 4)]
    rows: list[dict[str, float]] = [{"rl_step": 0}, *steps]
    for row, value in ((rows[0], 0.2), (rows[4], 0.6)):
        row |= {score: value + seed / 10, f"{score}_low95": 0.1, f"{score}_high95": 0.9}
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    return folder


def test_runs_that_differ_in_their_seed_are_one_arm_whatever_their_folders_are_called(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"seed=9,run{i}", "vapo_full-mini", i, 0.1) for i in range(3)]
    folders.append(write_run(tmp_path / "ablation=none", "ppo_vanilla-mini", 0, 0.0))
    arms = load_arms(folders)
    assert {arm: len(runs) for arm, runs in arms.items()} == {"vapo_full-mini": 3, "ppo_vanilla-mini": 1}
    assert {arm: len(runs) for arm, runs in load_arms([tmp_path]).items()} == {"ppo_vanilla-mini": 1, "vapo_full-mini": 3}


def test_arms_of_one_name_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", "vapo_full-mini", seed, 0.1, clip_high=0.2)
        write_run(tmp_path / f"b{seed}", "vapo_full-mini", seed, 0.1)
        write_run(tmp_path / f"c{seed}", "vapo_full-mini", seed, 0.1, **{f"x{i}": i for i in range(5)})
    assert {arm: len(runs) for arm, runs in load_arms([tmp_path]).items()} == {
        "vapo_full-mini, algorithm.clip_high=0.2": 2,
        "vapo_full-mini, algorithm.clip_high=0.28": 2,
        "vapo_full-mini, algorithm.clip_high=0.28, algorithm.x0=0, algorithm.x1=1, …": 2,
    }


def test_arms_that_are_alike_in_what_is_shown_are_numbered(tmp_path: Path) -> None:
    """As where runs of before a version, which lack its new settings, are drawn beside two of after it."""
    write_run(tmp_path / "old", "vapo_full-mini", 0, 0.1, clip_high=None)
    for last in (1, 2, 3):
        write_run(tmp_path / f"new{last}", "vapo_full-mini", 0, 0.1, **{f"x{i}": i for i in range(3)}, y=last)
    label = "vapo_full-mini, algorithm.clip_high=0.28, algorithm.x0=0, algorithm.x1=1, …"
    assert set(load_arms([tmp_path])) == {"vapo_full-mini, algorithm.clip_high=None", label, f"{label} #2", f"{label} #3"}


def test_a_curve_is_the_mean_over_seeds_with_a_band_from_the_lowest_to_the_highest(tmp_path: Path) -> None:
    for seed, reward in enumerate((0.1, 0.2, 0.6)):
        write_run(tmp_path / f"a{seed}", "vapo_full-mini", seed, reward)
    write_run(tmp_path / "b", "ppo_vanilla-mini", 0, 0.0, score="aime24_t1_p0.7/avg@8")
    figure = plot_runs(load_arms([tmp_path]))
    score, reward_axis = figure.axes[:2]
    assert score.get_title() == "MiniAIME avg@32, aime24 avg@8"
    line = reward_axis.lines[0]
    assert line.get_label() == "vapo_full-mini, 3 seeds" and line.get_xydata().tolist() == [
        [i, pytest.approx(0.3 * i)] for i in (1, 2, 3, 4)
    ]
    corners = reward_axis.collections[0].get_paths()[0].vertices
    assert {round(y, 6) for x, y in corners if x == 4} == {0.4, 2.4}
    assert [len(axis.lines) for axis in (score, reward_axis)] == [2, 2] and score.lines[1].get_ydata().tolist() == [0.2, 0.6]
    assert {y for x, y in score.collections[1].get_paths()[0].vertices if x == 4} == {0.1, 0.9}  # one run: over problems
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "vapo_full-mini, 3 seeds",
        "ppo_vanilla-mini",
        "value pretraining",
    ]
    assert (
        figure.legends[0].get_title().get_text() == "bands: lowest to highest seed; of one run: score's 95 % interval over problems"
    )
    for axis in figure.axes:
        assert isinstance(axis.xaxis.get_major_locator(), MaxNLocator)
        assert all(tick == round(tick) for tick in axis.get_xticks())


def test_a_mean_ends_where_the_first_of_its_runs_ends(tmp_path: Path) -> None:
    for seed, reward in enumerate((0.1, 0.5)):
        write_run(tmp_path / f"a{seed}", "vapo_full-mini", seed, reward)
    frame = pd.read_csv(tmp_path / "a0" / "metrics.csv")
    frame[frame["rl_step"] <= 2].to_csv(tmp_path / "a0" / "metrics.csv", index=False)
    axis = plot_runs(load_arms([tmp_path])).axes[1]
    assert axis.lines[0].get_xydata().tolist() == [[1, pytest.approx(0.3)], [2, pytest.approx(0.6)]]


def test_one_run_without_a_score_or_a_critic_is_drawn() -> None:
    figure = plot_training_curves(pd.DataFrame({"rl_step": [1, 2], "clock/policy_step": [1, 2], "reward/mean": [-1.0, 0.0]}))
    assert figure.axes[0].get_title() == "no score" and len(figure.axes[1].lines) == 1 and not figure.axes[5].lines


def test_the_command(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "vapo_full-mini", 0, 0.1)

    def curves(*words: object) -> subprocess.CompletedProcess[str]:
        return run_python("src/curves.py", *map(str, words), cwd=ROOT)

    done = curves(run, "--out", tmp_path / "out.png")
    assert done.returncode == 0 and done.stdout.splitlines() == ["vapo_full-mini: 1 run", str(tmp_path / "out.png")]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    failed = curves(tmp_path / "nothing")
    assert failed.returncode == 1 and "error: no metrics.csv under" in failed.stderr and "Traceback" not in failed.stderr
