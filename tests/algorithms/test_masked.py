import statistics

import pytest
import torch
from torch.testing import assert_close

from vapo.algorithms import masked_fill, masked_whiten, sequence_mean, token_mean


def rows_of_tokens(x_BT, mask_BT):
    """The unmasked numbers of each response, as Python lists."""
    return [x_BT[row, mask_T].tolist() for row, mask_T in enumerate(mask_BT)]


def test_masked_fill_keeps_the_unmasked_and_zeroes_the_rest():
    mask_BT = torch.tensor([[True, False, True]])
    assert_close(masked_fill(torch.tensor([[1.0, torch.nan, -torch.inf]]), mask_BT), torch.tensor([[1.0, 0.0, -torch.inf]]))


def test_masked_fill_gives_masked_slots_no_gradient(mask_BT):
    x_BT = torch.where(mask_BT, 1.0, torch.nan).requires_grad_()
    masked_fill(x_BT, mask_BT).sum().backward()
    assert_close(x_BT.grad, mask_BT.float())


def test_token_mean_is_its_definition(draw, mask_BT):
    x_BT = draw()
    total, tokens = 0.0, 0
    for row in rows_of_tokens(x_BT, mask_BT):
        for x in row:
            total += x
            tokens += 1
    assert token_mean(x_BT, mask_BT, tokens).item() == pytest.approx(total / tokens)
    assert token_mean(x_BT, mask_BT, torch.tensor(2 * tokens)).item() == pytest.approx(total / tokens / 2)


def test_sequence_mean_is_its_definition(draw, mask_BT):
    x_BT = draw()
    total = 0.0
    for row in rows_of_tokens(x_BT, mask_BT):
        if row:
            total += sum(row) / len(row)
    assert sequence_mean(x_BT, mask_BT, len(mask_BT)).item() == pytest.approx(total / len(mask_BT))


def test_token_mean_equals_sequence_mean_for_equal_lengths_only(draw, mask_BT):
    x_BT, whole_BT = draw(), torch.ones_like(mask_BT)
    assert_close(token_mean(x_BT, whole_BT, whole_BT.sum()), sequence_mean(x_BT, whole_BT, len(x_BT)))
    with pytest.raises(AssertionError):
        assert_close(token_mean(x_BT, mask_BT, mask_BT.sum()), sequence_mean(x_BT, mask_BT, len(x_BT)))


@pytest.mark.parametrize("mean", [token_mean, sequence_mean])
def test_the_mean_of_nothing_is_zero(mean):
    assert mean(torch.full((2, 3), torch.nan), torch.zeros(2, 3, dtype=torch.bool), 0).item() == 0.0


@pytest.mark.parametrize("splits", [1, 2, 4, 8])
@pytest.mark.parametrize("mean", [token_mean, sequence_mean])
def test_means_of_micro_batches_add_up_to_the_mean_of_the_batch(draw, mask_BT, mean, splits):
    x_BT = draw()
    total = mask_BT.sum() if mean is token_mean else len(mask_BT)
    parts = [mean(x, mask, total) for x, mask in zip(x_BT.chunk(splits), mask_BT.chunk(splits), strict=True)]
    assert len(parts) == splits
    assert_close(sum(parts), mean(x_BT, mask_BT, total))


@pytest.mark.parametrize("mean", [token_mean, sequence_mean])
def test_means_ignore_junk(draw, mask_BT, assert_ignores_junk, mean):
    assert_ignores_junk(lambda x_BT: mean(x_BT, mask_BT, 7), draw())


def test_masked_whiten_is_its_definition(draw, mask_BT):
    x_BT = 3 * draw() + 5
    tokens = x_BT[mask_BT].tolist()
    mean, deviation = statistics.fmean(tokens), statistics.stdev(tokens)  # stdev divides by n - 1
    white_BT = masked_whiten(x_BT, mask_BT)
    assert white_BT[mask_BT].tolist() == pytest.approx([(x - mean) / deviation for x in tokens])
    assert not white_BT[~mask_BT].any()


def test_masked_whiten_gives_mean_0_and_variance_1(draw, mask_BT):
    white_R = masked_whiten(3 * draw() + 5, mask_BT)[mask_BT]
    assert white_R.mean().item() == pytest.approx(0, abs=1e-9)
    assert white_R.var(correction=1).item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1, 1e8), (100, 0), (7, -3)])
def test_masked_whiten_ignores_shift_and_scale(draw, mask_BT, scale, shift):
    x_BT = draw()
    assert_close(masked_whiten(scale * x_BT + shift, mask_BT), masked_whiten(x_BT, mask_BT), rtol=1e-6, atol=1e-6)


def test_masked_whiten_of_equal_or_single_tokens_is_zero(mask_BT):
    assert masked_whiten(torch.full(mask_BT.shape, 2.0), mask_BT).tolist() == torch.zeros(mask_BT.shape).tolist()
    assert masked_whiten(torch.tensor([[2.0, 9.0]]), torch.tensor([[True, False]])).tolist() == [[0.0, 0.0]]


def test_masked_whiten_keeps_the_dtype(draw, mask_BT):
    assert masked_whiten(draw().float(), mask_BT).dtype == torch.float32


def test_masked_whiten_ignores_junk(draw, mask_BT, assert_ignores_junk):
    assert_ignores_junk(lambda x_BT: masked_whiten(x_BT.detach(), mask_BT), draw())


def test_masked_whiten_gradient_ignores_nan(draw, mask_BT):
    x_BT = torch.where(mask_BT, draw(), torch.nan).requires_grad_()
    (masked_whiten(x_BT, mask_BT) * draw()).sum().backward()
    assert x_BT.grad[mask_BT].isfinite().all()
