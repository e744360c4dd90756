"""Credit assignment: GAE and its length-adaptive lambda, from one reward at the end to one advantage per token."""

import torch
from torch import Tensor


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


def gae(reward_R: Tensor, value_R: Tensor, length_B: Tensor, lam: float | Tensor, gamma: float = 1.0) -> Tensor:
    """Generalized advantage estimation (VAPO Eq 3; arXiv 1506.02438 Eq 16).

        Âₜ = δₜ + γ λ Âₜ₊₁,    δₜ = rₜ + γ Vₜ₊₁ - Vₜ

    After a response's last token V and Â are 0, even if it was cut at its length limit (vapo.md A5). The k-th step of the loop
    computes Â of the k-th token from the end of every response that long; sorted by length, those are the first rows.

    Args:
        reward_R: reward of each token. Slots that are not the policy's (a tool's output) must be cut out beforehand, here and
            below: the recursion runs as if they had never been there.
        value_R: value of the state before each token, in units of reward.
        length_B: tokens of each response; they add up to R.
        lam: lambda in [0, 1], one for all or one per response of shape (B,).
        gamma: discount in [0, 1]; 1 throughout the paper.

    Returns:
        advantage_R in units of reward, no gradient, at least float32: bfloat16 would round lambda to 1.
    """
    dtype = torch.promote_types(value_R.dtype, torch.float)
    reward_R, value_R, last_B = reward_R.detach().to(dtype), value_R.detach().to(dtype), length_B.cumsum(0) - 1
    advantage_R = torch.zeros_like(value_R)  # first Vₜ₊₁, then δₜ, then Âₜ
    advantage_R[:-1] = value_R[1:]
    advantage_R[last_B] = 0
    advantage_R.mul_(gamma).add_(reward_R).sub_(value_R)
    order_B = length_B.argsort(descending=True)
    decay_B = (gamma * torch.as_tensor(lam, dtype=dtype, device=value_R.device).expand(len(length_B)))[order_B]
    token_B, next_B = last_B[order_B], torch.zeros_like(decay_B)
    for rows in (len(length_B) - length_B.bincount().cumsum(0))[:-1].tolist():  # responses longer than 0, 1, 2, … tokens
        live_B = token_B[:rows]
        next_B = advantage_R.index_select(0, live_B) + decay_B[:rows] * next_B[:rows]
        advantage_R.index_copy_(0, live_B, next_B)
        live_B -= 1
    return advantage_R


def monte_carlo_return(reward_B: Tensor, length_B: Tensor, gamma: float = 1.0) -> Tensor:
    """return_R: the reward at a response's end, discounted by the tokens still to come: γ^(l - 1 - t) R at token t.

    It is the value target with λ = 1 (VAPO section 4.1), for which the TD errors of Eq 3 telescope, so it needs no values.

    Args:
        reward_B: R, one reward per response, at its last token.
        length_B: l, tokens of each response.
        gamma: discount in [0, 1]; 1 throughout the paper.
    """
    return_R = spread(reward_B, length_B)
    if gamma == 1:
        return return_R
    return torch.cat([gamma ** torch.arange(length - 1, -1, -1, dtype=return_R.dtype) for length in length_B.tolist()]) * return_R


def spread(x_B: Tensor, length_B: Tensor) -> Tensor:
    """x_R: each response's number at each of its tokens. (`repeat_interleave` would need an int64 index of every token.)"""
    return torch.cat([x.expand(length) for x, length in zip(x_B, length_B.tolist(), strict=True)])
