import statistics

import pytest
import torch
from torch.testing import assert_close

from vapo.algorithms import masked, masked_fill, sequence_mean, token_mean, token_sum, whiten


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


def test_one_token_of_one_response_is_its_own_mean():
    x_BT, mask_BT = torch.tensor([[5.0]]), torch.tensor([[True]])
    assert token_mean(x_BT, mask_BT, 1) == sequence_mean(x_BT, mask_BT, 1) == 5.0


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


@pytest.fixture(params=[2**16, 7], ids=["one chunk", "chunks of 7"])
def chunks(request, monkeypatch):
    monkeypatch.setattr(masked, "CHUNK", request.param)


@pytest.fixture
def x_R(draw, mask_BT):
    return draw()[mask_BT]


def test_token_sum_is_its_definition(x_R, chunks):
    other_R = x_R.flip(0) + 2
    found = token_sum(lambda x, y: (x - y).abs(), x_R.float(), other_R.float())
    expected = sum(abs(x - y) for x, y in zip(x_R.float().tolist(), other_R.float().tolist(), strict=True))
    assert found == pytest.approx(expected, rel=1e-12)


def test_whiten_is_its_definition(x_R, chunks):
    x_R = 3 * x_R + 5
    tokens = x_R.tolist()
    mean, deviation = statistics.fmean(tokens), statistics.stdev(tokens)  # stdev divides by n - 1
    assert whiten(x_R).tolist() == pytest.approx([(x - mean) / deviation for x in tokens])


def test_whiten_gives_mean_0_and_variance_1(x_R, chunks):
    white_R = whiten(3 * x_R + 5)
    assert white_R.mean().item() == pytest.approx(0, abs=1e-9)
    assert white_R.var(correction=1).item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1, 1e8), (100, 0), (7, -3)])
def test_whiten_ignores_shift_and_scale(x_R, scale, shift):
    assert_close(whiten(scale * x_R + shift), whiten(x_R), rtol=1e-6, atol=1e-6)


def test_whiten_of_equal_or_single_tokens_is_zero(x_R):
    assert whiten(torch.full((9,), 2.0)).tolist() == [0.0] * 9
    assert whiten(torch.tensor([2.0])).tolist() == [0.0]


def test_whiten_keeps_the_dtype_and_its_input_and_has_no_gradient(x_R, chunks):
    leaf_R = x_R.float().requires_grad_()
    before, white_R = leaf_R.detach().clone(), whiten(leaf_R)
    assert white_R.dtype == torch.float32 and not white_R.requires_grad and torch.equal(leaf_R, before)
