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


def warmup_decay(optimizer: Optimizer, warmup_steps: int, steps: int, decay_steps: int) -> LambdaLR:
    """Linear warm-up, constant, then linear decay towards zero over the last `decay_steps` of `steps`; not in the paper.

        lr_k = lr * min(1, (k + 1) / warmup_steps, (steps - k) / (decay_steps + 1)),    k = 0 the first RL step

    Args:
        warmup_steps: as in `warmup_constant`.
        steps: RL steps of the whole run; from then on the rate is zero.
        decay_steps: RL steps below the full rate at the end, 0 to `steps`; the last one is at 1 / (decay_steps + 1) of it.
    """
    if not 0 <= decay_steps <= steps or warmup_steps < 0:
        raise ValueError(
            f"decay_steps is {decay_steps} of {steps} RL steps, warmup_steps {warmup_steps}; set decay_steps from 0 to {steps} "
            "and warmup_steps to 0 or more"
        )
    return LambdaLR(
        optimizer, lambda step: max(0.0, min(1.0, (step + 1) / max(warmup_steps, 1), (steps - step) / (decay_steps + 1)))
    )
