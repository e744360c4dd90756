"""How far the policy moved and how sure it is. Nothing of this is in VAPO's loss (vapo.md A16); GRPO may train on a KL."""

import torch
from torch import Tensor


def kl_k1(log_ratio_BT: Tensor) -> Tensor:
    """Unbiased single-sample estimate of KL(old || new) = E_old[-log_ratio]; any sign (Schulman 2020, estimator k1)."""
    return -log_ratio_BT


def kl_k2(log_ratio_BT: Tensor) -> Tensor:
    """Half the squared log-ratio: biased, never negative, low variance (estimator k2)."""
    return 0.5 * log_ratio_BT**2


def kl_k3(log_ratio_BT: Tensor) -> Tensor:
    """exp(log_ratio) - 1 - log_ratio: unbiased for KL(old || new) and never negative (estimator k3).

    Args:
        log_ratio_BT: log pi_new(a|s) - log pi_old(a|s) of tokens sampled from pi_old.
    """
    return torch.expm1(log_ratio_BT) - log_ratio_BT


KL_ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def clip_indicators(log_ratio_BT: Tensor, advantage_BT: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """1.0 on tokens whose gradient is cut at the lower, and at the upper bound: only where the minimum picks the clipped term."""
    ratio_BT = log_ratio_BT.exp()
    low_BT = (ratio_BT < 1.0 - clip_low) & (advantage_BT < 0)
    high_BT = (ratio_BT > 1.0 + clip_high) & (advantage_BT > 0)
    return low_BT.float(), high_BT.float()


def entropy(logits_NV: Tensor) -> Tensor:
    """Entropy of each token's distribution in nats, 0 to log V; computed in float32."""
    return torch.special.entr(torch.softmax(logits_NV.float(), dim=-1)).sum(-1)
