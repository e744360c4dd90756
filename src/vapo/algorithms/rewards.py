"""Rewards: outcome, soft overlong punishment, and placement on the last token."""

import torch
from torch import Tensor


def outcome_reward(correct_B: Tensor) -> Tensor:
    """+1 for a correct response, -1 for any other (DAPO Eq 7; vapo.md A6). There is none for a fault of the verifier."""
    return torch.where(correct_B, 1.0, -1.0)


def overlong_penalty(length_B: Tensor, max_length: int, buffer: int) -> Tensor:
    """Soft punishment of responses that come close to the length limit (DAPO Eq 13), to be added to the outcome reward.

        0                                       for l <= max_length - buffer
        ((max_length - buffer) - l) / buffer    in the buffer
        -1                                      for l > max_length

    Args:
        length_B: l, response tokens including the EOS.
        max_length: the generation limit itself (20,480 in DAPO, not the 16,384 it calls expected).
        buffer: width of the ramp in tokens, 1 to max_length (4,096 in DAPO).
    """
    return ((max_length - buffer - length_B.float()) / buffer).clamp(-1.0, 0.0)


def terminal_reward(reward_B: Tensor, length_B: Tensor) -> Tensor:
    """reward_R: each response's reward on its last token, EOS or not, and 0 everywhere else (VAPO section 2).

    Args:
        reward_B: one reward per response.
        length_B: tokens of each response, >= 1.
    """
    reward_R = reward_B.new_zeros(int(length_B.sum()))
    reward_R[length_B.cumsum(0) - 1] = reward_B
    return reward_R
