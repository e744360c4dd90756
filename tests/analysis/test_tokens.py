"""From the rollout log: advantages are those that the run computed, and the response shown is one that teaches something."""

import numpy as np
import pandas as pd
import pytest

from vapo.algorithms import ActorCritic, GroupRelative
from vapo.analysis.tokens import advantages, instructive, load_algorithm, load_rollouts, plot_credit, slips


@pytest.mark.parametrize("experiment", ["vapo_full", "ppo_vanilla", "grpo"])
def test_a_run_s_own_algorithm_gives_the_advantages_that_it_logged(experiment, tiny_sweep):
    run = tiny_sweep / f"experiment={experiment},seed=0"
    rollouts, algorithm = load_rollouts(run), load_algorithm(run)
    assert type(algorithm) is (GroupRelative if experiment == "grpo" else ActorCritic)
    for ours, logged in zip(advantages(rollouts, algorithm), rollouts["advantages"], strict=True):
        assert ours == pytest.approx(logged.tolist(), abs=1e-6)


def test_other_algorithms_on_the_same_responses(tiny_sweep):
    rollouts = load_rollouts(tiny_sweep / "experiment=vapo_full,seed=0")
    vapo, ppo, grpo = (
        advantages(rollouts, load_algorithm(tiny_sweep / f"experiment={name},seed=0"))
        for name in ("vapo_full", "ppo_vanilla", "grpo")
    )
    assert vapo != ppo
    assert all(len(set(advantage_T)) == 1 for advantage_T in grpo)


def response(text: str, status: str = "wrong") -> dict[str, object]:
    return {"prompt": "7-3+5+9:", "reference": "8", "response": text, "status": status, "length": len(text) + 1}


def test_slips_are_at_their_tokens():
    assert slips(response("7-3=4;4+5=?9;9+9=?;A7")) == {10: True, 17: False}
    assert slips(response("7-3=4") | {"prompt": "What is 7 minus 3?"}) == {}


def test_the_response_shown_is_wrong_and_goes_on_after_a_slip_that_stays():
    texts = [
        ("7-3=4;4+5=9;9+9=8;A8", "correct"),
        ("7-3=4;4+5=9;9+9=?;A9", "wrong"),
        ("7-3=?;7+5=2;2+9=1;A1", "wrong"),
        ("A1", "wrong"),
    ]
    assert instructive(pd.DataFrame([response(*row) for row in texts])) == 2
    assert instructive(pd.DataFrame([response(*row) for row in (*texts[:1], texts[3])])) == 1  # no slips: a wrong one
    assert instructive(pd.DataFrame([response(*row) for row in texts[:1]])) == 0


def test_figure_has_values_only_where_there_was_a_critic():
    row = response("7-3=?;7+5=2;2+9=1;A1") | {"reward": -1.0}
    credit = {"grpo": [-1.0] * row["length"], "vapo_full": np.linspace(-1, 0, row["length"])}
    assert len(plot_credit(row, credit).axes) == 1
    above, below = plot_credit(row | {"values": np.zeros(row["length"])}, credit).axes
    assert [line.get_label() for line in below.lines[:2]] == ["GRPO", "VAPO"]
    assert below.lines[0].get_ydata().tolist() == credit["grpo"]
    assert [line.get_xdata()[0] for line in above.lines if line.get_color() == "tab:red"] == [4]


@pytest.mark.parametrize(
    "prompt", [r"Solve $\begin{pmatrix} 1 \end{pmatrix}$ for $x$.", "pays $5 and gets 10% of $3 back_", "long " * 1000]
)
def test_a_prompt_is_a_title_whatever_it_says(prompt):
    response = {"prompt": prompt, "status": "wrong", "reference": "$8$", "length": 2, "response": "AB", "reward": -1.0}
    figure = plot_credit(response, {"grpo": [0.5, 0.5]})
    figure.canvas.draw()
    assert figure.axes[0].get_title().endswith("wrong, the answer is $8$") and len(figure.axes[0].get_title()) < 250


def test_a_run_without_rollouts_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no rollouts in"):
        load_rollouts(tmp_path)
