"""The curves of the seven techniques against closed forms."""

import pytest
import torch

from vapo.analysis.techniques import (
    LENGTH,
    clip_gradients,
    decoupled_gae,
    lm_push,
    mixed_groups,
    plot_techniques,
    token_weights,
    value_pretraining,
    windows,
)


def test_an_error_of_the_critic_is_blamed_on_the_last_tokens():
    right, wrong = value_pretraining().values()
    assert right.tolist() == [0.0] * LENGTH
    assert wrong.tolist() == pytest.approx([-(0.95 ** (LENGTH - 1 - t)) for t in range(LENGTH)], rel=1e-5)


def test_targets_fade_unless_lambda_is_one():
    unbiased, shared = decoupled_gae().values()
    assert unbiased.tolist() == [1.0] * LENGTH
    assert shared.tolist() == pytest.approx([0.95 ** (LENGTH - 1 - t) for t in range(LENGTH)], rel=1e-5)


def test_windows_grow_with_length():
    found = windows(torch.tensor([100, 1000]))
    assert {name: window_B.tolist() for name, window_B in found.items()} == {
        "α = 0.05": pytest.approx([5, 50], rel=1e-4),
        "α = 0.1": pytest.approx([10, 100], rel=1e-4),
        "α = 0.4": pytest.approx([40, 400], rel=1e-4),
        "λ = 0.95": pytest.approx([20, 20]),
    }


def test_clip_cuts_the_push_at_its_bounds():
    up_B, down_B = clip_gradients(torch.tensor([0.7, 1.0, 1.25, 1.3]), 0.28).values()
    assert up_B.tolist() == pytest.approx([0.7, 1.0, 1.25, 0.0])
    assert down_B.tolist() == pytest.approx([0.0, -1.0, -1.25, -1.3])
    assert clip_gradients(torch.tensor([1.25]), 0.2)["advantage 1"].tolist() == [0.0]


def test_weights_of_tokens():
    found = token_weights(torch.tensor([3, 9]))
    assert found["token"].tolist() == pytest.approx([1, 1])
    assert found["sequence"].tolist() == pytest.approx([12 / 2 / 3, 12 / 2 / 9])


def test_lm_loss_is_mu_over_p():
    assert lm_push(torch.tensor([0.1, 0.5, 1.0])).tolist() == pytest.approx([1.0, 0.2, 0.1])


def test_mixed_groups_are_what_chance_says():
    for size, share_B in zip((2, 4, 16), mixed_groups(torch.tensor([0.0, 0.1, 0.5])).values(), strict=True):
        assert share_B.tolist() == pytest.approx([1 - p**size - (1 - p) ** size for p in (0.0, 0.1, 0.5)], abs=0.02)


def test_the_figure_has_all_seven():
    assert [axis.get_title()[0] for axis in plot_techniques().axes if axis.get_visible()] == list("1234567")
