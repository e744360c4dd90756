from statistics import pvariance

import pytest
import torch
from torch.testing import assert_close

from vapo.algorithms import centred_sums, explained_variance, explained_variance_sums, token_mean, value_loss


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


@pytest.fixture
def draw_tokens(draw, mask_BT):
    """`draw_tokens()`: another normal number for each of 18 flat tokens."""
    return lambda: draw()[mask_BT]


def explained(value_R, return_R):
    return explained_variance(explained_variance_sums(value_R, return_R)).item()


def test_explained_variance_is_its_definition(draw_tokens):
    return_R = draw_tokens()
    value_R = return_R + 0.5 * draw_tokens() + 0.3
    errors = [r - v for r, v in zip(return_R.tolist(), value_R.tolist(), strict=True)]
    assert explained(value_R, return_R) == pytest.approx(1 - pvariance(errors) / pvariance(return_R.tolist()))


def test_explained_variance_sums_are_n_r_r2_error_and_error2():
    sums = explained_variance_sums(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]))
    assert sums.tolist() == [2, 3 + 5, 9 + 25, 2 + 3, 4 + 9]
    assert sums.dtype == torch.float64


def test_explained_variance_sums_of_segments_are_those_of_each_segments_tokens(draw_tokens):
    value_R, return_R, lengths = draw_tokens().float(), draw_tokens().float(), [0, 3, 9, 0, 1, 11, 0]
    sums_S5 = explained_variance_sums(value_R, return_R, torch.tensor(lengths))
    expected_S5 = [explained_variance_sums(*pair) for pair in zip(value_R.split(lengths), return_R.split(lengths), strict=True)]
    assert_close(sums_S5, torch.stack(expected_S5), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 0.7, -100.0])
def test_explained_variance_is_1_for_a_perfect_critic_and_0_for_a_constant(draw_tokens, offset):
    return_R = draw_tokens()
    assert explained(return_R + offset, return_R) == pytest.approx(1)
    assert explained(torch.full_like(return_R, offset), return_R) == pytest.approx(0, abs=1e-9)


def test_explained_variance_is_negative_for_a_critic_worse_than_a_constant(draw_tokens):
    return_R = draw_tokens()
    assert explained(-return_R, return_R) == pytest.approx(-3)


@pytest.mark.parametrize("return_", [-1.0, 0.0, 0.1, 1.0])
def test_explained_variance_is_0_where_there_is_nothing_to_explain(draw_tokens, return_):
    return_R = torch.full_like(draw_tokens(), return_)
    assert explained(draw_tokens(), return_R) == 0
    assert explained(return_R, return_R) == 0
    assert explained(return_R[:0], return_R[:0]) == 0


@pytest.mark.parametrize("splits", [1, 2, 4, 8])
def test_explained_variance_sums_add_up_over_micro_batches_and_ranks(draw_tokens, splits):
    value_R, return_R = draw_tokens(), draw_tokens()
    parts = zip(value_R.chunk(splits), return_R.chunk(splits), strict=True)
    together = explained_variance(torch.stack([explained_variance_sums(*part) for part in parts]).sum(0))
    assert together.item() == pytest.approx(explained(value_R, return_R))


def test_centred_sums_are_of_the_problems_with_two_responses_or_more():
    """One response, two and three: the squares about each problem's mean over its tokens; the first problem is left out."""
    value_R = torch.randn(11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return_R = torch.tensor([1, 1, -1, 1, 1, 1, -1, -1, -1, 1, 1], dtype=torch.float64)
    sums_B5 = explained_variance_sums(value_R, return_R, torch.tensor([2, 1, 3, 1, 2, 2]))
    squares = [
        sum((x_R[part].var(correction=0) * len(x_R[part])) for part in (slice(2, 6), slice(6, 11)))
        for x_R in (return_R, return_R - value_R)
    ]
    found = centred_sums(sums_B5, torch.tensor([0, 1, 1, 2, 2, 2]))
    assert found.tolist() == pytest.approx([9, 0, squares[0].item(), 0, squares[1].item()])
