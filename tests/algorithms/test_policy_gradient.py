"""Losses of `ActorCritic`: their definition, and that they do not depend on how a minibatch is cut."""

from dataclasses import replace
from math import exp

import pytest
import torch
from tests.algorithms.splits import cut, losses
from torch.testing import assert_close

from vapo.algorithms import ActorCritic
from vapo.micro_batches import micro_batches

VAPO = ActorCritic(clip_high=0.28, loss_aggregation="token", positive_lm_coef=0.1)
SWITCHES = [{}, {"loss_aggregation": "sequence"}, {"positive_lm_coef": 0.0}, {"dual_clip": 1.5}, {"clip_high": 0.2}]


@pytest.fixture
def logprob_R(annotated):
    """Log-probabilities that have moved far enough to be clipped at both sides."""
    return annotated.old_logprob_R + 0.6 * torch.randn(34, generator=torch.Generator().manual_seed(4))


def actor_terms(algorithm, batch, logprob_R):
    """L_PPO and L_NLL by plain loops over responses and tokens (Eq 6 to 9)."""
    per_response, nll, positive, start = [], 0.0, 0, 0
    for i, length in enumerate(batch.response_length_B.tolist()):
        losses = []
        for r in range(start, start + length):
            ratio, advantage = exp(logprob_R[r] - batch.old_logprob_R[r]), batch.advantage_R[r].item()
            clipped = min(max(ratio, 1 - algorithm.clip_low), 1 + algorithm.clip_high)
            objective = min(ratio * advantage, clipped * advantage)
            if algorithm.dual_clip is not None and advantage < 0:
                objective = max(objective, algorithm.dual_clip * advantage)
            losses.append(-objective)
            if batch.correct_B[i]:
                nll -= logprob_R[r].item()
                positive += 1
        per_response.append(losses)
        start += length
    if algorithm.loss_aggregation == "token":
        surrogate = sum(map(sum, per_response)) / sum(map(len, per_response))
    else:
        surrogate = sum(sum(row) / len(row) for row in per_response) / len(per_response)
    return surrogate, nll / positive if positive else 0.0


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_actor_loss_is_its_definition(annotated, logprob_R, changes):
    algorithm = replace(VAPO, **changes)
    (micro,) = micro_batches(annotated, 10**6)
    loss, _, _ = losses(algorithm, annotated, logprob_R, 1, "actor")
    surrogate, nll = actor_terms(algorithm, annotated, logprob_R)
    assert loss == pytest.approx(surrogate + algorithm.positive_lm_coef * nll, abs=1e-5)
    places = next(cut(annotated, 1))[1]
    watched = algorithm.actor_loss(logprob_R[places], micro, algorithm.normalizers(annotated))[1]
    assert watched["surrogate"].item() == pytest.approx(surrogate, abs=1e-5)
    assert watched["positive_nll"].item() == pytest.approx(nll, abs=1e-5)


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_actor_loss_does_not_depend_on_the_cut(annotated, logprob_R, changes, pieces):
    algorithm = replace(VAPO, **changes)
    whole, split = (losses(algorithm, annotated, logprob_R, n, "actor") for n in (1, pieces))
    assert split[0] == pytest.approx(whole[0], abs=1e-6)
    assert_close(split[1], whole[1], atol=1e-6, rtol=0)
    assert_close(split[2], whole[2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("clip_value", [None, 0.2])
@pytest.mark.parametrize("pieces", [1, 2, 4, 8])
def test_critic_loss_is_half_the_mean_squared_error_over_tokens(annotated, clip_value, pieces):
    algorithm = replace(VAPO, clip_value=clip_value, loss_aggregation="sequence")  # the actor's aggregation is not the critic's
    value_R = annotated.value_R + 0.5 * torch.randn(34, generator=torch.Generator().manual_seed(5))
    expected = 0.0
    for value, old, target in zip(value_R.tolist(), annotated.value_R.tolist(), annotated.target_R.tolist(), strict=True):
        error = (value - target) ** 2
        if clip_value is not None:
            error = max(error, (min(max(value, old - clip_value), old + clip_value) - target) ** 2)
        expected += error / 2 / 34
    loss, gradient_R, _ = losses(algorithm, annotated, value_R, pieces, "critic")
    assert loss == pytest.approx(expected, abs=1e-6)
    assert_close(gradient_R, losses(algorithm, annotated, value_R, 1, "critic")[1], atol=1e-6, rtol=0)


def test_without_clip_value_the_old_values_are_not_needed(annotated):
    (micro,) = micro_batches(replace(annotated, value_R=None), 10**6)
    VAPO.critic_loss(torch.zeros(34), micro, VAPO.normalizers(annotated))


def test_mu_0_removes_the_nll_from_the_gradient(annotated, logprob_R):
    without, doubled = (losses(replace(VAPO, positive_lm_coef=mu), annotated, logprob_R, 1, "actor") for mu in (0.0, 2.0))
    assert without[0] == pytest.approx(actor_terms(VAPO, annotated, logprob_R)[0], abs=1e-6)
    expected = torch.where(annotated.correct_B, -2.0 / 13, 0.0).repeat_interleave(annotated.response_length_B)
    assert_close(doubled[1] - without[1], expected, atol=1e-6, rtol=0)


def test_without_a_correct_response_the_nll_is_0(annotated, logprob_R):
    wrong = replace(annotated, correct_B=torch.zeros(8, dtype=torch.bool))
    with_nll, without = (losses(replace(VAPO, positive_lm_coef=mu), wrong, logprob_R, 4, "actor") for mu in (0.1, 0.0))
    assert with_nll[0] == without[0]
    assert torch.equal(with_nll[1], without[1])


def test_dual_clip_bounds_the_loss_and_stops_the_gradient(annotated):
    batch = replace(annotated, advantage_R=-annotated.advantage_R.abs() - 0.1, correct_B=torch.zeros(8, dtype=torch.bool))
    logprob_R = batch.old_logprob_R + 2.0  # a ratio of 7.4
    free, bounded = (losses(replace(VAPO, dual_clip=c), batch, logprob_R, 1, "actor") for c in (None, 3.0))
    assert bounded[0] == pytest.approx(-3 * batch.advantage_R.mean().item(), rel=1e-5)
    assert not bounded[1].any()
    assert free[0] > 2 * bounded[0]
    assert free[1].all()


def test_at_log_ratio_0_the_gradient_is_minus_the_advantage_over_the_tokens(annotated):
    algorithm = replace(VAPO, positive_lm_coef=0.0)
    _, gradient_R, _ = losses(algorithm, annotated, annotated.old_logprob_R, 4, "actor")
    assert_close(gradient_R, -annotated.advantage_R / 34)


def test_sequence_aggregation_weighs_each_response_the_same(annotated):
    algorithm = replace(VAPO, positive_lm_coef=0.0, loss_aggregation="sequence")
    _, gradient_R, _ = losses(algorithm, annotated, annotated.old_logprob_R, 4, "actor")
    length_R = annotated.response_length_B.repeat_interleave(annotated.response_length_B)
    assert_close(gradient_R, -annotated.advantage_R / (8 * length_R))


def test_watched_sums_are_over_the_tokens(annotated, logprob_R):
    (micro, place_R), *_ = cut(annotated, 1)
    watched = VAPO.actor_loss(logprob_R[place_R], micro, VAPO.normalizers(annotated))[1]
    expected = dict.fromkeys(("clip_fraction_low", "clip_fraction_high", "kl_k1", "kl_k3"), 0.0)
    for new, old, advantage in zip(
        logprob_R.tolist(), annotated.old_logprob_R.tolist(), annotated.advantage_R.tolist(), strict=True
    ):
        ratio = exp(new - old)
        expected["clip_fraction_low"] += ratio < 0.8 and advantage < 0
        expected["clip_fraction_high"] += ratio > 1.28 and advantage > 0
        expected["kl_k1"] += old - new
        expected["kl_k3"] += ratio - 1 - (new - old)
    assert {name: watched[name].item() for name in expected} == pytest.approx(expected, abs=1e-4)
    assert expected["clip_fraction_low"] > 0 and expected["clip_fraction_high"] > 0
    assert not any(x.requires_grad for x in watched.values())
