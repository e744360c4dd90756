"""Masked means and whitening. A masked slot may hold anything, NaN included: it is replaced before any arithmetic.

Every mean divides by a denominator that the caller counted over the whole optimizer minibatch (all micro-batches, all ranks),
so that losses of micro-batches add up to the loss of the minibatch.
"""

import torch
from torch import Tensor


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


def masked_whiten(x_BT: Tensor, mask_BT: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Shifts to mean 0 and scales to variance 1 over the unmasked tokens; masked slots become 0 (vapo.md A10).

        (x - mean) / sqrt(var + epsilon), var with Bessel's correction

    Sums are taken in float64, in two passes, so that a large mean costs no precision. A single token becomes 0.
    """
    filled_BT = masked_fill(x_BT, mask_BT).double()
    count = mask_BT.sum()
    centered_BT = masked_fill(filled_BT - filled_BT.sum() / count.clamp(min=1), mask_BT)
    square = (centered_BT**2).sum()
    variance = square / (count - 1).clamp(min=1)
    return (centered_BT / (variance + epsilon).sqrt()).to(x_BT.dtype)
