from statistics import pvariance

import pytest
import torch
from torch.testing import assert_close

from vapo.algorithms import explained_variance, explained_variance_sums, token_mean, value_loss


def test_value_loss_is_half_the_squared_error(draw):
    value_BT, target_BT = draw(), draw()
    pairs = zip(value_BT.flatten().tolist(), target_BT.flatten().tolist(), strict=True)
    assert value_loss(value_BT, target_BT).flatten().tolist() == pytest.approx([(v - g) ** 2 / 2 for v, g in pairs])


def test_clipped_value_loss_is_its_definition(draw):
    value_BT, target_BT, old_value_BT = draw(), draw(), draw()
    expected = []
    for value, target, old in zip(*(x.flatten().tolist() for x in (value_BT, target_BT, old_value_BT)), strict=True):
        clipped = old - 0.5 if value < old - 0.5 else old + 0.5 if value > old + 0.5 else value
        expected.append(0.5 * max((value - target) ** 2, (clipped - target) ** 2))
    assert value_loss(value_BT, target_BT, old_value_BT, 0.5).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient"),
    [
        (1, 2, 1.125, 0),
        (1, -1, 2, 2),
        (0.3, 1, 0.245, -0.7),
    ],  # moved past the clip towards the target; away from it; within the clip
)
def test_clipped_value_loss_stops_the_gradient_only_towards_the_target(value, target, loss, gradient):
    value = torch.tensor(float(value), requires_grad=True)
    clipped = value_loss(value, torch.tensor(float(target)), torch.tensor(0.0), clip_value=0.5)
    clipped.backward()
    assert (clipped.item(), value.grad.item()) == pytest.approx((loss, gradient))


def test_a_wide_clip_is_no_clip(draw):
    value_BT, target_BT, old_value_BT = draw(), draw(), draw()
    assert_close(value_loss(value_BT, target_BT, old_value_BT, 100.0), value_loss(value_BT, target_BT))
    assert_close(value_loss(value_BT, target_BT, old_value_BT, None), value_loss(value_BT, target_BT))


@pytest.mark.parametrize(("inputs", "clip_value"), [(2, None), (3, 0.5)])
def test_value_loss_ignores_junk(draw, mask_BT, assert_ignores_junk, inputs, clip_value):
    def loss(*value_target_old_BT):
        return token_mean(value_loss(*value_target_old_BT, clip_value=clip_value), mask_BT, mask_BT.sum())

    assert_ignores_junk(loss, *[draw() for _ in range(inputs)])


def explained(value_BT, return_BT, mask_BT):
    return explained_variance(explained_variance_sums(value_BT, return_BT, mask_BT)).item()


def test_explained_variance_is_its_definition(draw, mask_BT):
    return_BT = draw()
    value_BT = return_BT + 0.5 * draw() + 0.3
    errors = [r - v for r, v in zip(return_BT[mask_BT].tolist(), value_BT[mask_BT].tolist(), strict=True)]
    expected = 1 - pvariance(errors) / pvariance(return_BT[mask_BT].tolist())
    assert explained(value_BT, return_BT, mask_BT) == pytest.approx(expected)


def test_explained_variance_sums_are_n_r_r2_error_and_error2():
    value_BT, return_BT, mask_BT = (
        torch.tensor([[1.0, 2.0, 9.0]]),
        torch.tensor([[3.0, 5.0, 9.0]]),
        torch.tensor([[True, True, False]]),
    )
    sums = explained_variance_sums(value_BT, return_BT, mask_BT)
    assert sums.tolist() == [2, 3 + 5, 9 + 25, 2 + 3, 4 + 9]
    assert sums.dtype == torch.float64


@pytest.mark.parametrize("offset", [0.0, 0.7, -100.0])
def test_explained_variance_is_1_for_a_perfect_critic_and_0_for_a_constant(draw, mask_BT, offset):
    return_BT = draw()
    assert explained(return_BT + offset, return_BT, mask_BT) == pytest.approx(1)
    assert explained(torch.full_like(return_BT, offset), return_BT, mask_BT) == pytest.approx(0, abs=1e-9)


def test_explained_variance_is_negative_for_a_critic_worse_than_a_constant(draw, mask_BT):
    return_BT = draw()
    assert explained(-return_BT, return_BT, mask_BT) == pytest.approx(-3)


@pytest.mark.parametrize("return_", [-1.0, 0.0, 0.1, 1.0])
def test_explained_variance_is_0_where_there_is_nothing_to_explain(draw, mask_BT, return_):
    return_BT = torch.full_like(draw(), return_)
    assert explained(draw(), return_BT, mask_BT) == 0
    assert explained(return_BT, return_BT, mask_BT) == 0
    assert explained(return_BT, return_BT, torch.zeros_like(mask_BT)) == 0


@pytest.mark.parametrize("splits", [1, 2, 4, 8])
def test_explained_variance_sums_add_up_over_micro_batches_and_ranks(draw, mask_BT, splits):
    value_BT, return_BT = draw(), draw()
    parts = zip(value_BT.chunk(splits), return_BT.chunk(splits), mask_BT.chunk(splits), strict=True)
    together = explained_variance(torch.stack([explained_variance_sums(*part) for part in parts]).sum(0))
    assert together.item() == pytest.approx(explained(value_BT, return_BT, mask_BT))


def test_explained_variance_ignores_junk(draw, mask_BT, assert_ignores_junk):
    assert_ignores_junk(lambda v_BT, r_BT: explained_variance(explained_variance_sums(v_BT, r_BT, mask_BT)), draw(), draw())
