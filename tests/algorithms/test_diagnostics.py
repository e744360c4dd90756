import random
from math import exp, log

import pytest
import torch
from torch.testing import assert_close

from vapo.algorithms import auroc_at, clip_indicators, clipped_surrogate, entropy, kl_k1, kl_k2, kl_k3

OLD = [0.5, 0.3, 0.15, 0.05]
NEW = [0.4, 0.25, 0.25, 0.1]


def expectation(estimator, old, new):
    """Of an estimator over tokens drawn from `old`, exactly."""
    log_ratio_V = torch.tensor(new, dtype=torch.float64).log() - torch.tensor(old, dtype=torch.float64).log()
    return sum(p * k for p, k in zip(old, estimator(log_ratio_V).tolist(), strict=True))


def kl(old, new):
    return sum(p * log(p / q) for p, q in zip(old, new, strict=True))


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_k1_and_k3_are_unbiased(estimator):
    assert expectation(estimator, OLD, NEW) == pytest.approx(kl(OLD, NEW))
    assert expectation(estimator, NEW, OLD) == pytest.approx(kl(NEW, OLD))


def test_k2_is_right_to_second_order():
    near = [p + 0.001 * (q - p) for p, q in zip(OLD, NEW, strict=True)]
    assert expectation(kl_k2, OLD, near) == pytest.approx(kl(OLD, near), rel=1e-3)
    assert kl_k2(torch.tensor([3.0, -3.0])).tolist() == [4.5, 4.5]


def test_only_k1_may_be_negative(draw):
    assert kl_k1(draw()).min() < 0 <= min(kl_k2(draw()).min(), kl_k3(draw()).min())


def test_k3_keeps_its_precision_near_zero():
    assert kl_k3(torch.tensor(1e-3)).item() == pytest.approx(5e-7, rel=1e-2)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.28), (0.1, 0.1)])
def test_clip_indicators_are_their_definition(draw, low, high):
    log_ratio_BT, advantage_BT = 0.5 * draw(), draw()
    low_BT, high_BT = clip_indicators(log_ratio_BT, advantage_BT, low, high)
    pairs = list(zip(log_ratio_BT.flatten().tolist(), advantage_BT.flatten().tolist(), strict=True))
    assert low_BT.flatten().tolist() == [float(exp(x) < 1 - low and a < 0) for x, a in pairs]
    assert high_BT.flatten().tolist() == [float(exp(x) > 1 + high and a > 0) for x, a in pairs]


def test_a_token_without_advantage_or_on_the_bound_is_not_clipped():
    log_ratio_BT = torch.tensor([[log(4.0), -log(4.0), log(2.0), -log(2.0)]])
    found = clip_indicators(log_ratio_BT, torch.tensor([[0.0, 0.0, 1.0, -1.0]]), clip_low=0.5, clip_high=1.0)
    assert [indicator_BT.tolist() for indicator_BT in found] == [[[0.0] * 4]] * 2


def test_clip_indicators_mark_exactly_the_tokens_without_gradient(draw):
    log_ratio_BT, advantage_BT = (0.5 * draw()).requires_grad_(), draw()
    clipped_surrogate(log_ratio_BT, advantage_BT, 0.2, 0.28).sum().backward()
    low_BT, high_BT = clip_indicators(log_ratio_BT.detach(), advantage_BT, 0.2, 0.28)
    assert low_BT.any() and high_BT.any()
    assert torch.equal(low_BT + high_BT, (log_ratio_BT.grad == 0).float())


def test_entropy_is_its_definition(draw):
    logits_NV = 3 * draw()
    expected = []
    for row in logits_NV.tolist():
        weights = [exp(logit) for logit in row]
        expected.append(-sum(w / sum(weights) * log(w / sum(weights)) for w in weights))
    assert entropy(logits_NV).tolist() == pytest.approx(expected, rel=1e-5)


def test_entropy_is_log_v_when_uniform_and_0_when_certain():
    logits_NV = torch.tensor([[7.0] * 5, [0.0, 1e4, 0.0, 0.0, 0.0]])
    assert entropy(logits_NV).tolist() == pytest.approx([log(5), 0.0])


def test_entropy_is_computed_in_float32():
    logits_NV = torch.linspace(-2, 2, 1000).bfloat16()[None]
    assert_close(entropy(logits_NV), entropy(logits_NV.float()), rtol=0, atol=0)
    assert entropy(logits_NV).dtype == torch.float32


def auroc_by_definition(scores, index):
    """Probability that the one is scored above one of the others drawn at random, a tie being a coin toss."""
    wins = 0.0
    for i, score in enumerate(scores):
        if i != index:
            wins += 1.0 if scores[index] > score else 0.5 if scores[index] == score else 0.0
    return wins / (len(scores) - 1)


@pytest.mark.parametrize("seed", range(20))
def test_auroc_is_its_definition(seed):
    rng = random.Random(seed)
    scores = [rng.randint(0, 4) / 2 for _ in range(rng.randint(2, 9))]
    index = rng.randrange(len(scores))
    assert auroc_at(scores, index) == pytest.approx(auroc_by_definition(scores, index))


def test_limits():
    assert auroc_at([0.0, 1.0, 0.0], 1) == 1.0
    assert auroc_at([1.0, 0.0, 1.0], 1) == 0.0
    assert auroc_at([3.0] * 7, 2) == 0.5


def test_one_score_has_nothing_to_be_compared_with():
    with pytest.raises(ValueError, match="two scores"):
        auroc_at([1.0], 0)
