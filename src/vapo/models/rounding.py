"""How far two computations of the same log-probabilities may be apart: the limits of the self-test and of the weight check."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rounding:
    """Nats, means over tokens."""

    limit: float  # above it something is wrong, and not rounding
    floor: float  # what rounding alone may be, where little of it was seen so far


ROUNDING = {
    torch.float32: Rounding(limit=1e-3, floor=1e-5),  # measured: 1e-6 on CPUs
    torch.float16: Rounding(limit=0.05, floor=2e-3),
    torch.bfloat16: Rounding(limit=0.1, floor=0.01),  # measured: 0.001 to 0.03
}
TF32 = Rounding(limit=1e-2, floor=1e-3)  # float32 on a GPU whose matrix products round to TF32; emulated: up to 2.5e-3


def rounding_of(*dtypes: torch.dtype) -> Rounding:
    """That of the coarsest of the dtypes that compute."""
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    if coarsest == torch.float32 and torch.cuda.is_available() and torch.get_float32_matmul_precision() != "highest":
        return TF32
    return ROUNDING[coarsest]
