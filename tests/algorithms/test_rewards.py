import pytest
import torch

from vapo.algorithms import outcome_reward, overlong_penalty, terminal_reward


def test_outcome_reward_is_plus_or_minus_one():
    assert outcome_reward(torch.tensor([True, False, True])).tolist() == [1.0, -1.0, 1.0]


def test_overlong_penalty_is_its_definition():
    def penalty(length, max_length, buffer):  # DAPO Eq 13
        if length <= max_length - buffer:
            return 0.0
        if length <= max_length:
            return ((max_length - buffer) - length) / buffer
        return -1.0

    expected = [penalty(length, 30, 8) for length in range(40)]
    assert overlong_penalty(torch.arange(40), 30, 8).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("length", "penalty"), [(1, 0), (16384, 0), (18432, -0.5), (20480, -1), (30000, -1)])
def test_overlong_penalty_has_the_values_of_dapo(length, penalty):
    assert overlong_penalty(torch.tensor([length]), 20480, 4096).item() == penalty


@pytest.mark.parametrize("lengths", [[3, 1, 4, 2], [1], [1, 1], [5]])
def test_terminal_reward_is_on_the_last_token_of_each_response(lengths):
    reward_B = torch.arange(1.0, 1.0 + len(lengths))
    expected = [row + 1.0 if t == length - 1 else 0.0 for row, length in enumerate(lengths) for t in range(length)]
    assert terminal_reward(reward_B, torch.tensor(lengths)).tolist() == expected
