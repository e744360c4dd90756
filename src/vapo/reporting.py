"""Metrics of a finished step: responses, critic, advantages. Losses and gradient norms are logged during the updates."""

import torch

from vapo.algorithms import ActorCritic, PolicyGradient, centred_sums, explained_variance_sums, group_fractions, token_sum
from vapo.metrics import StepMetrics
from vapo.rollout.collate import collate, without_faults
from vapo.types import FAULTS, Batch, Rollout, Status

ROLLOUTS_AT_ONCE = 8  # bounds the memory of float64 numbers


def report_step(metrics: StepMetrics, algorithm: PolicyGradient, sampled: list[Rollout], batch: Batch) -> None:
    """Adds the metrics of a finished step to `metrics`.

    Args:
        sampled: all rollouts of the step; with dynamic sampling more than are trained on.
        batch: the rollouts trained on, with values, log-probabilities and advantages from before the step's updates.
    """
    judged = batch if len(sampled) == len(batch) else collate(without_faults(sampled))
    report_responses(metrics, algorithm, sampled, judged)
    tokens = batch.response_length_B.sum().item()
    assert batch.advantage_R is not None
    metrics.mean("advantage/abs_mean", token_sum(torch.abs, batch.advantage_R), tokens)
    metrics.mean("actor/positive_token_fraction", batch.response_length_B[batch.correct_B].sum(), tokens)
    if batch.old_logprob_R is not None and batch.old_logprob_R is not batch.sampler_logprob_R:  # prefetched: the same tensor
        gap = token_sum(lambda old, sampled: (old - sampled).abs(), batch.old_logprob_R, batch.sampler_logprob_R)
        metrics.mean("engine/logprob_gap_mean", gap, tokens)
    if isinstance(algorithm, ActorCritic):
        report_critic(metrics, algorithm, batch)


def report_responses(metrics: StepMetrics, algorithm: PolicyGradient, sampled: list[Rollout], batch: Batch) -> None:
    """Reward, accuracy, length and groups of all sampled rollouts that the verifier judged (`batch`), and how often it failed."""
    size, length_B = len(batch), batch.response_length_B.double()
    metrics.mean("reward/mean", algorithm.reward(batch).sum(), size)
    metrics.mean("response/accuracy", batch.correct_B.double().sum(), size)
    metrics.mean("response/length_mean", length_B.sum(), size)
    for name, chosen_B in (("correct", batch.correct_B), ("wrong", ~batch.correct_B)):
        metrics.mean(f"response/length_{name}_mean", length_B[chosen_B].sum(), chosen_B.sum().item())
    metrics.mean("response/truncated_fraction", batch.truncated_B.double().sum(), size)
    metrics.mean("response/no_answer_fraction", sum(r.verdict.status is Status.NO_ANSWER for r in sampled), size)
    for status in FAULTS:
        metrics.mean(f"verifier/{status}_fraction", sum(r.verdict.status is status for r in sampled), len(sampled))
    for name, fraction in group_fractions(batch.correct_B, batch.group_B).items():
        metrics.mean(f"group/{name}", fraction)


def report_critic(metrics: StepMetrics, algorithm: ActorCritic, batch: Batch) -> None:
    """How well values predict the Monte-Carlo return, over all tokens, within problems and by tenths of the response (A24), and how
    they are spread."""
    value_R, tokens = batch.value_R, int(batch.response_length_B.sum())
    assert value_R is not None
    metrics.mean("actor/lambda_mean", algorithm.policy_lambda(batch).double().sum(), len(batch))
    metrics.mean("critic/value_mean", total := token_sum(torch.clone, value_R), tokens)
    metrics.gauge("critic/value_std", (token_sum(lambda value: (value - total / tokens) ** 2, value_R) / tokens) ** 0.5)
    low, high = algorithm.reward_range
    metrics.mean("critic/value_outside_share", token_sum(lambda value: (value < low) | (value > high), value_R), tokens)
    parts = []
    for index_B in torch.arange(len(batch)).split(ROLLOUTS_AT_ONCE):
        part = batch.select(index_B)
        assert part.value_R is not None
        edge_BD = (torch.arange(11) * part.response_length_B[:, None] + 9) // 10  # first token of each tenth: d l / 10, rounded up
        sums = explained_variance_sums(part.value_R, algorithm.monte_carlo_return(part), edge_BD.diff(dim=1).flatten())
        parts.append(sums.view(-1, 10, 5))
    sums_BD5 = torch.cat(parts)
    metrics.explained_variance("critic/explained_variance", sums_BD5.sum((0, 1)))
    if (within := centred_sums(sums_BD5.sum(1), batch.group_B))[0] > 0:
        metrics.explained_variance("critic/explained_variance_within_problems", within)
    for decile, sums in enumerate(sums_BD5.sum(0)):
        if sums[0] > 0:
            metrics.explained_variance(f"critic/explained_variance_decile_{decile}", sums)
