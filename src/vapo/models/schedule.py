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


def warmup_decay(optimizer: Optimizer, warmup_steps: int, steps: int, decay_share: float) -> LambdaLR:
    """Linear warm-up, constant, then linear decay towards zero over the last part of the run; not in the paper.

        lr_k = lr * min(1, (k + 1) / warmup_steps, (steps - k) / (decay_share * steps + 1)),    k = 0 the first RL step

    Args:
        warmup_steps: as in `warmup_constant`.
        steps: RL steps of the whole run, >= 1; after them the rate is zero.
        decay_share: share of `steps` below the full rate, at the end; in [0, 1]. 0 decays nothing.
    """
    if warmup_steps < 0 or steps < 1 or not 0 <= decay_share <= 1:
        raise ValueError(
            f"warmup_steps is {warmup_steps}, steps {steps}, decay_share {decay_share}; set warmup_steps to 0 or more, steps to 1 "
            "or more, and decay_share in [0, 1]"
        )
    warmup, decay = max(warmup_steps, 1), decay_share * steps + 1
    return LambdaLR(optimizer, lambda step: max(0.0, min(1.0, (step + 1) / warmup, (steps - step) / decay)))
