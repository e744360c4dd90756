"""GRPO and DAPO: credit and the KL term against plain loops, and settings that have no meaning."""

from dataclasses import replace
from math import exp
from statistics import mean, stdev

import pytest
import torch
from tests.algorithms.splits import cut, losses
from torch.testing import assert_close

from vapo.algorithms import ActorCritic, GroupRelative
from vapo.algorithms.diagnostics import KL_ESTIMATORS
from vapo.algorithms.group_relative import bounded_kl
from vapo.micro_batches import micro_batches
from vapo.types import MicroBatch

GRPO = GroupRelative(group_size=2, kl_coef=0.3)
DAPO = GroupRelative(
    group_size=2, clip_high=0.28, dynamic_sampling=True, loss_aggregation="token", overlong_buffer=4, max_response_tokens=8
)
ESTIMATORS = {  # value and derivative with respect to log-probability p of the policy, q of the reference (Schulman 2020)
    "k1": (lambda p, q: p - q, lambda p, q: 1.0),
    "k2": (lambda p, q: (p - q) ** 2 / 2, lambda p, q: p - q),
    "k3": (lambda p, q: exp(q - p) - 1 - (q - p), lambda p, q: 1 - exp(q - p)),
}


@pytest.fixture
def grouped(annotated):
    """The annotated batch, four groups of two, with log-probabilities under a reference policy."""
    noise_R = torch.randn(34, generator=torch.Generator().manual_seed(6))
    return annotated.replace(reference_logprob_R=annotated.old_logprob_R + 0.5 * noise_R)


@pytest.fixture
def logprob_R(annotated):
    """Log-probabilities that have moved far enough to be clipped at both sides."""
    return annotated.old_logprob_R + 0.6 * torch.randn(34, generator=torch.Generator().manual_seed(4))


def responses(batch):
    """For each response its group, correctness, and the places of its tokens."""
    start = 0
    for group, correct, length in zip(
        batch.group_B.tolist(), batch.correct_B.tolist(), batch.response_length_B.tolist(), strict=True
    ):
        yield group, correct, range(start, start + length)
        start += length


@pytest.mark.parametrize("changes", [{}, {"divide_by_std": False}, {"overlong_buffer": 4, "max_response_tokens": 8}], ids=str)
def test_every_token_gets_its_responses_advantage_within_the_group(grouped, changes):
    algorithm = replace(GRPO, **changes)
    grouped = grouped.replace(group_B=torch.tensor([1, 1, 0, 2, 0, 2, 0, 1]))  # interleaved groups of 3, 3 and 2
    rewards, members = [], {0: [], 1: [], 2: []}
    for group, correct, places in responses(grouped):
        overlong = min(max((len(places) - 4) / 4, 0), 1) if algorithm.overlong_buffer else 0
        rewards.append((1 if correct else -1) - overlong)
        members[group].append(rewards[-1])
    expected = []
    for reward, (group, _, places) in zip(rewards, responses(grouped), strict=True):
        scale = stdev(members[group]) + 1e-6 if algorithm.divide_by_std else 1
        expected += [(reward - mean(members[group])) / scale] * len(places)
    credited = algorithm.credit(grouped)
    assert credited.advantage_R.tolist() == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) > 4 and credited.target_R is grouped.target_R


def test_credit_needs_no_values_and_cannot_pretrain_a_critic(batch):
    assert GRPO.credit(batch).advantage_R is not None
    assert not GRPO.needs_critic and ActorCritic.needs_critic
    with pytest.raises(AssertionError, match="no critic to pretrain"):
        GRPO.credit(batch, pretraining=True)


def weights(batch, aggregation):
    """What one token weighs in the loss: 1 over all tokens, or 1 over responses and its response's tokens."""
    if aggregation == "token":
        return [1 / 34] * 34
    return [1 / (8 * len(places)) for _, _, places in responses(batch) for _ in places]


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_kl_term_and_its_gradient_are_their_definition(grouped, logprob_R, estimator, aggregation):
    algorithm = replace(GRPO, kl_estimator=estimator, loss_aggregation=aggregation)
    without, with_kl = (losses(replace(algorithm, kl_coef=coef), grouped, logprob_R, 1, "actor") for coef in (0.0, 0.3))
    value, derivative = ESTIMATORS[estimator]
    pairs = list(zip(logprob_R.tolist(), grouped.reference_logprob_R.tolist(), strict=True))
    weight_R = weights(grouped, aggregation)
    expected = sum(weight * value(p, q) for weight, (p, q) in zip(weight_R, pairs, strict=True))
    assert with_kl[0] - without[0] == pytest.approx(0.3 * expected, abs=1e-6)
    gradient_R = torch.tensor([0.3 * weight * derivative(p, q) for weight, (p, q) in zip(weight_R, pairs, strict=True)])
    assert_close(with_kl[1] - without[1], gradient_R, atol=1e-6, rtol=0)
    assert gradient_R.abs().min() > 0


@pytest.mark.parametrize("log_ratio", [200.0, -200.0])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_token_far_from_the_initial_policy_costs_a_bounded_kl_and_pulls_no_more(grouped, logprob_R, estimator, log_ratio):
    """exp(200) is infinite in float32, and one such token made every gradient nan."""
    reference_R = grouped.reference_logprob_R.clone()
    reference_R[5] = logprob_R[5] + log_ratio
    far = grouped.replace(reference_logprob_R=reference_R)
    algorithm = replace(GRPO, kl_estimator=estimator, loss_aggregation="token")
    (without, gradient_R, _), (with_kl, kl_gradient_R, sums) = (
        losses(replace(algorithm, kl_coef=coef), far, logprob_R, 1, "actor") for coef in (0.0, 0.3)
    )
    near = losses(algorithm, grouped, logprob_R, 1, "actor")
    assert kl_gradient_R[5] == gradient_R[5] and sums.isfinite().all()
    others = torch.arange(34) != 5
    assert torch.equal(kl_gradient_R[others], near[1][others])
    value = ESTIMATORS[estimator][0]
    expected = sum(value(p, q) for i, (p, q) in enumerate(zip(logprob_R.tolist(), reference_R.tolist(), strict=True)) if i != 5)
    limit = -10 if estimator == "k1" and log_ratio > 0 else 10
    assert with_kl - without == pytest.approx(0.3 * (expected + limit) / 34, abs=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_small_kl_is_not_changed_by_its_limits(estimator):
    log_ratio_BT = torch.linspace(-2.5, 2.5, 1001)[None]
    found, plain = (kl(log_ratio_BT) for kl in (lambda x: bounded_kl(x, estimator), KL_ESTIMATORS[estimator]))
    assert torch.equal(found, plain)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_the_loss_does_not_depend_on_the_cut(grouped, logprob_R, estimator, aggregation, pieces):
    algorithm = replace(GRPO, kl_estimator=estimator, loss_aggregation=aggregation, positive_lm_coef=0.1)
    whole, split = (losses(algorithm, grouped, logprob_R, n, "actor") for n in (1, pieces))
    assert split[0] == pytest.approx(whole[0], abs=1e-6)
    assert_close(split[1], whole[1], atol=1e-6, rtol=0)
    assert_close(split[2], whole[2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_watched_kl_is_a_sum_over_tokens_without_gradient_or_weight(grouped, logprob_R, estimator):
    (micro, place_R), *_ = cut(grouped, 1)
    algorithm = replace(GRPO, kl_estimator=estimator)
    watched = algorithm.actor_loss(logprob_R[place_R].requires_grad_(), micro, algorithm.normalizers(grouped))[1]
    value = ESTIMATORS[estimator][0]
    expected = sum(value(p, q) for p, q in zip(logprob_R.tolist(), grouped.reference_logprob_R.tolist(), strict=True))
    assert watched["kl_reference"].item() == pytest.approx(expected, abs=1e-4)
    assert not watched["kl_reference"].requires_grad


def test_the_initial_policy_has_no_kl_and_only_k1_pulls_on_it(grouped):
    same = grouped.replace(reference_logprob_R=grouped.old_logprob_R)
    for estimator, gradient in (("k1", 0.3 / 34), ("k2", 0.0), ("k3", 0.0)):
        algorithm = replace(GRPO, kl_estimator=estimator, loss_aggregation="token")
        without, with_kl = (losses(replace(algorithm, kl_coef=coef), same, same.old_logprob_R, 1, "actor") for coef in (0.0, 0.3))
        assert with_kl[0] == without[0]
        assert_close(with_kl[1] - without[1], torch.full((34,), gradient), atol=1e-8, rtol=0)


def test_without_kl_the_reference_is_neither_needed_nor_read(grouped, logprob_R):
    algorithm = replace(GRPO, kl_coef=0.0)
    assert GRPO.needs_reference and not algorithm.needs_reference and not DAPO.needs_reference
    found = [
        losses(algorithm, grouped.replace(reference_logprob_R=reference_R), logprob_R, 2, "actor")
        for reference_R in (grouped.reference_logprob_R, torch.full((34,), float("nan")), None)
    ]
    assert found[0][0] == found[1][0] == found[2][0]
    assert torch.equal(found[0][1], found[1][1]) and torch.equal(found[0][1], found[2][1])
    (micro,) = micro_batches(grouped, 10**6)
    assert "kl_reference" not in algorithm.actor_loss(micro.part.old_logprob_R, micro, algorithm.normalizers(grouped))[1]


def test_with_kl_a_missing_reference_is_an_error(grouped):
    (micro,) = micro_batches(grouped.replace(reference_logprob_R=None), 10**6)
    with pytest.raises(AssertionError, match="no reference_logprob_R yet"):
        GRPO.actor_loss(micro.part.old_logprob_R, micro, GRPO.normalizers(grouped))


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -1e9], ids=str)
def test_padding_may_hold_anything(grouped, logprob_R, junk, aggregation):
    class JunkPadded(MicroBatch):
        def pad(self, x_R):
            return torch.full(self.mask_BT.shape, junk).masked_scatter(self.mask_BT, x_R)

    algorithm = replace(GRPO, loss_aggregation=aggregation, positive_lm_coef=0.1)
    (micro, place_R), *_ = cut(grouped, 1)
    found = []
    for piece in (micro, JunkPadded(**vars(micro))):
        x_R = logprob_R[place_R].requires_grad_()
        loss, watched = algorithm.actor_loss(x_R, piece, algorithm.normalizers(grouped))
        loss.backward()
        found.append((loss, x_R.grad, watched))
    assert_close(found[1], found[0], rtol=0, atol=0)
    assert found[0][1].isfinite().all()


def test_without_kl_the_loss_is_that_of_an_actor_critic_with_the_same_advantages(grouped, logprob_R):
    grpo = replace(DAPO, positive_lm_coef=0.1, dual_clip=1.5)
    ppo = ActorCritic(clip_high=0.28, loss_aggregation="token", positive_lm_coef=0.1, dual_clip=1.5)
    mine, theirs = (losses(algorithm, grouped, logprob_R, 4, "actor") for algorithm in (grpo, ppo))
    assert mine[0] == theirs[0] and torch.equal(mine[1], theirs[1])


def test_dapo_with_its_five_switches_set_back_is_grpo(grouped, logprob_R):
    back = {"clip_high": 0.2, "dynamic_sampling": False, "loss_aggregation": "sequence", "overlong_buffer": 0, "kl_coef": 0.3}
    again = replace(DAPO, **back)
    mine, theirs = (algorithm.credit(grouped) for algorithm in (again, GRPO))
    assert torch.equal(mine.advantage_R, theirs.advantage_R)
    assert not torch.equal(mine.advantage_R, DAPO.credit(grouped).advantage_R)
    assert losses(again, mine, logprob_R, 2, "actor")[0] == losses(GRPO, theirs, logprob_R, 2, "actor")[0]
    for name in set(back) - {"dynamic_sampling", "overlong_buffer"}:  # these two act before the loss
        four = replace(again, **{name: getattr(DAPO, name)})
        assert losses(four, mine, logprob_R, 2, "actor")[0] != losses(GRPO, theirs, logprob_R, 2, "actor")[0], name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "group_size is 1: a group is its own baseline, so it needs 2 responses or more"),
        ({"group_size": 0}, "group_size is 0; set it to 1"),
        ({"kl_coef": -0.1}, r"kl_coef is -0.1; set it to 0 \(off\) or more"),
        ({"kl_estimator": "k4"}, "kl_estimator is 'k4'; set it to one of k1, k2, k3"),
        ({"max_draws": 0}, r"max_draws is 0; set it to 1 \(no refill\) or more"),
        ({"clip_high": 0.1}, "clip_high is 0.1, below clip_low"),
        ({"loss_aggregation": "group"}, "loss_aggregation is 'group'; set it to token or sequence"),
        ({"overlong_buffer": 4}, "overlong_buffer is 4 tokens with max_response_tokens None; set it to 0"),
    ],
)
def test_a_field_out_of_range_says_what_to_set(changes, message):
    with pytest.raises(ValueError, match=f"^algorithm.{message}"):
        GroupRelative(**changes)


def test_dynamic_sampling_needs_groups_in_any_family():
    with pytest.raises(ValueError, match=r"^algorithm\.dynamic_sampling .*; set algorithm\.group_size to 2 or more"):
        ActorCritic(group_size=1, dynamic_sampling=True)
    ActorCritic(group_size=2, dynamic_sampling=True, max_draws=1)
