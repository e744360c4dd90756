"""Flat response tokens as rows."""

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vapo.types import Batch


def pad(batch: Batch, x_R: Tensor | None) -> Tensor:
    """x_BT, 0 in the padding. The inverse is `x_BT[batch.mask_BT]`."""
    assert x_R is not None
    return pad_sequence(list(x_R.split(batch.response_length_B.tolist())), batch_first=True)
