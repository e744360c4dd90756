"""What a group of responses to one prompt tells (technique 7: group sampling)."""

import torch
from torch import Tensor


def group_fractions(correct_B: Tensor, group_B: Tensor) -> dict[str, float]:
    """Shares of groups that are all wrong, mixed and all correct. Only mixed groups teach which response was better.

    Args:
        correct_B: True where the verifier said correct.
        group_B: group number of each response, 0 to P-1, each present.

    >>> group_fractions(torch.tensor([True, False, True, True]), torch.tensor([0, 0, 1, 1]))
    {'frac_all_wrong': 0.0, 'frac_mixed': 0.5, 'frac_all_correct': 0.5}
    """
    groups = int(group_B.max()) + 1
    size_P = torch.zeros(groups).index_add_(0, group_B, torch.ones_like(group_B, dtype=torch.float))
    correct_P = torch.zeros(groups).index_add_(0, group_B, correct_B.float())
    kinds = {
        "frac_all_wrong": correct_P == 0,
        "frac_mixed": (correct_P > 0) & (correct_P < size_P),
        "frac_all_correct": correct_P == size_P,
    }
    return {name: kind_P.double().mean().item() for name, kind_P in kinds.items()}
