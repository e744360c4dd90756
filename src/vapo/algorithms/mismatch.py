"""Importance weights for engine/trainer mismatch: tokens come from the engine's policy, gradients from the trainer's.

All functions take the log of rho = π_trainer_old(a|s) / π_engine(a|s), which is 1 where the two agree, and return the weight of
each token's policy loss, without gradient. None of them is part of VAPO.
"""

import torch
from torch import Tensor

from vapo.algorithms.masked import masked_fill
from vapo.algorithms.policy_loss import MAX_LOG_RATIO

MISMATCH = ("truncate", "mask", "sequence_truncate", "sequence_mask")


def truncated_ratio(log_rho_BT: Tensor, high: float) -> Tensor:
    """Truncated importance sampling, token by token: min(rho, high).

    Args:
        log_rho_BT: old log-probability of the trainer minus that of the engine.
        high: bound >= 1; 2 is common.
    """
    return log_rho_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=high)


def masked_ratio(log_rho_BT: Tensor, low: float, high: float) -> Tensor:
    """IcePop: rho where low <= rho <= high, and 0 elsewhere, so that tokens on which the two disagree do not train.

    Args:
        low, high: 0 < low <= 1 <= high; 0.5 and 5 in IcePop.
    """
    rho_BT = log_rho_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return torch.where((rho_BT >= low) & (rho_BT <= high), rho_BT, 0.0)


def truncated_sequence_ratio(log_rho_BT: Tensor, mask_BT: Tensor, high: float) -> Tensor:
    """Truncated importance sampling for whole responses: min(product of rho over the response, high) at each of its tokens."""
    total_B = masked_fill(log_rho_BT, mask_BT).sum(-1)
    return truncated_ratio(total_B, high)[:, None].expand_as(log_rho_BT)


def sequence_mask(log_rho_BT: Tensor, mask_BT: Tensor, low: float, high: float) -> Tensor:
    """1 at the tokens of responses whose geometric mean of rho lies in [low, high], 0 at all others.

    Args:
        low, high: 0 < low <= 1 <= high; choose them near 1, such as 0.99 and 1.01, as the mean is over all tokens.
    """
    mean_B = masked_fill(log_rho_BT, mask_BT).sum(-1) / mask_BT.sum(-1)
    rho_B = mean_B.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return ((rho_B >= low) & (rho_B <= high)).to(log_rho_BT.dtype)[:, None].expand_as(log_rho_BT)


def mismatch_weight(kind: str, log_rho_BT: Tensor, mask_BT: Tensor, low: float, high: float) -> Tensor:
    """The weight of each token's policy loss; `kind` is one of MISMATCH."""
    if kind == "truncate":
        return truncated_ratio(log_rho_BT, high)
    if kind == "mask":
        return masked_ratio(log_rho_BT, low, high)
    if kind == "sequence_truncate":
        return truncated_sequence_ratio(log_rho_BT, mask_BT, high)
    assert kind == "sequence_mask", kind
    return sequence_mask(log_rho_BT, mask_BT, low, high)
