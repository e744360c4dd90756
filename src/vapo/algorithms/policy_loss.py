"""The actor's losses, one value per token; the caller reduces them with `token_mean` or `sequence_mean`."""

import torch
from torch import Tensor

from vapo.algorithms.masked import masked_fill

MAX_LOG_RATIO = 20.0  # exp(20) is 5e8: beyond it only overflow is left to protect from


def clipped_surrogate(
    log_ratio_BT: Tensor, advantage_BT: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> Tensor:
    """PPO's clipped objective with separate bounds, negated so that lower is better (VAPO Eq 2 and 8; DAPO Eq 8).

        -min(r * A, clip(r, 1 - clip_low, 1 + clip_high) * A),    r = exp(log_ratio)

    Equal bounds are PPO; a higher `clip_high` (clip-higher) lets unlikely tokens grow. With `dual_clip` = c, tokens with A < 0
    lose at most c * |A| (arXiv 1912.09729 Eq 5); VAPO does not use it.

    Args:
        log_ratio_BT: log pi(a|s) - log pi_old(a|s); clamped to +-20 before exp.
        advantage_BT: advantage of each token.
        clip_low, clip_high: epsilon_low in [0, 1), epsilon_high >= epsilon_low; the paper's are 0.2 and 0.28.
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

        L_NLL = - 1 / (sum of |o_i| over T) * sum over o_i in T, t of log pi(a_t|s_t),    T the correct responses

    The sum is the caller's, `token_mean(nll, mask, positive_tokens)`, and its denominator the tokens of the correct responses of
    the whole minibatch (vapo.md A7). It is not clipped and sees the verifier's verdict, not a shaped reward (A8).

    Args:
        logprob_BT: log pi(a|s) under the policy being trained.
        mask_BT: True on response tokens.
        correct_B: True where the verifier said correct.
    """
    return masked_fill(-logprob_BT, mask_BT & correct_B[:, None])
