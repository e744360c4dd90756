"""The switchboard: its errors, and credit against plain loops. Losses are in test_algorithm_losses.py."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from vapo.algorithms import ActorCritic

BASE = ActorCritic(whiten_advantages=False, actor_lambda=0.8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 0}, "group_size is 0; set it to 1"),
        ({"clip_low": -0.1}, "clip_low is -0.1; set it in"),
        ({"clip_low": 1.0, "clip_high": 1.0}, "clip_low is 1.0; set it in"),
        ({"clip_low": 0.3, "clip_high": 0.28}, "clip_high is 0.28, below clip_low 0.3; set clip_high to"),
        ({"dual_clip": 1.0}, "dual_clip is 1.0; set it above 1"),
        ({"mismatch": "tis"}, "mismatch is 'tis'; set it to one of truncate, mask, sequence_truncate, sequence_mask, or to null"),
        ({"mismatch_low": 0.0}, "mismatch_low is 0.0, mismatch_high 2.0; set them to 0 < low <= 1 <= high"),
        ({"mismatch_high": 0.9}, "mismatch_low is 0.5, mismatch_high 0.9; set them to 0 < low <= 1 <= high"),
        ({"loss_aggregation": "sample"}, "loss_aggregation is 'sample'; set it to token or sequence"),
        ({"positive_lm_coef": -0.1}, "positive_lm_coef is -0.1; set it to 0"),
        ({"overlong_buffer": -1, "max_response_tokens": 8}, "overlong_buffer is -1 tokens"),
        ({"overlong_buffer": 4}, "overlong_buffer is 4 tokens with max_response_tokens None; set it to 0"),
        ({"overlong_buffer": 9, "max_response_tokens": 8}, "overlong_buffer is 9 tokens with max_response_tokens 8"),
        ({"value_pretraining_steps": -1}, "value_pretraining_steps is -1; set it to 0"),
        ({"actor_lambda": 1.1}, "actor_lambda is 1.1; set it in"),
        ({"actor_lambda": -0.1}, "actor_lambda is -0.1; set it in"),
        ({"critic_lambda": 1.1}, "critic_lambda is 1.1; set it in"),
        ({"pretraining_lambda": 1.1}, "pretraining_lambda is 1.1; set it in"),
        ({"gamma": 1.01}, "gamma is 1.01; set it in"),
        ({"gamma": -1}, "gamma is -1; set it in"),
        ({"length_adaptive_alpha": 0.0}, "length_adaptive_alpha is 0.0; set it above 0"),
        ({"clip_value": 0.0}, "clip_value is 0.0; set it above 0"),
    ],
)
def test_a_field_out_of_range_says_what_to_set(changes, message):
    with pytest.raises(ValueError, match=f"^algorithm.{message}"):
        ActorCritic(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_low": 0.0, "clip_high": 0.0},
        {"overlong_buffer": 8, "max_response_tokens": 8},
        {"actor_lambda": 0.0, "critic_lambda": 1.0, "gamma": 0.0},
        {"dual_clip": 1.01, "clip_value": 0.01, "length_adaptive_alpha": 0.001},
    ],
)
def test_the_edges_of_the_ranges_are_allowed(changes):
    ActorCritic(**changes)


def outcome(batch, i, algorithm):
    """+1 or -1, and the overlong ramp (DAPO Eq 13)."""
    reward, length = 1.0 if batch.correct_B[i] else -1.0, int(batch.response_length_B[i])
    if algorithm.overlong_buffer:
        reached = length - (algorithm.max_response_tokens - algorithm.overlong_buffer)
        reward -= min(max(reached / algorithm.overlong_buffer, 0.0), 1.0)
    return reward


def estimate(reward, value_T, lam, gamma):
    """GAE as the sum of Eq 3 over discounted TD errors, not as a recursion."""
    length = len(value_T)
    next_value_T = [*value_T[1:], 0.0]
    delta_T = [(reward if t == length - 1 else 0.0) + gamma * next_value_T[t] - value_T[t] for t in range(length)]
    return [sum((gamma * lam) ** (k - t) * delta_T[k] for k in range(t, length)) for t in range(length)]


def credit(batch, algorithm, pretraining=False):
    """Advantages and targets, one flat list each."""
    advantage_R, target_R, start = [], [], 0
    for i, length in enumerate(batch.response_length_B.tolist()):
        value_T = batch.value_R[start : start + length].tolist()
        alpha, actor_lambda = algorithm.length_adaptive_alpha, algorithm.actor_lambda
        if alpha is not None:
            actor_lambda = max(0.0, 1 - 1 / (alpha * length))
        critic_lambda = actor_lambda if algorithm.critic_lambda is None else algorithm.critic_lambda
        reward = outcome(batch, i, algorithm)
        advantage_R += estimate(reward, value_T, actor_lambda, algorithm.gamma)
        target_T = estimate(reward, value_T, algorithm.pretraining_lambda if pretraining else critic_lambda, algorithm.gamma)
        target_R += [advantage + value for advantage, value in zip(target_T, value_T, strict=True)]
        start += length
    if algorithm.whiten_advantages:
        mean = sum(advantage_R) / len(advantage_R)
        variance = sum((x - mean) ** 2 for x in advantage_R) / (len(advantage_R) - 1)
        advantage_R = [(x - mean) / (variance + 1e-8) ** 0.5 for x in advantage_R]
    return advantage_R, target_R


@pytest.mark.parametrize("pretraining", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"critic_lambda": 1.0},
        {"critic_lambda": 0.3},
        {"length_adaptive_alpha": 0.3},
        {"length_adaptive_alpha": 0.3, "critic_lambda": 1.0},
        {"whiten_advantages": True},
        {"whiten_advantages": True, "length_adaptive_alpha": 0.3, "critic_lambda": 1.0},
        {"pretraining_lambda": 0.5, "critic_lambda": 1.0},
        {"pretraining_lambda": 0.0},
        {"gamma": 0.9},
        {"overlong_buffer": 4, "max_response_tokens": 8},
    ],
    ids=str,
)
def test_credit_is_its_definition(annotated, changes, pretraining):
    algorithm = replace(BASE, **changes)
    credited = algorithm.credit(annotated, pretraining=pretraining)
    advantage_R, target_R = credit(annotated, algorithm, pretraining)
    assert credited.advantage_R.tolist() == pytest.approx(advantage_R, abs=1e-5)
    assert credited.target_R.tolist() == pytest.approx(target_R, abs=1e-5)
    assert not credited.advantage_R.requires_grad and not credited.target_R.requires_grad


def test_monte_carlo_targets_are_the_outcome_whatever_the_values(annotated):
    target_R = BASE.credit(annotated, pretraining=True).target_R
    expected = annotated.correct_B.float().repeat_interleave(annotated.response_length_B) * 2 - 1
    assert_close(target_R, expected)


def test_targets_are_never_whitened(annotated):
    plain, whitened = (replace(BASE, whiten_advantages=on).credit(annotated) for on in (False, True))
    assert torch.equal(plain.target_R, whitened.target_R)
    assert not torch.allclose(plain.advantage_R, whitened.advantage_R)


def test_monte_carlo_return_is_the_reward_still_to_come(annotated):
    algorithm = replace(BASE, gamma=0.9, overlong_buffer=4, max_response_tokens=8)
    expected = []
    for i, length in enumerate(annotated.response_length_B.tolist()):
        expected += [outcome(annotated, i, algorithm) * 0.9 ** (length - 1 - t) for t in range(length)]
    assert algorithm.monte_carlo_return(annotated).tolist() == pytest.approx(expected, abs=1e-6)


def test_normalisers_count_the_whole_minibatch(annotated):
    total = BASE.normalizers(annotated)
    assert (total.tokens, total.sequences, total.positive_tokens) == (34, 8, 5 + 2 + 3 + 3)
