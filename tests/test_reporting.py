"""What a step reports about its rollouts, against plain loops over hand-made ones."""

import statistics

import pytest
import torch

from vapo.algorithms import ActorCritic
from vapo.metrics import StepMetrics
from vapo.reporting import report_step

LENGTHS = [5, 1, 9, 2, 4, 7, 3, 3]
CORRECT = [1, 0, 0, 1, 0, 0, 1, 1]


def report(rollouts, batch, **switches):
    metrics = StepMetrics()
    report_step(metrics, ActorCritic(**switches), rollouts, batch)
    return metrics.flush()


def explained_variance(value_R, return_R):
    def variance(x_R):
        return sum((x - sum(x_R) / len(x_R)) ** 2 for x in x_R) / len(x_R)

    if variance(return_R) == 0:
        return 0.0
    return 1 - variance([r - v for r, v in zip(return_R, value_R, strict=True)]) / variance(return_R)


def test_rollouts(rollouts, annotated):
    found = report(rollouts, annotated, actor_lambda=0.9)
    expected = {
        "reward/mean": 0.0,
        "response/accuracy": 0.5,
        "response/length_mean": 34 / 8,
        "response/length_correct_mean": 13 / 4,
        "response/length_wrong_mean": 21 / 4,
        "response/truncated_fraction": 1 / 8,
        "response/no_answer_fraction": 0.0,
        "group/frac_all_wrong": 1 / 4,
        "group/frac_mixed": 2 / 4,
        "group/frac_all_correct": 1 / 4,
        "actor/positive_token_fraction": 13 / 34,
        "actor/lambda_mean": 0.9,
        "advantage/abs_mean": sum(map(abs, annotated.advantage_R.tolist())) / 34,
        "critic/value_mean": sum(annotated.value_R.tolist()) / 34,
        "critic/value_std": statistics.pstdev(annotated.value_R.tolist()),
        "critic/value_outside_share": sum(abs(value) > 1 for value in annotated.value_R.tolist()) / 34,
        "engine/logprob_gap_mean": sum(
            abs(a - b) for a, b in zip(annotated.old_logprob_R.tolist(), annotated.sampler_logprob_R.tolist(), strict=True)
        )
        / 34,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_explained_variance_over_all_tokens_and_by_decile_of_the_response(rollouts, annotated):
    found, start = report(rollouts, annotated), 0
    value_R, return_R, deciles = annotated.value_R.tolist(), [], {i: ([], []) for i in range(10)}
    for length, correct in zip(LENGTHS, CORRECT, strict=True):
        for t in range(length):
            return_R.append(1.0 if correct else -1.0)
            values, returns = deciles[10 * t // length]
            values.append(value_R[start + t])
            returns.append(return_R[-1])
        start += length
    assert found["critic/explained_variance"] == pytest.approx(explained_variance(value_R, return_R), abs=1e-6)
    for i, (values, returns) in deciles.items():
        expected = explained_variance(values, returns) if values else None
        assert found.get(f"critic/explained_variance_decile_{i}") == (expected and pytest.approx(expected, abs=1e-6)), i


def test_values_below_the_lowest_overlong_reward_are_outside(rollouts, annotated):
    annotated = annotated.replace(value_R=torch.tensor([-2.5, -1.5, 0.0, 1.5] * 8 + [0.0, 0.0]))
    assert report(rollouts, annotated)["critic/value_outside_share"] == 24 / 34
    found = report(rollouts, annotated, overlong_buffer=4, max_response_tokens=9)
    assert found["critic/value_outside_share"] == 16 / 34


def test_explained_variance_within_problems(rollouts, annotated):
    """Groups of two: return and value less their means over the group's tokens, which no number of the group alone shows."""
    found, start, values, returns = report(rollouts, annotated), 0, [], []
    for lengths, correct in zip(
        zip(LENGTHS[::2], LENGTHS[1::2], strict=True), zip(CORRECT[::2], CORRECT[1::2], strict=True), strict=True
    ):
        value_R = annotated.value_R[start : start + sum(lengths)].tolist()
        return_R = [1.0 if c else -1.0 for length, c in zip(lengths, correct, strict=True) for _ in range(length)]
        start += sum(lengths)
        values += [value - statistics.fmean(value_R) for value in value_R]
        returns += [x - statistics.fmean(return_R) for x in return_R]
    assert found["critic/explained_variance_within_problems"] == pytest.approx(explained_variance(values, returns), abs=1e-6)


def test_a_critic_that_knows_only_the_problem_explains_nothing_within_problems(rollouts, annotated):
    problem_B = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]).repeat_interleave(annotated.response_length_B)
    found = report(rollouts, annotated.replace(value_R=torch.tensor([-0.2, 0.0, -1.0, 1.0])[problem_B]))
    assert found["critic/explained_variance"] > 0.4
    assert found["critic/explained_variance_within_problems"] == pytest.approx(0.0, abs=1e-6)


def test_one_response_per_problem_has_no_variance_within_problems(rollouts, annotated):
    alone = annotated.replace(group_B=torch.arange(8))
    assert "critic/explained_variance_within_problems" not in report(rollouts, alone)
    some = annotated.replace(group_B=torch.tensor([0, 1, 2, 2, 3, 4, 5, 6]))  # only the third and fourth share a problem
    pair = annotated.select(torch.tensor([2, 3])).replace(group_B=torch.tensor([0, 0]))
    found = [report(rollouts, batch)["critic/explained_variance_within_problems"] for batch in (some, pair)]
    assert found[0] == pytest.approx(found[1], abs=1e-9)


def test_lambda_mean_is_over_responses(rollouts, annotated):
    expected = sum(max(0.0, 1 - 1 / (0.5 * length)) for length in LENGTHS) / 8
    found = report(rollouts, annotated, length_adaptive_alpha=0.5)
    assert found["actor/lambda_mean"] == pytest.approx(expected, abs=1e-6)


def test_a_step_with_a_frozen_actor_or_prefetched_rollouts_has_no_logprob_gap(rollouts, annotated):
    for old_logprob_R in (None, annotated.sampler_logprob_R):
        assert "engine/logprob_gap_mean" not in report(rollouts, annotated.replace(old_logprob_R=old_logprob_R))
