"""Masked means, and whitening of flat tokens. A masked slot may hold anything, NaN included: it is replaced before any arithmetic.

Every mean divides by a denominator that the caller counted over the whole optimizer minibatch (all micro-batches, all ranks),
so that losses of micro-batches add up to the loss of the minibatch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 2**16  # tokens whose float64 copy exists at a time


def masked_fill(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """`x` where `mask`, 0 elsewhere; NaN and infinity in masked slots vanish from value and gradient."""
    return torch.where(mask_BT, x_BT, torch.zeros((), dtype=x_BT.dtype, device=x_BT.device))


def token_mean(x_BT: Tensor, mask_BT: Tensor, total_tokens: Tensor | float) -> Tensor:
    """Mean over tokens: every token weighs the same (VAPO Eq 7).

        Σᵢ Σₜ xᵢₜ / Σᵢ |oᵢ|

    Args:
        x_BT: a quantity per response token.
        mask_BT: True on response tokens.
        total_tokens: response tokens of the whole minibatch; 0 gives 0.
    """
    return masked_fill(x_BT, mask_BT).sum() / max(float(total_tokens), 1.0)


def sequence_mean(x_BT: Tensor, mask_BT: Tensor, total_sequences: Tensor | float) -> Tensor:
    """Mean over responses of the mean over each response's tokens: every response weighs the same (VAPO Eq 6).

        1/G Σᵢ 1/|oᵢ| Σₜ xᵢₜ

    Args:
        x_BT, mask_BT: as in `token_mean`; a response without tokens adds 0.
        total_sequences: G, responses of the whole minibatch; 0 gives 0.
    """
    length_B = mask_BT.sum(-1).clamp(min=1)
    return (masked_fill(x_BT, mask_BT).sum(-1) / length_B).sum() / max(float(total_sequences), 1.0)


def token_sum(term: Callable[..., Tensor], *x_R: Tensor) -> float:
    """Σ term(x) over flat tokens, in float64, which is made for CHUNK tokens at a time.

    Args:
        term: element by element, of as many tensors as there are `x_R`.
    """
    parts = zip(*(x.split(CHUNK) for x in x_R), strict=True)
    return sum(term(*(part.double() for part in chunk)).sum().item() for chunk in parts)


def whiten(x_R: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Shifts to mean 0 and scales to variance 1 over the flat tokens `x_R`, without gradient (vapo.md A10).

        (x - mean) / sqrt(var + epsilon), var with Bessel's correction

    Sums are taken in float64, in two passes, so that a large mean costs no precision. A single token becomes 0.
    """
    x_R = x_R.detach()
    mean = token_sum(lambda x: x, x_R) / len(x_R)
    deviation = (token_sum(lambda x: (x - mean) ** 2, x_R) / max(len(x_R) - 1, 1) + epsilon) ** 0.5
    white_R = torch.empty_like(x_R)
    for part, white in zip(x_R.split(CHUNK), white_R.split(CHUNK), strict=True):
        white.copy_((part.double() - mean) / deviation)
    return white_R
