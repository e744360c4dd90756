"""Statistics of groups of responses to one prompt: GRPO's advantage, and how many groups are mixed (technique 7)."""

import torch
from torch import Tensor


def group_sum(x_B: Tensor, group_B: Tensor) -> Tensor:
    """x_P in float64: the sum of `x_B` over each of the groups 0 to P-1."""
    return torch.zeros(int(group_B.max()) + 1, dtype=torch.float64).index_add_(0, group_B, x_B.double())


def group_advantage(reward_B: Tensor, group_B: Tensor, divide_by_std: bool = True, epsilon: float = 1e-6) -> Tensor:
    """How much better a response is than its group (GRPO; DAPO Eq 9).

        Âᵢ = (Rᵢ - mean(R)) / (std(R) + epsilon),    mean and std over the responses to the same prompt

    The papers do not say which standard deviation; this is the sample standard deviation (n - 1), as in the public code that came
    with them. Equal rewards, or a group of one, give 0.

    Args:
        reward_B: one reward per response.
        group_B: group number of each response, 0 to P-1.
        divide_by_std: False only subtracts the mean.
    """
    size_P = group_sum(torch.ones_like(reward_B), group_B)
    mean_P = group_sum(reward_B, group_B) / size_P
    centered_B = reward_B.double() - mean_P[group_B]
    if divide_by_std:
        std_P = (group_sum(centered_B**2, group_B) / (size_P - 1).clamp(min=1)).sqrt()
        centered_B = centered_B / (std_P[group_B] + epsilon)
    return centered_B.to(reward_B.dtype)


def group_fractions(correct_B: Tensor, group_B: Tensor) -> dict[str, float]:
    """Shares of groups that are all wrong, mixed and all correct. Only mixed groups teach which response was better.

    Args:
        correct_B: True where the verifier said correct.
        group_B: group number of each response, 0 to P-1, each present.

    >>> group_fractions(torch.tensor([True, False, True, True]), torch.tensor([0, 0, 1, 1]))
    {'frac_all_wrong': 0.0, 'frac_mixed': 0.5, 'frac_all_correct': 0.5}
    """
    size_P, correct_P = group_sum(torch.ones_like(group_B), group_B), group_sum(correct_B, group_B)
    kinds = {
        "frac_all_wrong": correct_P == 0,
        "frac_mixed": (correct_P > 0) & (correct_P < size_P),
        "frac_all_correct": correct_P == size_P,
    }
    return {name: kind_P.double().mean().item() for name, kind_P in kinds.items()}
