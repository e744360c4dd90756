import pytest
import torch

from vapo.models.schedule import warmup_constant


def rates(warmup_steps, steps=6):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule, seen = warmup_constant(optimizer, warmup_steps), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(
    ("warmup_steps", "expected"),
    [
        (4, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]),
        (2, [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
        (1, [2.0] * 6),
        (0, [2.0] * 6),
    ],
)
def test_warmup_then_constant(warmup_steps, expected):
    assert rates(warmup_steps) == expected


def test_a_negative_warmup_says_what_to_set():
    with pytest.raises(ValueError, match="warmup_steps is -1; set it to 0"):
        rates(-1)
