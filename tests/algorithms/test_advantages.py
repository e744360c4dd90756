from math import exp

import pytest
import torch
from torch.testing import assert_close

from vapo.algorithms import gae, length_adaptive_lambda, monte_carlo_return, terminal_reward

LAMBDAS = [0.0, 0.5, 0.95, 1.0]


def gae_of_tokens(rewards, values, lam, gamma):
    """VAPO Eq 3 as it is written: the sum of (gamma lambda)^l delta_{t+l}, for the tokens of one response."""
    values = [*values, 0.0]
    deltas = [reward + gamma * values[t + 1] - values[t] for t, reward in enumerate(rewards)]
    return [sum((gamma * lam) ** i * deltas[t + i] for i in range(len(deltas) - t)) for t in range(len(deltas))]


def gae_by_definition(reward_R, value_R, length_B, lam_B, gamma):
    rows = zip(reward_R.split(length_B.tolist()), value_R.split(length_B.tolist()), lam_B, strict=True)
    return [x for reward_T, value_T, lam in rows for x in gae_of_tokens(reward_T.tolist(), value_T.tolist(), lam, gamma)]


def gae_row_by_row(reward_R, value_R, length_B, lam_B, gamma):
    """The recursion of one token after another, in the dtype of the values and in this order of operations."""
    advantages = []
    for reward_T, value_T, lam in zip(reward_R.split(length_B.tolist()), value_R.split(length_B.tolist()), lam_B, strict=True):
        next_value = advantage = torch.zeros((), dtype=value_T.dtype)
        row = []
        for reward, value in zip(reward_T.flip(0), value_T.flip(0), strict=True):
            advantage = (reward + gamma * next_value - value) + (gamma * lam) * advantage
            next_value = value
            row.insert(0, advantage)
        advantages += row
    return torch.stack(advantages)


LENGTHS = {
    "ragged": [3, 7, 1, 5, 5, 12, 1, 2],
    "descending": [9, 4, 1],
    "ascending": [1, 4, 9],
    "one row": [6],
    "one token": [1, 1, 1],
}


@pytest.fixture(params=LENGTHS, ids=lambda name: name)
def length_B(request):
    return torch.tensor(LENGTHS[request.param])


@pytest.fixture
def draw(length_B):
    """`draw()`: another seeded normal float64 tensor, a number for each token."""
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(int(length_B.sum()), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_gae_is_its_definition(draw, length_B, lam, gamma):
    reward_R, value_R = draw(), draw()
    expected = gae_by_definition(reward_R, value_R, length_B, [lam] * len(length_B), gamma)
    advantage_R = gae(reward_R, value_R, length_B, lam, gamma)
    assert advantage_R.tolist() == pytest.approx(expected) and advantage_R.dtype == torch.float64


def test_gae_with_one_lambda_a_response_is_its_definition(draw, length_B):
    reward_R, value_R, lam_B = draw(), draw(), torch.linspace(0, 1, len(length_B), dtype=torch.float64)
    expected = gae_by_definition(reward_R, value_R, length_B, lam_B.tolist(), 1.0)
    assert gae(reward_R, value_R, length_B, lam_B).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_gae_rounds_as_a_recursion_through_each_response(draw, length_B, gamma):
    reward_R, value_R, lam_B = draw().float(), draw().float(), torch.linspace(0.3, 1, len(length_B))
    expected_R = gae_row_by_row(reward_R, value_R, length_B, lam_B, gamma)
    assert torch.equal(gae(reward_R, value_R, length_B, lam_B, gamma), expected_R)


def test_gae_of_bfloat16_values_is_float32(draw, length_B):
    reward_R, value_R = draw().bfloat16(), draw().bfloat16()
    advantage_R = gae(reward_R, value_R, length_B, 0.999)
    assert advantage_R.dtype == torch.float32
    assert torch.equal(advantage_R, gae(reward_R.float(), value_R.float(), length_B, 0.999))


@pytest.mark.parametrize("lam", LAMBDAS)
def test_gae_takes_a_scalar_for_equal_lambdas(draw, length_B, lam):
    reward_R, value_R = draw(), draw()
    lam_B = torch.full((len(length_B),), lam, dtype=torch.float64)
    assert torch.equal(gae(reward_R, value_R, length_B, lam), gae(reward_R, value_R, length_B, lam_B))


def test_gae_by_hand():
    advantage_R = gae(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.2]), torch.tensor([2]), lam=0.5)
    assert_close(advantage_R, torch.tensor([-0.3 + 0.5 * 0.8, 1.0 - 0.2]))


def test_gae_with_lambda_0_is_the_one_step_td_error(draw, length_B):
    reward_R, value_R = draw(), draw()
    next_values = [x for value_T in value_R.split(length_B.tolist()) for x in [*value_T.tolist()[1:], 0.0]]
    assert_close(gae(reward_R, value_R, length_B, 0.0, 0.9), reward_R + 0.9 * torch.tensor(next_values) - value_R)


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, 1e9])
def test_gae_of_a_response_does_not_depend_on_the_others(draw, length_B, junk):
    reward_R, value_R, other_B = draw(), draw(), torch.arange(len(length_B)) % 2 == 1
    advantage_R = gae(reward_R, value_R, length_B, 0.9)
    other_R = other_B.repeat_interleave(length_B)
    disturbed_R = gae(torch.where(other_R, junk, reward_R), torch.where(other_R, junk, value_R), length_B, 0.9)
    assert torch.equal(disturbed_R[~other_R], advantage_R[~other_R])


def test_gae_has_no_gradient_and_leaves_its_inputs_alone(draw, length_B):
    reward_R, value_R = draw(), draw()
    before = reward_R.clone(), value_R.clone(), length_B.clone()
    assert not gae(reward_R.requires_grad_(), value_R.requires_grad_(), length_B, 0.9).requires_grad
    assert all(map(torch.equal, before, (reward_R, value_R, length_B)))


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
def test_the_monte_carlo_return_is_the_discounted_reward_still_to_come(length_B, gamma):
    reward_B = torch.linspace(-1, 1, len(length_B), dtype=torch.float64)
    expected = [
        reward * gamma ** (length - 1 - t)
        for reward, length in zip(reward_B.tolist(), length_B.tolist(), strict=True)
        for t in range(length)
    ]
    return_R = monte_carlo_return(reward_B, length_B, gamma)
    assert return_R.tolist() == pytest.approx(expected) and return_R.dtype == torch.float64


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_monte_carlo_return_is_the_target_of_gae_with_lambda_1(draw, length_B, gamma):
    reward_B, value_R = torch.linspace(-1, 1, len(length_B), dtype=torch.float64), draw()
    target_R = gae(terminal_reward(reward_B, length_B), value_R, length_B, 1.0, gamma) + value_R
    assert_close(monte_carlo_return(reward_B, length_B, gamma), target_R)


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
