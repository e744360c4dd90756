"""Credit assignment: GAE and its length-adaptive lambda, from one reward at the end to one advantage per token."""

import torch
from torch import Tensor

from vapo.algorithms.masked import masked_fill


def length_adaptive_lambda(length_B: Tensor, alpha: float) -> Tensor:
    """One lambda per response, so that the horizon of credit grows with its length (VAPO Eq 5).

        λᵢ = max(0, 1 - 1 / (α lᵢ))

    From Eq 4: the weights of the TD errors sum to 1 / (1 - λ) = α l, a window of α l tokens. If that window is shorter than one
    token, λ is 0 (vapo.md A2).

    Args:
        length_B: l, response tokens including the EOS, prompt excluded (A1); a response of length 0 gets 0.
        alpha: window as a share of the response, > 0; the paper's is 0.05.

    Returns:
        lambda_B in [0, 1), float32: in bfloat16 it would round to 1 for long responses.
    """
    window_B = alpha * length_B.float()
    return (1.0 - 1.0 / window_B).clamp(min=0.0)


def gae(reward_BT: Tensor, value_BT: Tensor, mask_BT: Tensor, lam: float | Tensor, gamma: float = 1.0) -> Tensor:
    """Generalized advantage estimation (VAPO Eq 3; arXiv 1506.02438 Eq 16).

        Âₜ = δₜ + γ λ Âₜ₊₁,    δₜ = rₜ + γ Vₜ₊₁ - Vₜ

    It runs over the unmasked tokens only, as if the others were cut out: a masked slot inside a response (a tool's output)
    passes the next token's value and advantage through. After the last token V and Â are 0, even if the response was cut at its
    length limit (vapo.md A5). The value target is `gae(..., lam=critic's) + value`; with λ = 1 it is the Monte-Carlo return.

    Args:
        reward_BT: reward of each token.
        value_BT: value of the state before each token.
        mask_BT: True on response tokens.
        lam: lambda in [0, 1], one for all or one per response of shape (B,).
        gamma: discount in [0, 1]; 1 throughout the paper.

    Returns:
        advantage_BT, 0 in masked slots, no gradient, at least float32.
    """
    dtype = torch.promote_types(value_BT.dtype, torch.float)  # bfloat16 would round lambda to 1
    reward_BT, value_BT = reward_BT.detach().to(dtype), masked_fill(value_BT, mask_BT).detach().to(dtype)
    lam_B = torch.as_tensor(lam, dtype=dtype, device=value_BT.device).expand(value_BT.shape[0])
    next_value_B = torch.zeros_like(lam_B)
    next_advantage_B = torch.zeros_like(lam_B)
    advantage_BT = torch.zeros_like(value_BT)
    for t in reversed(range(value_BT.shape[1])):
        delta_B = reward_BT[:, t] + gamma * next_value_B - value_BT[:, t]
        advantage_B = delta_B + gamma * lam_B * next_advantage_B
        next_value_B = torch.where(mask_BT[:, t], value_BT[:, t], next_value_B)
        next_advantage_B = torch.where(mask_BT[:, t], advantage_B, next_advantage_B)
        advantage_BT[:, t] = masked_fill(advantage_B, mask_BT[:, t])
    return advantage_BT
