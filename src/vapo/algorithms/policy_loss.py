"""Per-token losses of the actor; the caller reduces them with `token_mean` or `sequence_mean`."""

import torch
from torch import Tensor

from vapo.algorithms.masked import masked_fill

MAX_LOG_RATIO = 20.0  # exp(20) is 5e8; the clamp only prevents overflow


def clipped_surrogate(
    log_ratio_BT: Tensor, advantage_BT: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> Tensor:
    """PPO's clipped objective with separate bounds, negated so that lower is better (VAPO Eq 2 and 8; DAPO Eq 8).

        -min(r Â, clip(r, 1 - ε_low, 1 + ε_high) Â),    r = exp(log_ratio)

    Equal bounds are PPO; a higher `clip_high` (clip-higher) lets unlikely tokens gain probability. With `dual_clip` = c, tokens
    with Â < 0 lose at most c |Â| (arXiv 1912.09729 Eq 5); VAPO does not use it.

    Args:
        log_ratio_BT: log π(a|s) - log π_old(a|s); clamped to ±20 before exp.
        advantage_BT: advantage of each token.
        clip_low, clip_high: ε_low in [0, 1), ε_high >= ε_low; the paper's are 0.2 and 0.28.
        dual_clip: c > 1, or None for none.
    """
    ratio_BT = log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped_BT = ratio_BT.clamp(1.0 - clip_low, 1.0 + clip_high)
    objective_BT = torch.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)
    if dual_clip is not None:
        objective_BT = torch.where(advantage_BT < 0, torch.maximum(objective_BT, dual_clip * advantage_BT), objective_BT)
    return -objective_BT


def positive_example_nll(logprob_BT: Tensor, mask_BT: Tensor, correct_B: Tensor) -> Tensor:
    """Negative log-likelihood of the tokens of correct responses, 0 elsewhere (VAPO Eq 9).

        L_NLL = -Σᵢ Σₜ log π(aₜ|sₜ) / Σᵢ |oᵢ|,    i over the correct responses oᵢ

    The caller takes the mean, `token_mean(nll, mask, positive_tokens)`; its denominator counts the tokens of correct responses in
    the whole minibatch (vapo.md A7). The loss is not clipped, and uses the verifier's verdict, not a shaped reward (A8).

    Args:
        logprob_BT: log π(a|s) under the policy being trained.
        mask_BT: True on response tokens.
        correct_B: True where the verifier said correct.
    """
    return masked_fill(-logprob_BT, mask_BT & correct_B[:, None])
