import pytest
import torch

from vapo.models.schedule import warmup_constant, warmup_decay


def rates(warmup_steps, seen_steps=6, make=warmup_constant, **settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule, seen = make(optimizer, warmup_steps, **settings), []
    for _ in range(seen_steps):
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


@pytest.mark.parametrize(
    ("warmup_steps", "decay_share", "expected"),
    [
        (2, 0.5, [1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]),
        (0, 0, [2.0] * 6 + [0.0, 0.0]),
        (0, 1, [12 / 7, 10 / 7, 8 / 7, 6 / 7, 4 / 7, 2 / 7, 0.0, 0.0]),
        (4, 5 / 6, [0.5, 1.0, 4 / 3, 1.0, 2 / 3, 1 / 3, 0.0, 0.0]),  # they meet below the full rate
    ],
)
def test_warmup_then_decay_to_the_end_of_the_run(warmup_steps, decay_share, expected):
    assert rates(warmup_steps, 8, warmup_decay, steps=6, decay_share=decay_share) == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{"decay_share": -0.1}, {"decay_share": 1.1}, {"steps": 0}, {"warmup_steps": -1}])
def test_a_decay_that_does_not_fit_says_what_to_set(wrong):
    settings = {"warmup_steps": 2, "steps": 6, "decay_share": 0.5} | wrong
    with pytest.raises(ValueError, match="set warmup_steps to 0 or more, steps to 1 or more, and decay_share in"):
        rates(settings.pop("warmup_steps"), 6, warmup_decay, **settings)
