"""Figures of the critic, on values whose bias is known, and a head that did not move."""

import numpy as np
import pandas as pd
import pytest

from vapo.algorithms import ActorCritic
from vapo.analysis.critic_health import by_token, head_change, plot_calibration, plot_explained_variance, plot_head
from vapo.analysis.curves import load_metrics


def rollouts() -> pd.DataFrame:
    """A right response of 20 tokens, V = 0.5; a wrong one of 10, V = -1."""
    rows = [("correct", 20, 0.5), ("wrong", 10, -1.0)]
    return pd.DataFrame(
        {
            "status": [status for status, *_ in rows],
            "length": [length for _, length, _ in rows],
            "values": [np.full(length, value) for *_, length, value in rows],
            "token_ids": [np.zeros(length, dtype=np.int64) for _, length, _ in rows],
            "sampler_logprobs": [np.zeros(length) for _, length, _ in rows],
            "group": [0, 1],
            "finished": [True, True],
        }
    )


def test_tokens_have_their_return_and_place():
    tokens = by_token(rollouts(), ActorCritic())
    assert tokens["return"].tolist() == [1.0] * 20 + [-1.0] * 10
    assert tokens["tenth"].tolist() == [i // 2 for i in range(20)] + list(range(10))
    assert tokens["length"].tolist() == [20] * 20 + [10] * 10


def test_bias_and_calibration():
    calibration, position, length = plot_calibration(by_token(rollouts(), ActorCritic())).axes
    assert sorted(calibration.collections[0].get_offsets().tolist()) == [[-1.0, -1.0], [0.5, 1.0]]
    correct, wrong, both = (line.get_ydata() for line in position.lines[:3])
    assert correct == pytest.approx([-0.5] * 10) and wrong == pytest.approx([0.0] * 10) and both == pytest.approx([-1 / 3] * 10)
    assert [bar.get_height() for bar in length.patches] == pytest.approx([0.0, -0.5])  # shorter ones first


def test_explained_variance_by_tenth():
    tenths = {f"critic/explained_variance_decile_{i}": [i / 10, None] for i in range(10)}
    metrics = pd.DataFrame({"rl_step": [1, 2], "critic/explained_variance": [0.4, 0.5]} | tenths)
    curve, position, _ = plot_explained_variance(metrics).axes
    assert curve.lines[0].get_ydata().tolist() == [0.4, 0.5]
    assert position.collections[0].get_array().tolist() == [[i / 10 for i in range(10)]]


def test_head_of_a_run(tiny_sweep):
    run = tiny_sweep / "experiment=vapo_full,seed=0"
    moved = head_change(run)
    assert moved["norm before"] > 0 and moved["cosine"] < 1 - 1e-9
    still = head_change(run, critic=run / "export" / "critic")
    assert still["norm before"] == still["norm after"] and still["cosine"] == pytest.approx(1, abs=1e-12)
    weight, gradient = plot_head(load_metrics(run)).axes
    assert len(weight.lines) == len(gradient.lines) == 1
