"""Importance weights against their definitions as plain loops; junk in the padding changes nothing."""

import math

import pytest
import torch

from vapo.algorithms import masked_ratio, sequence_mask, truncated_ratio, truncated_sequence_ratio

LOG_RHO = [[0.0, 0.3, -0.9, 2.0], [0.1, -0.2, 9.0, 9.0], [-2.0, 9.0, 9.0, 9.0]]  # 9.0 is junk in the padding
LENGTHS = [4, 2, 1]


@pytest.fixture
def log_rho_BT():
    return torch.tensor(LOG_RHO)


@pytest.fixture
def mask_BT():
    return torch.arange(4) < torch.tensor(LENGTHS)[:, None]


def rows(weight_BT):
    return [row[:length] for row, length in zip(weight_BT.tolist(), LENGTHS, strict=True)]


def near(expected):
    return [pytest.approx(row) for row in expected]


def test_tokens_are_truncated_from_above(log_rho_BT):
    expected = [[min(math.exp(x), 2.0) for x in row[:length]] for row, length in zip(LOG_RHO, LENGTHS, strict=True)]
    assert rows(truncated_ratio(log_rho_BT, 2.0)) == near(expected)


def test_tokens_outside_the_bounds_are_masked(log_rho_BT):
    inside = lambda x: math.exp(x) if 0.5 <= math.exp(x) <= 5.0 else 0.0  # noqa: E731
    expected = [[inside(x) for x in row[:length]] for row, length in zip(LOG_RHO, LENGTHS, strict=True)]
    assert rows(masked_ratio(log_rho_BT, 0.5, 5.0)) == near(expected)
    assert min(map(min, expected)) == 0 and max(map(max, expected)) > 1


def test_responses_are_truncated_by_the_product_over_their_tokens(log_rho_BT, mask_BT):
    expected = [[min(math.exp(sum(row[:length])), 2.0)] * length for row, length in zip(LOG_RHO, LENGTHS, strict=True)]
    assert rows(truncated_sequence_ratio(log_rho_BT, mask_BT, 2.0)) == near(expected)
    assert len({row[0] for row in expected}) == 3 and expected[0][0] == 2.0


def test_responses_are_masked_by_the_geometric_mean_over_their_tokens(log_rho_BT, mask_BT):
    expected = []
    for row, length in zip(LOG_RHO, LENGTHS, strict=True):
        mean = math.exp(sum(row[:length]) / length)
        expected.append([1.0 if 0.9 <= mean <= 1.5 else 0.0] * length)
    assert rows(sequence_mask(log_rho_BT, mask_BT, 0.9, 1.5)) == near(expected)
    assert {row[0] for row in expected} == {0.0, 1.0}


def test_where_engine_and_trainer_agree_every_weight_is_1(mask_BT):
    zero_BT = torch.zeros(3, 4)
    for weight_BT in (
        truncated_ratio(zero_BT, 1.0),
        masked_ratio(zero_BT, 1.0, 1.0),
        truncated_sequence_ratio(zero_BT, mask_BT, 1.0),
        sequence_mask(zero_BT, mask_BT, 1.0, 1.0),
    ):
        assert rows(weight_BT) == [[1.0] * length for length in LENGTHS]


def test_a_huge_disagreement_is_a_finite_weight():
    assert truncated_ratio(torch.tensor([[1e6, -1e6]]), 3.0).tolist() == [[3.0, pytest.approx(math.exp(-20))]]
    assert masked_ratio(torch.tensor([[1e6, -1e6]]), 0.5, 5.0).tolist() == [[0.0, 0.0]]
