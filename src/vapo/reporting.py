"""Metrics of a finished step: responses, critic, advantages. Losses and gradient norms are logged during the updates."""

import torch

from vapo.algorithms import ActorCritic, PolicyGradient, explained_variance_sums, group_fractions
from vapo.metrics import StepMetrics
from vapo.rollout.collate import collate
from vapo.types import FAULTS, Batch, Rollout, Status


def report_step(metrics: StepMetrics, algorithm: PolicyGradient, sampled: list[Rollout], batch: Batch) -> None:
    """Adds the metrics of a finished step to `metrics`.

    Args:
        sampled: all rollouts of the step; with dynamic sampling more than are trained on.
        batch: the rollouts trained on, with values, log-probabilities and advantages from before the step's updates.
    """
    report_responses(metrics, algorithm, sampled, batch if len(sampled) == len(batch) else collate(sampled))
    tokens = batch.response_length_B.sum().item()
    assert batch.advantage_R is not None
    metrics.mean("advantage/abs_mean", batch.advantage_R.abs().sum(), tokens)
    metrics.mean("actor/positive_token_fraction", batch.response_length_B[batch.correct_B].sum(), tokens)
    if batch.old_logprob_R is not None and batch.old_logprob_R is not batch.sampler_logprob_R:  # prefetched: the same tensor
        metrics.mean("engine/logprob_gap_mean", (batch.old_logprob_R - batch.sampler_logprob_R).abs().sum(), tokens)
    if isinstance(algorithm, ActorCritic):
        report_critic(metrics, algorithm, batch)


def report_responses(metrics: StepMetrics, algorithm: PolicyGradient, sampled: list[Rollout], batch: Batch) -> None:
    """Reward, accuracy, length and groups of all sampled rollouts."""
    size, length_B = len(batch), batch.response_length_B.double()
    metrics.mean("reward/mean", algorithm.reward(batch).sum(), size)
    metrics.mean("response/accuracy", batch.correct_B.double().sum(), size)
    metrics.mean("response/length_mean", length_B.sum(), size)
    for name, chosen_B in (("correct", batch.correct_B), ("wrong", ~batch.correct_B)):
        metrics.mean(f"response/length_{name}_mean", length_B[chosen_B].sum(), chosen_B.sum().item())
    metrics.mean("response/truncated_fraction", batch.truncated_B.double().sum(), size)
    metrics.mean("response/no_answer_fraction", sum(r.verdict.status is Status.NO_ANSWER for r in sampled), size)
    for status in FAULTS:
        metrics.mean(f"verifier/{status}_fraction", sum(r.verdict.status is status for r in sampled), size)
    groups = int(batch.group_B.max()) + 1
    for name, fraction in group_fractions(batch.correct_B, batch.group_B).items():
        metrics.mean(f"group/{name}", fraction * groups, groups)


def report_critic(metrics: StepMetrics, algorithm: ActorCritic, batch: Batch) -> None:
    """How well values predict the Monte-Carlo return, over all tokens and by tenths of the response (A24)."""
    assert batch.value_R is not None
    size = len(batch)
    metrics.mean("actor/lambda_mean", algorithm.policy_lambda(batch).double().sum(), size)
    metrics.mean("critic/value_mean", batch.value_R.sum(), len(batch.value_R))
    return_R = algorithm.monte_carlo_return(batch)
    everywhere_R = torch.ones_like(return_R, dtype=torch.bool)
    metrics.explained_variance("critic/explained_variance", explained_variance_sums(batch.value_R, return_R, everywhere_R))
    position_BT = torch.arange(batch.mask_BT.shape[1]).expand(size, -1)
    decile_R = (10 * position_BT / batch.response_length_B[:, None])[batch.mask_BT].long()
    for decile in range(10):
        sums = explained_variance_sums(batch.value_R, return_R, decile_R == decile)
        if sums[0] > 0:
            metrics.explained_variance(f"critic/explained_variance_decile_{decile}", sums)
