"""The knob suite: turning a field of an algorithm changes loss, gradient, advantages or targets by what its equation predicts.

One function a field, named like it; a field without one fails. Whatever goes through a loss is computed with the minibatch
cut into 1, 2, 4 and 8 micro-batches, and must come out the same.
"""

from dataclasses import fields, replace
from math import log

import pytest
import tests.algorithms.knobs_of_mismatch
import tests.algorithms.knobs_of_the_loop  # noqa: F401  (both register their own)
import torch
from tests.algorithms.knobs import (
    BOTH,
    KNOBS,
    PLAIN,
    TOKENS,
    advantages,
    constant_critic,
    knob,
    loss_and_gradient,
    moved,
    near,
    places,
    targets,
)
from tests.algorithms.splits import losses
from torch.testing import assert_close

from vapo.algorithms import ActorCritic, GroupRelative

# --- the surrogate and its reduction ---------------------------------------------------------------------------------------


@knob(*BOTH)
def clip_low(plain, batch, _):
    """-clip(r) A with A < 0: a ratio below the bound costs what the bound costs, and has no gradient."""
    assert moved(replace(plain, clip_low=0.2), batch, -1, 0.5) == (0.8, 0.0)
    assert moved(replace(plain, clip_low=0.4, clip_high=0.4), batch, -1, 0.5) == (0.6, 0.0)
    assert moved(replace(plain, clip_low=0.6, clip_high=0.6), batch, -1, 0.5) == (0.5, 0.5)


@knob(*BOTH)
def clip_high(plain, batch, _):
    """The same from above with A > 0; between plain clipping and clip-higher a token still has its gradient."""
    assert moved(replace(plain, clip_high=0.2), batch, 1, 1.25) == (-1.2, 0.0)
    assert moved(replace(plain, clip_high=0.28), batch, 1, 1.25) == (-1.25, -1.25)
    assert moved(replace(plain, clip_high=0.28), batch, 1, 1.5) == (-1.28, 0.0)


@knob(*BOTH)
def dual_clip(plain, batch, _):
    """With A < 0 the loss is at most c |A|; with A > 0 nothing changes."""
    assert moved(plain, batch, -1, 5.0) == (5.0, 5.0)
    assert moved(replace(plain, dual_clip=3.0), batch, -1, 5.0) == (3.0, 0.0)
    assert moved(replace(plain, dual_clip=6.0), batch, -1, 5.0) == (5.0, 5.0)
    assert moved(replace(plain, dual_clip=3.0), batch, 1, 5.0) == (-1.2, 0.0)


@knob(*BOTH)
def loss_aggregation(plain, batch, _):
    """At ratio 1 the gradient is minus the advantage times a token's weight: 1/34, or 1/8 of 1/length."""
    advantage_R = batch.advantage_R.tolist()
    _, gradient_R = loss_and_gradient(replace(plain, loss_aggregation="token"), batch)
    assert gradient_R.tolist() == near(-a / 34 for a in advantage_R)
    _, gradient_R = loss_and_gradient(replace(plain, loss_aggregation="sequence"), batch)
    assert gradient_R.tolist() == near(-a / (8 * length) for a, (_, length, _) in zip(advantage_R, places(batch), strict=True))


@knob(*BOTH)
def positive_lm_coef(plain, batch, _):
    """Adds mu times the mean negative log-likelihood over the 13 tokens of correct responses, however the surrogate is reduced."""
    for aggregation in ("token", "sequence"):
        base = replace(plain, loss_aggregation=aggregation)
        without = loss_and_gradient(base, batch)
        correct_R = [outcome > 0 for outcome, _, _ in places(batch)]
        nll = -sum(logprob for logprob, correct in zip(batch.old_logprob_R.tolist(), correct_R, strict=True) if correct) / 13
        for mu in (0.1, 0.5):
            with_lm = loss_and_gradient(replace(base, positive_lm_coef=mu), batch)
            assert with_lm[0] - without[0] == pytest.approx(mu * nll, abs=1e-5)
            assert (with_lm[1] - without[1]).tolist() == near(-mu / 13 if correct else 0.0 for correct in correct_R)


# --- credit ----------------------------------------------------------------------------------------------------------------


@knob(ActorCritic)
def actor_lambda(plain, batch, _):
    """Under a constant critic only the last TD error is not 0: A_t = lambda^(l-1-t) (R - V)."""
    batch = constant_critic(batch)
    for lam in (0.0, 0.5, 0.95, 1.0):
        expected = (lam ** (length - 1 - t) * (outcome - 0.25) for outcome, length, t in places(batch))
        assert advantages(replace(plain, actor_lambda=lam, critic_lambda=0.7), batch) == near(expected)


@knob(ActorCritic)
def critic_lambda(plain, batch, _):
    """Under a constant critic a target is V + lambda^(l-1-t) (R - V); null is the actor's lambda, and no advantage changes."""
    batch = constant_critic(batch)
    for lam in (None, 0.0, 0.5, 1.0):
        turned, used = replace(plain, critic_lambda=lam, actor_lambda=0.8), 0.8 if lam is None else lam
        expected = (0.25 + used ** (length - 1 - t) * (outcome - 0.25) for outcome, length, t in places(batch))
        assert targets(turned, batch) == near(expected)
        assert advantages(turned, batch) == advantages(replace(turned, critic_lambda=0.3), batch)


@knob(ActorCritic)
def pretraining_lambda(plain, batch, _):
    """As critic_lambda, in value pretraining; after it nothing changes."""
    batch = constant_critic(batch)
    for lam in (0.0, 0.5, 1.0):
        turned = replace(plain, pretraining_lambda=lam, critic_lambda=0.7)
        expected = (0.25 + lam ** (length - 1 - t) * (outcome - 0.25) for outcome, length, t in places(batch))
        assert turned.credit(batch, pretraining=True).target_R.tolist() == near(expected)
        assert targets(turned, batch) == targets(replace(plain, critic_lambda=0.7), batch)


@knob(ActorCritic)
def length_adaptive_alpha(plain, batch, _):
    """As actor_lambda, with 1 - 1 / (alpha l) of each response: 0, never below, where alpha l is less than 1."""
    batch = constant_critic(batch)
    for alpha in (0.05, 0.3, 1.0):
        lam = {length: max(0.0, 1 - 1 / (alpha * length)) for _, length, _ in places(batch)}
        expected = (lam[length] ** (length - 1 - t) * (outcome - 0.25) for outcome, length, t in places(batch))
        assert advantages(replace(plain, length_adaptive_alpha=alpha), batch) == near(expected)


@knob(ActorCritic)
def gamma(plain, batch, _):
    """Under a critic that knows nothing, advantages are (gamma lambda)^(l-1-t) R and Monte-Carlo targets gamma^(l-1-t) R."""
    batch = constant_critic(batch, 0.0)
    for discount in (0.0, 0.6, 1.0):
        turned = replace(plain, gamma=discount, actor_lambda=0.9, critic_lambda=1.0)
        left = [(outcome, length - 1 - t) for outcome, length, t in places(batch)]
        assert advantages(turned, batch) == near((0.9 * discount) ** steps * outcome for outcome, steps in left)
        assert targets(turned, batch) == near(discount**steps * outcome for outcome, steps in left)


@knob(ActorCritic)
def whiten_advantages(plain, batch, _):
    """With lambda 1 and no values the advantages are the outcomes, 13 tokens of +1 and 21 of -1, or those over their spread."""
    batch, outcomes = constant_critic(batch, 0.0), [outcome for outcome, _, _ in places(batch)]
    turned = replace(plain, actor_lambda=1.0, critic_lambda=0.5)
    assert advantages(replace(turned, whiten_advantages=False), batch) == near(outcomes)
    mean = (13 - 21) / 34
    deviation = ((13 * (1 - mean) ** 2 + 21 * (1 + mean) ** 2) / 33) ** 0.5
    assert advantages(replace(turned, whiten_advantages=True), batch) == near((x - mean) / deviation for x in outcomes)


@knob(ActorCritic)
def clip_value(plain, batch, _):
    """A value that moved 0.5 from the old one towards a target 1 away: half of 0.5^2, or of (1 - clip)^2 without gradient."""
    batch = batch.replace(target_R=batch.value_R + 1)
    for clip, loss, gradient in ((None, 0.125, -0.5), (0.2, 0.32, 0.0), (0.4, 0.18, 0.0), (0.6, 0.125, -0.5)):
        turned = replace(plain, clip_value=clip)
        for pieces in (1, 2, 4, 8):
            found = losses(turned, batch, batch.value_R + 0.5, pieces, "critic")
            assert found[0] == pytest.approx(loss, abs=1e-5)
            assert_close(found[1], torch.full((TOKENS,), gradient / TOKENS), atol=1e-6, rtol=0)


def overlong(plain, batch, buffer, limit):
    """What the soft punishment takes from the reward of each response."""
    ramp = replace(plain, overlong_buffer=buffer, max_response_tokens=limit)
    return (ramp.reward(batch) - plain.reward(batch)).tolist()


@knob(*BOTH)
def overlong_buffer(plain, batch, _):
    """A ramp from 0 at limit - buffer to -1 at the limit, on the reward and so on the advantages."""
    assert overlong(plain, batch, 4, 8) == near([-1 / 4, 0, -1, 0, 0, -3 / 4, 0, 0])  # lengths 5 1 9 2 4 7 3 3
    assert overlong(plain, batch, 8, 8) == near([-5 / 8, -1 / 8, -1, -2 / 8, -4 / 8, -7 / 8, -3 / 8, -3 / 8])
    turned = replace(plain, overlong_buffer=4, max_response_tokens=8)
    if isinstance(plain, ActorCritic):
        expected = [0.75, -1, -2, 1, -1, -1.75, 1, 1]
        turned, batch = replace(turned, actor_lambda=1.0), constant_critic(batch, 0.0)
    else:
        expected = [0.875, -0.875, -1.5, 1.5, 0.375, -0.375, 0, 0]  # less the mean of each pair
        turned = replace(turned, divide_by_std=False)
    assert advantages(turned, batch) == near(torch.tensor(expected).repeat_interleave(batch.response_length_B).tolist())


@knob(*BOTH)
def max_response_tokens(plain, batch, _):
    """Moves the end of that ramp."""
    assert overlong(plain, batch, 4, 10) == near([0, 0, -3 / 4, 0, 0, -1 / 4, 0, 0])
    assert overlong(plain, batch, 4, 6) == near([-3 / 4, 0, -1, 0, -2 / 4, -1, -1 / 4, -1 / 4])


@knob(GroupRelative)
def divide_by_std(plain, batch, _):
    """A pair of one right and one wrong response has the standard deviation sqrt(2); pairs of equal ones have no advantage."""
    centred = torch.tensor([1.0, -1, -1, 1, 0, 0, 0, 0]).repeat_interleave(batch.response_length_B)
    assert advantages(replace(plain, divide_by_std=False), batch) == near(centred.tolist())
    assert advantages(replace(plain, divide_by_std=True), batch) == near((centred / 2**0.5).tolist())


# --- the reference policy ----------------------------------------------------------------------------------------------------


@knob(GroupRelative)
def kl_coef(plain, batch, _):
    """Where the reference is twice as likely everywhere, k3 is 2 - 1 - log 2, and its gradient 1 - 2."""
    batch = batch.replace(reference_logprob_R=batch.old_logprob_R + log(2))
    without = loss_and_gradient(plain, batch)
    for beta in (0.001, 0.5):
        with_kl = loss_and_gradient(replace(plain, kl_coef=beta), batch)
        assert with_kl[0] - without[0] == pytest.approx(beta * (1 - log(2)), abs=1e-5)
        assert (with_kl[1] - without[1]).tolist() == near([-beta / TOKENS] * TOKENS)


@knob(GroupRelative)
def kl_estimator(plain, batch, _):
    """There k1 is -log 2 with gradient 1, and k2 half of log(2) squared with gradient -log 2."""
    batch = batch.replace(reference_logprob_R=batch.old_logprob_R + log(2))
    without = loss_and_gradient(plain, batch)
    for name, value, gradient in (("k1", -log(2), 1), ("k2", log(2) ** 2 / 2, -log(2)), ("k3", 1 - log(2), -1)):
        with_kl = loss_and_gradient(replace(plain, kl_coef=0.5, kl_estimator=name), batch)
        assert with_kl[0] - without[0] == pytest.approx(0.5 * value, abs=1e-5)
        assert (with_kl[1] - without[1]).tolist() == near([0.5 * gradient / TOKENS] * TOKENS)


# --- the suite ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in KNOBS for name in KNOBS[family]])
def test_turning_a_knob_does_what_its_equation_says(family, name, annotated, tmp_path):
    KNOBS[family][name](PLAIN[family], annotated, tmp_path)


@pytest.mark.parametrize("family", KNOBS)
def test_every_field_has_a_test(family):
    assert set(KNOBS[family]) == {field.name for field in fields(family)}
