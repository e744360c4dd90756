"""Knobs of the weights against engine and trainer disagreeing: they multiply the policy loss, not the LM loss."""

from dataclasses import replace
from math import exp, log

import pytest
import torch
from tests.algorithms.knobs import BOTH, TOKENS, knob, loss_and_gradient, near, places

RATIOS = (0.4, 0.8, 1.0, 1.5, 4.0)  # of the trainer's probability to the engine's, in turn over the batch's tokens


def disagreeing(batch):
    """The batch with an engine that is off by RATIOS, and each token's ratio."""
    ratio = [RATIOS[i % len(RATIOS)] for i in range(TOKENS)]
    return batch.replace(sampler_logprob_R=batch.old_logprob_R - torch.tensor(ratio).log()), ratio


def weights(algorithm, batch):
    """Of each token, read off the gradient of the token-level loss, which before an update is -weight * advantage / tokens."""
    gradient_R = loss_and_gradient(replace(algorithm, positive_lm_coef=0.3), batch)[1]
    lm_R = loss_and_gradient(replace(algorithm, positive_lm_coef=0.3), batch.replace(advantage_R=torch.zeros(TOKENS)))[1]
    return (-TOKENS * (gradient_R - lm_R) / batch.advantage_R).tolist()


def of_responses(batch, ratio, weigh):
    """`weigh` of each response's mean log ratio and length, at each of its tokens."""
    start, expected = 0, []
    for length in batch.response_length_B.tolist():
        expected += [weigh(sum(map(log, ratio[start : start + length])) / length, length)] * length
        start += length
    return expected


@knob(*BOTH)
def mismatch(plain, batch, _):
    """Each kind by its definition, and none at all where it is off."""
    batch, ratio = disagreeing(batch)
    assert weights(plain, batch) == near([1.0] * TOKENS)
    assert weights(replace(plain, mismatch="truncate"), batch) == pytest.approx([min(r, 2.0) for r in ratio], abs=1e-3)
    assert weights(replace(plain, mismatch="mask"), batch) == pytest.approx([r if 0.5 <= r <= 2 else 0.0 for r in ratio], abs=1e-3)
    product = of_responses(batch, ratio, lambda mean, length: min(exp(mean * length), 2.0))
    assert weights(replace(plain, mismatch="sequence_truncate"), batch) == pytest.approx(product, abs=1e-3)
    inside = of_responses(batch, ratio, lambda mean, length: 1.0 if 0.5 <= exp(mean) <= 2 else 0.0)
    assert weights(replace(plain, mismatch="sequence_mask"), batch) == pytest.approx(inside, abs=1e-3)
    assert set(inside) == {0.0, 1.0} and len(list(places(batch))) == TOKENS


@knob(*BOTH)
def mismatch_low(plain, batch, _):
    """A mask lets through what lies above it; a truncation does not look at it."""
    batch, ratio = disagreeing(batch)
    for low in (0.3, 0.5, 0.9):
        masked = weights(replace(plain, mismatch="mask", mismatch_low=low), batch)
        assert masked == pytest.approx([r if low <= r <= 2 else 0.0 for r in ratio], abs=1e-3)
        assert weights(replace(plain, mismatch="truncate", mismatch_low=low), batch) == pytest.approx(
            [min(r, 2.0) for r in ratio], abs=1e-3
        )


@knob(*BOTH)
def mismatch_high(plain, batch, _):
    """A mask lets through what lies below it, a truncation cuts there."""
    batch, ratio = disagreeing(batch)
    for high in (1.2, 2.0, 9.0):
        masked = weights(replace(plain, mismatch="mask", mismatch_high=high), batch)
        assert masked == pytest.approx([r if 0.5 <= r <= high else 0.0 for r in ratio], abs=1e-3)
        cut = weights(replace(plain, mismatch="truncate", mismatch_high=high), batch)
        assert cut == pytest.approx([min(r, high) for r in ratio], abs=1e-3)
