"""What the knob suite measures: losses, gradients, advantages and targets of a minibatch, which no cut may change."""

from math import log

import pytest
import torch
from tests.algorithms.splits import losses
from torch.testing import assert_close

from vapo.algorithms import ActorCritic, GroupRelative

KNOBS = {ActorCritic: {}, GroupRelative: {}}
PLAIN = {
    ActorCritic: ActorCritic(group_size=2, loss_aggregation="token", whiten_advantages=False),
    GroupRelative: GroupRelative(group_size=2, loss_aggregation="token"),
}
BOTH = tuple(PLAIN)
TOKENS = 34  # of the batch in tests/conftest.py


def knob(*families):
    """Says whose field a function tests."""

    def register(function):
        for family in families:
            KNOBS[family][function.__name__] = function
        return function

    return register


def loss_and_gradient(algorithm, batch, log_ratio=0.0, kind="actor"):
    """Loss of the minibatch and its gradient at each token, by any cut; the policy has moved by `log_ratio` at every token."""
    x_R = batch.old_logprob_R + log_ratio if kind == "actor" else batch.value_R
    whole, *parts = [losses(algorithm, batch, x_R, pieces, kind) for pieces in (1, 2, 4, 8)]
    for part in parts:
        assert part[0] == pytest.approx(whole[0], abs=2e-6)
        assert_close(part[1], whole[1], atol=1e-6, rtol=0)
    return whole[0], whole[1]


def moved(algorithm, batch, advantage, ratio):
    """Loss and summed gradient where every token has this advantage and this ratio of new to old probability."""
    batch = batch.replace(advantage_R=torch.full((TOKENS,), float(advantage)))
    loss, gradient_R = loss_and_gradient(algorithm, batch, log(ratio))
    return pytest.approx((loss, gradient_R.sum().item()), abs=1e-5)


def advantages(algorithm, batch):
    """Read off the gradient of the token-level loss, which at ratio 1 is -advantage / tokens."""
    return (-TOKENS * loss_and_gradient(algorithm, algorithm.credit(batch))[1]).tolist()


def targets(algorithm, batch):
    """Read off the gradient of the critic's loss, which is (value - target) / tokens."""
    batch = algorithm.credit(batch)
    return (batch.value_R - TOKENS * loss_and_gradient(algorithm, batch, kind="critic")[1]).tolist()


def constant_critic(batch, value=0.25):
    return batch.replace(value_R=torch.full((TOKENS,), value))


def places(batch):
    """Of each token: its response's outcome and length, and its own position."""
    for correct, length in zip(batch.correct_B.tolist(), batch.response_length_B.tolist(), strict=True):
        for t in range(length):
            yield (1.0 if correct else -1.0), length, t


def near(expected):
    return pytest.approx(list(expected), abs=2e-5)
