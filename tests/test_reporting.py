"""What a step reports about its rollouts, against plain loops over hand-made ones."""

import pytest

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


def test_lambda_mean_is_over_responses(rollouts, annotated):
    expected = sum(max(0.0, 1 - 1 / (0.5 * length)) for length in LENGTHS) / 8
    found = report(rollouts, annotated, length_adaptive_alpha=0.5)
    assert found["actor/lambda_mean"] == pytest.approx(expected, abs=1e-6)


def test_a_step_with_a_frozen_actor_or_prefetched_rollouts_has_no_logprob_gap(rollouts, annotated):
    for old_logprob_R in (None, annotated.sampler_logprob_R):
        assert "engine/logprob_gap_mean" not in report(rollouts, annotated.replace(old_logprob_R=old_logprob_R))
