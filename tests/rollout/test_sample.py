"""`torch_engine.sample` against its definition, on vocabularies small enough to write out."""

from math import inf, log

import pytest
import torch
from torch.testing import assert_close

from vapo.rollout import torch_engine
from vapo.rollout.torch_engine import TOP, sample
from vapo.types import SamplingParams

ALMOST_ONE = 1 - 2**-53  # the largest number that torch.rand draws in float64


def grid(count):
    """Evenly spaced uniform numbers, with none on a likely edge."""
    return (torch.arange(count, dtype=torch.float64) + 0.37) / count


def softmax(logits, temperature):
    weight = [2.718281828459045 ** (x / temperature) for x in logits]
    return [w / sum(weight) for w in weight]


def nucleus(probability, top_p):
    """The smallest set of most likely tokens that reaches top_p, renormalized, in order of probability; ties by token."""
    kept, reached = {}, 0.0
    for token in sorted(range(len(probability)), key=lambda token: -probability[token]):
        if reached >= top_p:
            break
        kept[token] = probability[token]
        reached += probability[token]
    return {token: p / reached for token, p in kept.items()}


def inverse_cdf(ordered, uniform):
    """First token whose cumulative probability exceeds `uniform`."""
    total = 0.0
    for token, probability in ordered.items():
        total += probability
        if uniform < total:
            return token
    raise AssertionError


LOGITS = [0.3, -1.2, 2.0, 0.1, -3.0, 1.1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.7, 0.95, 1.0])
def test_sample_inverts_the_distribution(temperature, top_p):
    uniform_B = grid(1000)
    probability = softmax(LOGITS, temperature)
    ordered = dict(enumerate(probability)) if top_p == 1.0 else nucleus(probability, top_p)
    logits_BV = torch.tensor(LOGITS).expand(1000, -1)
    token_B, logprob_B = sample(logits_BV, uniform_B, SamplingParams(temperature, top_p))
    expected = [inverse_cdf(ordered, uniform) for uniform in uniform_B.tolist()]
    assert token_B.tolist() == expected
    assert logprob_B.tolist() == pytest.approx([log(ordered[token]) for token in expected], abs=1e-5)
    for token, probability in ordered.items():
        assert abs(expected.count(token) / 1000 - probability) <= 1 / 1000


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits_BV = torch.tensor([0.2, 0.5, 0.3]).log().expand(500, -1)
    kept = {}
    for top_p in (0.49, 0.51, 0.79, 0.81):
        kept[top_p] = set(sample(logits_BV, grid(500), SamplingParams(1.0, top_p))[0].tolist())
    assert kept == {0.49: {1}, 0.51: {1, 2}, 0.79: {1, 2}, 0.81: {0, 1, 2}}


def test_rows_have_their_own_random_number_and_distribution():
    logits_BV = torch.randn(300, 11, generator=torch.Generator().manual_seed(0)) * 2
    uniform_B = torch.rand(300, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for top_p in (1.0, 0.6):
        token_B, logprob_B = sample(logits_BV, uniform_B, SamplingParams(0.8, top_p))
        for row, uniform in enumerate(uniform_B.tolist()):
            probability = softmax(logits_BV[row].tolist(), 0.8)
            ordered = dict(enumerate(probability)) if top_p == 1.0 else nucleus(probability, top_p)
            token = inverse_cdf(ordered, uniform)
            assert token_B[row] == token
            assert logprob_B[row].item() == pytest.approx(log(ordered[token]), abs=1e-5)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_greedy_takes_the_most_likely_and_reports_temperature_1(top_p):
    logits_BV = torch.tensor([LOGITS, LOGITS[::-1]])
    for uniform in (0.0, 0.5, ALMOST_ONE):
        token_B, logprob_B = sample(logits_BV, torch.full((2,), uniform, dtype=torch.float64), SamplingParams(0.0, top_p))
        assert token_B.tolist() == [2, 3]
        assert logprob_B.tolist() == pytest.approx([log(softmax(LOGITS, 1.0)[2])] * 2, abs=1e-5)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("logits", [[-inf, 0.0, -inf, 0.5, -inf], [-inf, -inf, 3.0, -1e4, -1e4], [0.0, -200.0, -inf]])
def test_impossible_tokens_are_never_sampled(logits, top_p):
    uniform_B = torch.cat([grid(200), torch.tensor([0.0, ALMOST_ONE], dtype=torch.float64)])
    token_B, logprob_B = sample(torch.tensor(logits).expand(202, -1), uniform_B, SamplingParams(1.0, top_p))
    assert all(logits[token] > -100 for token in token_B.tolist())
    assert logprob_B.isfinite().all()


@pytest.mark.parametrize("top_p", [1.0, 0.999])
def test_the_largest_random_number_takes_a_possible_token(top_p):
    logits_BV = torch.randn(2000, 50, generator=torch.Generator().manual_seed(0)) * 3
    logits_BV[:, 40:] = -inf
    token_B, logprob_B = sample(logits_BV, torch.full((2000,), ALMOST_ONE, dtype=torch.float64), SamplingParams(1.0, top_p))
    assert token_B.max() < 40
    assert logprob_B.isfinite().all()


def test_rare_tokens_keep_their_probability_in_a_large_vocabulary():
    """A float32 cumulative sum over 150,000 tokens would misplace the last ones."""
    size, uniform_B = 150_000, grid(64)
    token_B, logprob_B = sample(torch.zeros(64, size), uniform_B, SamplingParams())
    assert token_B.tolist() == pytest.approx([int(uniform * size) for uniform in uniform_B.tolist()], abs=1)
    assert_close(logprob_B, torch.full((64,), -log(size)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("spread", [0.1, 8.0])
def test_a_large_vocabulary_is_sorted_only_as_far_as_the_nucleus_reaches(spread, monkeypatch):
    """Flat distributions need more than TOP tokens, peaked ones do not; both give what a sort of everything gives."""
    logits_BV = spread * torch.randn(6, 5 * TOP, generator=torch.Generator().manual_seed(0))
    uniform_B, sampling = grid(6), SamplingParams(top_p=0.9)
    found = sample(logits_BV, uniform_B, sampling)
    monkeypatch.setattr(torch_engine, "TOP", 10**6)
    expected = sample(logits_BV, uniform_B, sampling)
    assert torch.equal(found[0], expected[0])
    assert_close(found[1], expected[1], atol=1e-6, rtol=0)
