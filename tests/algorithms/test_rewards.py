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


def test_terminal_reward_is_its_definition(mask_BT):
    reward_B = torch.arange(1.0, 9.0)
    expected_BT = [[0.0] * 6 for _ in mask_BT]
    for row, mask in enumerate(mask_BT.tolist()):
        last = max((t for t, keep in enumerate(mask) if keep), default=None)
        if last is not None:
            expected_BT[row][last] = row + 1.0
    assert terminal_reward(reward_B, mask_BT).tolist() == expected_BT


@pytest.mark.parametrize(
    ("mask", "expected"),
    [("1111", "0001"), ("1100", "0100"), ("1011", "0001"), ("1010", "0010"), ("0100", "0100"), ("0000", "0000")],
)
def test_terminal_reward_sits_on_the_last_unmasked_token(mask, expected):
    mask_BT = torch.tensor([[character == "1" for character in mask]])
    assert terminal_reward(torch.tensor([-1.0]), mask_BT).tolist() == [[-float(character) + 0.0 for character in expected]]


@pytest.mark.parametrize("junk", [torch.nan, torch.inf])
def test_terminal_reward_of_a_response_without_tokens_vanishes(junk):
    mask_BT = torch.tensor([[False, False], [True, False]])
    assert terminal_reward(torch.tensor([junk, 1.0]), mask_BT).tolist() == [[0.0, 0.0], [1.0, 0.0]]
