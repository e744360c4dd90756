"""Diagnostics: KL estimators, clip fractions, entropy, AUROC. Not part of VAPO's loss (vapo.md A16); GRPO may train on a KL."""

from collections.abc import Sequence

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
    """low_BT and high_BT: 1.0 on tokens whose gradient that bound cuts off, which is where the minimum picks the clipped term."""
    ratio_BT = log_ratio_BT.exp()
    low_BT = (ratio_BT < 1.0 - clip_low) & (advantage_BT < 0)
    high_BT = (ratio_BT > 1.0 + clip_high) & (advantage_BT > 0)
    return low_BT.float(), high_BT.float()


def entropy(logits_NV: Tensor, normalizer_N: Tensor | None = None) -> Tensor:
    """Entropy of each token's distribution in nats, 0 to log V; computed in float32, from log-probabilities.

    Args:
        normalizer_N: the logits' logsumexp, if it is known.
    """
    logits_NV = logits_NV.float()
    normalizer_N = logits_NV.logsumexp(-1) if normalizer_N is None else normalizer_N
    logprob_NV = (logits_NV - normalizer_N[:, None]).clamp_(min=torch.finfo(torch.float).min)  # -inf times probability 0 is NaN
    return -logprob_NV.exp().mul_(logprob_NV).sum(-1)


def auroc_at(scores: Sequence[float], index: int) -> float:
    """Share of the other scores that `scores[index]` exceeds, ties counted half: the area under the ROC curve of one positive.

    1.0 if `scores[index]` is the highest; 0.5 is chance, e.g. when all scores are equal.

    Args:
        scores: two scores or more.
        index: index of the score that should be the highest.

    >>> auroc_at([0.1, 0.9, 0.9, 0.2], 1)
    0.8333333333333334
    """
    others = [score for i, score in enumerate(scores) if i != index]
    if not others:
        raise ValueError("auroc_at needs two scores or more, the one in question and one to compare it with")
    return sum((scores[index] > other) + 0.5 * (scores[index] == other) for other in others) / len(others)
