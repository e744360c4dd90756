"""Learning-rate schedules. The unit is the RL step in which the network trains, not the optimizer step."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_constant(optimizer: Optimizer, warmup_steps: int) -> LambdaLR:
    """Linear warm-up, then constant (VAPO section 5.1).

        lr_k = lr * min(1, (k + 1) / warmup_steps),    k = 0 the first RL step

    Args:
        warmup_steps: RL steps until the full rate, >= 0; the `warmup_steps`-th step is the first at it; 0 and 1 mean none.
    """
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps is {warmup_steps}; set it to 0 (none) or more RL steps")
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(warmup_steps, 1)))
