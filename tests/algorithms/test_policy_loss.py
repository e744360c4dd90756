from math import exp, inf, log

import pytest
import torch
from torch.testing import assert_close

from vapo.algorithms import clipped_surrogate, positive_example_nll, token_mean

CORRECT_B = torch.tensor([True, False, False, True, True, False, False, True])  # of 6, 1, 4 and 0 tokens


def surrogate(log_ratio, advantage, low, high):
    """VAPO Eq 8 for one token."""
    ratio = exp(log_ratio)
    clipped = 1 - low if ratio < 1 - low else 1 + high if ratio > 1 + high else ratio
    return -min(ratio * advantage, clipped * advantage)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.28), (0.2, 0.2), (0.0, 0.5)])
def test_clipped_surrogate_is_its_definition(draw, low, high):
    log_ratio_BT, advantage_BT = 0.5 * draw(), draw()
    pairs = zip(log_ratio_BT.flatten().tolist(), advantage_BT.flatten().tolist(), strict=True)
    expected = [surrogate(log_ratio, advantage, low, high) for log_ratio, advantage in pairs]
    assert clipped_surrogate(log_ratio_BT, advantage_BT, low, high).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(1.5, 1, -1.28), (1.25, 1, -1.25), (0.5, 1, -0.5), (1.5, -1, 1.5), (0.5, -1, 0.8), (0.9, -1, 0.9), (1, 3, -3), (9, 0, 0)],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss):
    assert clipped_surrogate(torch.tensor(log(ratio)), torch.tensor(float(advantage)), 0.2, 0.28).item() == pytest.approx(loss)


def test_equal_clips_are_ppo(draw):
    log_ratio_BT, advantage_BT = 0.5 * draw(), draw()
    bound_BT = torch.where(advantage_BT > 0, 1.2 * advantage_BT, 0.8 * advantage_BT)  # g(epsilon, A) of OpenAI's Spinning Up
    ppo_BT = -torch.minimum(log_ratio_BT.exp() * advantage_BT, bound_BT)
    assert_close(clipped_surrogate(log_ratio_BT, advantage_BT, 0.2, 0.2), ppo_BT)


def test_on_policy_the_loss_and_its_gradient_are_minus_the_advantage(draw):
    log_ratio_BT, advantage_BT = torch.zeros(8, 6, dtype=torch.float64, requires_grad=True), draw()
    loss_BT = clipped_surrogate(log_ratio_BT, advantage_BT, 0.2, 0.28)
    loss_BT.sum().backward()
    assert_close(loss_BT, -advantage_BT)
    assert_close(log_ratio_BT.grad, -advantage_BT)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(10, -1, 3), (10, -2, 6), (2, -1, 2), (0.5, -1, 0.8), (10, 1, -1.28), (3.5, -1, 3), (10, 0, 0)],
)
def test_dual_clip_bounds_the_loss_of_negative_advantages(ratio, advantage, loss):
    log_ratio, advantage = torch.tensor(log(ratio)), torch.tensor(float(advantage))
    assert clipped_surrogate(log_ratio, advantage, 0.2, 0.28, dual_clip=3.0).item() == pytest.approx(loss)


@pytest.mark.parametrize("log_ratio", [-1e4, -800.0, 800.0, 1e4])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_clipped_surrogate_does_not_overflow(log_ratio, advantage):
    log_ratio_BT = torch.tensor([[log_ratio]], requires_grad=True)
    loss = clipped_surrogate(log_ratio_BT, torch.tensor([[advantage]]), 0.2, 0.28).sum()
    loss.backward()
    assert abs(loss.item()) <= exp(20) * 1.001
    assert log_ratio_BT.grad.isfinite().all()


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_clipped_surrogate_ignores_junk(draw, mask_BT, assert_ignores_junk, dual_clip):
    def loss(log_ratio_BT, advantage_BT):
        return token_mean(clipped_surrogate(log_ratio_BT, advantage_BT, 0.2, 0.28, dual_clip), mask_BT, mask_BT.sum())

    assert_ignores_junk(loss, 0.5 * draw(), draw())


def positive_tokens(mask_BT):
    return int((mask_BT & CORRECT_B[:, None]).sum())


def test_positive_example_nll_is_its_definition(draw, mask_BT):
    logprob_BT = -draw().abs()
    total, tokens = 0.0, 0
    for row, correct in enumerate(CORRECT_B.tolist()):
        for t, keep in enumerate(mask_BT[row].tolist()):
            if correct and keep:
                total += logprob_BT[row, t].item()
                tokens += 1
    nll = token_mean(positive_example_nll(logprob_BT, mask_BT, CORRECT_B), mask_BT, positive_tokens(mask_BT))
    assert nll.item() == pytest.approx(-total / tokens)


def test_positive_example_nll_is_0_without_a_correct_response(draw, mask_BT):
    logprob_BT = draw().requires_grad_()
    nll = token_mean(positive_example_nll(logprob_BT, mask_BT, torch.zeros_like(CORRECT_B)), mask_BT, 0)
    nll.backward()
    assert nll.item() == 0
    assert not logprob_BT.grad.any()


def test_positive_example_nll_pushes_each_positive_token_equally_and_no_other(draw, mask_BT):
    logprob_BT = torch.where(CORRECT_B[:, None], draw(), -inf).requires_grad_()
    token_mean(positive_example_nll(logprob_BT, mask_BT, CORRECT_B), mask_BT, positive_tokens(mask_BT)).backward()
    assert_close(logprob_BT.grad, -(mask_BT & CORRECT_B[:, None]).double() / 11)


@pytest.mark.parametrize("splits", [1, 2, 4, 8])
def test_positive_example_nll_of_micro_batches_adds_up(draw, mask_BT, splits):
    logprob_BT, total = draw(), positive_tokens(mask_BT)
    parts = zip(logprob_BT.chunk(splits), mask_BT.chunk(splits), CORRECT_B.chunk(splits), strict=True)
    summed = sum(token_mean(positive_example_nll(x, mask, correct), mask, total) for x, mask, correct in parts)
    assert_close(summed, token_mean(positive_example_nll(logprob_BT, mask_BT, CORRECT_B), mask_BT, total))


def test_positive_example_nll_ignores_junk(draw, mask_BT, assert_ignores_junk):
    assert_ignores_junk(lambda logprob_BT: positive_example_nll(logprob_BT, mask_BT, CORRECT_B), draw())
