from math import exp

import pytest
import torch
from torch.testing import assert_close

from vapo.algorithms import gae, length_adaptive_lambda, terminal_reward

LAMBDAS = [0.0, 0.5, 0.95, 1.0]


def gae_of_tokens(rewards, values, lam, gamma):
    """VAPO Eq 3 as it is written: the sum of (gamma lambda)^l delta_{t+l}, for the tokens of one response."""
    values = [*values, 0.0]
    deltas = [reward + gamma * values[t + 1] - values[t] for t, reward in enumerate(rewards)]
    return [sum((gamma * lam) ** i * deltas[t + i] for i in range(len(deltas) - t)) for t in range(len(deltas))]


def gae_by_definition(reward_BT, value_BT, mask_BT, lam_B, gamma):
    """Cuts the masked tokens out of each response, applies Eq 3, and puts the advantages back where they belong."""
    advantage_BT = torch.zeros_like(value_BT)
    for row, mask_T in enumerate(mask_BT):
        tokens = gae_of_tokens(reward_BT[row, mask_T].tolist(), value_BT[row, mask_T].tolist(), lam_B[row], gamma)
        advantage_BT[row, mask_T] = torch.tensor(tokens, dtype=value_BT.dtype)
    return advantage_BT


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_gae_is_its_definition(draw, mask_BT, lam, gamma):
    reward_BT, value_BT = draw(), draw()
    expected_BT = gae_by_definition(reward_BT, value_BT, mask_BT, [lam] * len(mask_BT), gamma)
    assert_close(gae(reward_BT, value_BT, mask_BT, lam, gamma), expected_BT)


def test_gae_with_one_lambda_a_response_is_its_definition(draw, mask_BT):
    reward_BT, value_BT, lam_B = draw(), draw(), torch.linspace(0, 1, len(mask_BT), dtype=torch.float64)
    assert_close(gae(reward_BT, value_BT, mask_BT, lam_B), gae_by_definition(reward_BT, value_BT, mask_BT, lam_B.tolist(), 1.0))


@pytest.mark.parametrize("lam", LAMBDAS)
def test_gae_takes_a_scalar_for_equal_lambdas(draw, mask_BT, lam):
    reward_BT, value_BT = draw(), draw()
    lam_B = torch.full((len(mask_BT),), lam, dtype=torch.float64)
    assert_close(gae(reward_BT, value_BT, mask_BT, lam), gae(reward_BT, value_BT, mask_BT, lam_B), rtol=0, atol=0)


def test_gae_by_hand():
    reward_BT, value_BT = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.2]])
    advantage_BT = gae(reward_BT, value_BT, torch.ones(1, 2, dtype=torch.bool), lam=0.5)
    assert_close(advantage_BT, torch.tensor([[-0.3 + 0.5 * 0.8, 1.0 - 0.2]]))


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_gae_with_lambda_1_is_the_monte_carlo_return_minus_the_value(draw, mask_BT, gamma):
    reward_BT, value_BT = draw(), draw()
    advantage_BT = gae(reward_BT, value_BT, mask_BT, 1.0, gamma)
    for row, mask_T in enumerate(mask_BT):
        rewards, return_, returns = reward_BT[row, mask_T].tolist(), 0.0, []
        for reward in reversed(rewards):
            return_ = reward + gamma * return_
            returns.insert(0, return_)
        assert (advantage_BT + value_BT)[row, mask_T].tolist() == pytest.approx(returns)


def test_gae_with_lambda_1_has_the_outcome_as_target_of_every_token(draw, mask_BT):
    reward_B = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1], dtype=torch.float64)
    value_BT = draw()
    target_BT = gae(terminal_reward(reward_B, mask_BT), value_BT, mask_BT, lam=1.0) + value_BT
    assert_close(target_BT[mask_BT], reward_B[:, None].expand(mask_BT.shape)[mask_BT])


def test_gae_with_lambda_0_is_the_one_step_td_error(draw):
    reward_BT, value_BT = draw(), draw()
    next_value_BT = torch.cat([value_BT[:, 1:], torch.zeros(len(value_BT), 1)], dim=1)
    advantage_BT = gae(reward_BT, value_BT, torch.ones_like(value_BT, dtype=torch.bool), 0.0, 0.9)
    assert_close(advantage_BT, reward_BT + 0.9 * next_value_BT - value_BT)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_gae_with_holes_equals_gae_of_the_compressed_tokens(draw, mask_BT, lam):
    reward_BT, value_BT, row = draw(), draw(), 4
    kept_T = mask_BT[row]
    assert kept_T.tolist() == [True, False, True, True, False, True]
    with_holes_BT = gae(reward_BT, value_BT, mask_BT, lam)
    compressed_BT = gae(reward_BT[None, row, kept_T], value_BT[None, row, kept_T], torch.ones(1, 4, dtype=torch.bool), lam)
    assert_close(with_holes_BT[row, kept_T], compressed_BT[0])
    assert not with_holes_BT[~mask_BT].any()


@pytest.mark.parametrize("lam", LAMBDAS)
def test_gae_ignores_junk(draw, mask_BT, assert_ignores_junk, lam):
    assert_ignores_junk(lambda reward_BT, value_BT: gae(reward_BT, value_BT, mask_BT, lam), draw(), draw())


def test_gae_has_no_gradient(draw, mask_BT):
    assert not gae(draw().requires_grad_(), draw().requires_grad_(), mask_BT, 0.9).requires_grad


@pytest.mark.parametrize(
    ("length", "lam"), [(20, 0), (50, 0.6), (100, 0.8), (200, 0.9), (400, 0.95), (1000, 0.98), (4096, 0.9951), (20480, 0.99902)]
)
def test_length_adaptive_lambda_has_the_values_of_the_paper(length, lam):
    assert length_adaptive_lambda(torch.tensor([length]), 0.05).item() == pytest.approx(lam, abs=1e-5 if length <= 1000 else 5e-5)


@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.5])
def test_length_adaptive_lambda_is_its_definition(alpha):
    lengths = list(range(1, 2000, 7))
    expected = [max(0.0, 1.0 - 1.0 / (alpha * length)) for length in lengths]
    assert length_adaptive_lambda(torch.tensor(lengths), alpha).tolist() == pytest.approx(expected, abs=1e-6)


def test_length_adaptive_lambda_is_0_up_to_one_over_alpha_and_positive_beyond():
    lam_B = length_adaptive_lambda(torch.arange(22), 0.05)
    assert lam_B[:21].tolist() == [0.0] * 21
    assert lam_B[21] > 0


@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16])
def test_length_adaptive_lambda_is_float32_and_below_1(dtype):
    lam_B = length_adaptive_lambda(torch.tensor([32768]).to(dtype), 0.05)
    assert lam_B.dtype == torch.float32
    assert 0.999 < lam_B.item() < 1


def test_length_adaptive_lambda_opens_a_window_of_alpha_times_length():
    """Eq 4: the weights of the TD errors sum to alpha * l; then the first token's weight on the end is exp(-1/alpha)."""
    lam = length_adaptive_lambda(torch.tensor([4000]), 1.5).item()
    assert sum(lam**t for t in range(100_000)) == pytest.approx(1.5 * 4000, rel=1e-3)
    assert lam**3999 == pytest.approx(exp(-1 / 1.5), rel=1e-3)
