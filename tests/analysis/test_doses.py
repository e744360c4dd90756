"""Doses and responses, from hand-made curves whose numbers are known."""

import math
from pathlib import Path

import pandas as pd
import pytest

from vapo.analysis.doses import by_dose, effects, plot_doses
from vapo.analysis.report import write_report
from vapo.analysis.sweep import interval
from vapo.analysis.sweep_figures import plot_accuracy

KEY = "data.source.reveal"


def curves(arms: dict[str, list[float]]) -> pd.DataFrame:
    """Two policy steps of each arm's seeds after one of value pretraining: accuracy a - 0.1 and a + 0.1, last score a."""
    rows = []
    for arm, found in arms.items():
        for seed, a in enumerate(found):
            for step, accuracy, score in ((0, 0.9, 0.1), (1, a - 0.1, math.nan), (2, a + 0.1, a)):
                shared = {"arm": arm, "seed": seed, "rl_step": step, "policy_step": step, "length": 9.0, "evaluated_length": 9.0}
                rows.append(shared | {"accuracy": accuracy, "score": score, "reward": accuracy})
    return pd.DataFrame(rows)


@pytest.fixture
def swept() -> pd.DataFrame:
    return curves(
        {
            f"vapo_full, {KEY}=12": [0.7, 0.5],
            f"vapo_full, {KEY}=4": [0.8, 0.6],
            f"no_x, {KEY}=4": [0.7, 0.6],
            f"no_x, {KEY}=12": [0.4, 0.1],
            "vapo_full": [0.2, 0.2],
        }
    )


def test_doses_are_in_the_order_of_numbers_and_accuracy_is_of_the_policy_steps(swept):
    runs = by_dose(swept, KEY)
    assert runs["dose"].tolist() == ["4"] * 4 + ["12"] * 4, "as text 12 would come first"
    assert runs.loc[runs["arm"] == "no_x", "accuracy"].tolist() == pytest.approx([0.7, 0.6, 0.4, 0.1])


def of(found: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    return found[found["measure"] == measure].set_index(["dose", "arm"])


def test_differences_are_paired_by_seed(swept):
    found = of(effects(by_dose(swept, KEY)))
    assert found.loc[("12", "vapo_full"), "mean"] == pytest.approx(0.6)
    assert found.loc[("12", "no_x"), "below"] == pytest.approx((0.3 + 0.4) / 2)
    assert found.loc[("12", "no_x"), "below_half"] == pytest.approx(interval([0.3, 0.4])[1])
    assert math.isnan(found.loc[("4", "vapo_full"), "below"])


def test_each_measure_has_its_difference(swept):
    found = effects(by_dose(swept.assign(score=lambda frame: frame["score"] ** 2), KEY))
    assert of(found, "last").loc[("12", "no_x"), "below"] == pytest.approx((0.7**2 - 0.4**2 + 0.5**2 - 0.1**2) / 2)


def test_a_difference_of_fewer_pairs_than_seeds_says_so(tmp_path: Path):
    curves({f"vapo_full, {KEY}=4": [0.8, 0.6], f"no_x, {KEY}=4": [0.7, 0.5, 0.1]}).to_csv(tmp_path / "curves.csv", index=False)
    table = write_report([tmp_path / "curves.csv"], tmp_path, KEY).read_text().split("\n\n")[0]
    assert "| 4 | no_x | 3 | 0.433 ± 0.759 | 0.100 ± 0.000 (2 pairs) |" in table


def test_a_seed_that_one_arm_lacks_is_not_in_its_difference():
    found = of(effects(by_dose(curves({f"vapo_full, {KEY}=4": [0.8, 0.6], f"no_x, {KEY}=4": [0.7]}), KEY)))
    assert found.loc[("4", "no_x"), "below"] == pytest.approx(0.1) and found.loc[("4", "no_x"), "seeds"] == 1
    assert found.loc[("4", "vapo_full"), "mean"] == pytest.approx(0.7)


@pytest.mark.parametrize("arm", ["m=a", "vapo_full"])
def test_alone_or_without_vapo_full_an_arm_is_compared_with_its_own_last_dose(arm):
    found = of(effects(by_dose(curves({f"{arm}, {KEY}=8": [0.8, 0.6], f"{arm}, {KEY}=1": [0.5, 0.4]}), KEY)))
    assert found.loc[("1", arm), "below"] == pytest.approx((0.3 + 0.2) / 2) and math.isnan(found.loc[("8", arm), "below"])


def test_one_dose_alone_has_a_report(tmp_path: Path):
    """As when a study has only begun: all runs share the dose, which still names the arm, and nothing can be compared."""
    for seed in (0, 1):
        folder = tmp_path / f"experiment=vapo_full,{KEY}=4,seed={seed}"
        folder.mkdir()
        rows = [{"rl_step": 1, "clock/policy_step": 1, "response/accuracy": 0.5, "response/length_mean": 9.0}]
        rows[0] |= {"reward/mean": 0.0, "mini_aime_t1_p0.7/avg@32": 0.5, "mini_aime_t1_p0.7/length_mean": 9.0}
        pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    assert "| 4 | vapo_full | 2 | 0.500 ± 0.000 | 0.500 ± 0.000 |" in write_report([tmp_path], tmp_path, KEY).read_text()


def test_numbers_come_in_their_order_and_then_words():
    arms = {f"vapo_full, {KEY}={dose}": [0.5] for dose in ("null", "12", "4", "any")}
    assert by_dose(curves(arms), KEY)["dose"].tolist() == ["4", "12", "any", "null"]


def test_the_figure_has_a_dot_per_run_and_a_line_per_arm(swept):
    figure = plot_doses(by_dose(swept, KEY), KEY)
    accuracy, last, below = figure.axes
    dots, means = accuracy.lines[:2]
    assert sorted(dots.get_ydata()) == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert means.get_ydata().tolist() == pytest.approx([0.7, 0.6])
    (own,) = [line for line in below.lines if line.get_label() == "no_x"]
    assert own.get_ydata().tolist() == pytest.approx([0.05, 0.35]), "0.8 - 0.7 and 0; 0.7 - 0.4 and 0.5 - 0.1"
    assert [label.get_text() for label in figure.legends[0].get_texts()] == ["vapo_full", "no_x"]
    assert [label.get_text() for label in last.get_xticklabels()] == ["4", "12"]


def test_of_one_arm_the_figure_has_no_difference_at_the_last_dose():
    figure = plot_doses(by_dose(curves({f"m=a, {KEY}=8": [0.8, 0.6], f"m=a, {KEY}=1": [0.5, 0.4]}), KEY), KEY)
    below = figure.axes[-1]
    assert below.get_title() == "training accuracy below the last dose"
    (own,) = [line for line in below.lines if line.get_label() == "m=a"]
    assert own.get_xdata().tolist() == [0] and own.get_ydata().tolist() == pytest.approx([0.25])


def test_without_a_dose_the_figure_has_a_row_per_arm_with_its_interval():
    runs = by_dose(curves({"no_x": [0.3, 0.1], "vapo_full": [0.8, 0.6, 0.7], "dapo": [0.5]}), None)
    (axis,) = plot_accuracy(runs).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["no_x", "dapo", "vapo_full"]
    dots = [line.get_xdata().tolist() for line in axis.lines if line.get_alpha()]
    assert dots == [pytest.approx([0.3, 0.1]), pytest.approx([0.5]), pytest.approx([0.8, 0.6, 0.7])]
    (start, end) = axis.collections[2].get_segments()[0][:, 0]
    assert (start, end) == pytest.approx((0.7 - interval([0.8, 0.6, 0.7])[1], 0.7 + interval([0.8, 0.6, 0.7])[1]))


def test_the_report_begins_with_the_doses(swept, tmp_path: Path):
    swept.to_csv(tmp_path / "curves.csv", index=False)
    text = write_report([tmp_path / "curves.csv"], tmp_path, KEY).read_text()
    assert (
        text.startswith(f"| {KEY} | arm |")
        and "| 12 | no_x | 2 | 0.250 ± 1.906 | 0.350 ± 0.635 | 0.250 ± 1.906 | 0.350 ± 0.635 |" in text
    )
    assert (tmp_path / "doses.png").exists() and len(pd.read_csv(tmp_path / "doses.csv")) == 4 * 3


def test_without_a_dose_the_report_begins_with_the_arms_from_the_best_to_the_worst(tmp_path: Path):
    arms = {"no_token_level_loss": [0.3, 0.1], "no_clip_higher, m=2": [0.9], "vapo_full": [0.8, 0.6]}
    curves(arms).to_csv(tmp_path / "curves.csv", index=False)
    lines = write_report([tmp_path / "curves.csv"], tmp_path).read_text().splitlines()
    assert lines[0] == "| arm | seeds | training accuracy | below vapo_full | last score | below vapo_full | paper |"
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| no_clip_higher, m=2", "| vapo_full", "| no_token_level_loss"]
    assert lines[3] == "| vapo_full | 2 | 0.700 ± 1.271 |  | 0.700 ± 1.271 |  | 60 |"
    assert lines[4] == "| no_token_level_loss | 2 | 0.200 ± 1.271 | 0.500 ± 0.000 | 0.200 ± 1.271 | 0.500 ± 0.000 | 53 |"


def test_a_setting_that_was_not_swept_is_an_error_that_names_the_arms(swept):
    with pytest.raises(ValueError, match=r"no arm's name says data.other.*no_x"):
        by_dose(swept, "data.other")


def test_a_dose_that_was_not_swept_leaves_no_files(swept, tmp_path: Path):
    swept.to_csv(tmp_path / "curves.csv", index=False)
    with pytest.raises(ValueError, match="no arm's name says"):
        write_report([tmp_path / "curves.csv"], tmp_path / "report", "data.other")
    assert not (tmp_path / "report").exists()
