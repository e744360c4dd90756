"""What a finished step says about its rollouts, its critic and its credit: all that is logged but by-products of the updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vapo.algorithms import explained_variance_sums, group_fractions, length_adaptive_lambda
from vapo.types import Batch, Rollout, Status

if TYPE_CHECKING:
    from vapo.module import RLModule


def report_batch(module: RLModule, rollouts: list[Rollout], batch: Batch) -> None:
    """Fills `module.metrics` from an RL step's rollouts. Values and log-probabilities are those from before its updates."""
    metrics, algorithm = module.metrics, module.algorithm
    length_B, size = batch.response_length_B.double(), len(batch)
    metrics.mean("reward/mean", algorithm.reward(batch).sum(), size)
    metrics.mean("response/accuracy", batch.correct_B.double().sum(), size)
    metrics.mean("response/length_mean", length_B.sum(), size)
    for name, chosen_B in (("correct", batch.correct_B), ("wrong", ~batch.correct_B)):
        metrics.mean(f"response/length_{name}_mean", length_B[chosen_B].sum(), chosen_B.sum().item())
    metrics.mean("response/truncated_fraction", batch.truncated_B.double().sum(), size)
    metrics.mean("response/no_answer_fraction", sum(r.verdict.status is Status.NO_ANSWER for r in rollouts), size)
    groups = int(batch.group_B.max()) + 1
    for name, fraction in group_fractions(batch.correct_B, batch.group_B).items():
        metrics.mean(f"group/{name}", fraction * groups, groups)
    tokens = length_B.sum().item()
    metrics.mean("actor/positive_token_fraction", length_B[batch.correct_B].sum(), tokens)

    assert batch.value_R is not None and batch.advantage_R is not None
    alpha = algorithm.length_adaptive_alpha
    lambda_B = torch.full((size,), algorithm.actor_lambda) if alpha is None else length_adaptive_lambda(length_B, alpha)
    metrics.mean("actor/lambda_mean", lambda_B.double().sum(), size)
    metrics.mean("advantage/abs_mean", batch.advantage_R.abs().sum(), tokens)
    metrics.mean("critic/value_mean", batch.value_R.sum(), tokens)
    if batch.old_logprob_R is not None:
        metrics.mean("engine/logprob_gap_mean", (batch.old_logprob_R - batch.sampler_logprob_R).abs().sum(), tokens)

    return_R = algorithm.monte_carlo_return(batch)
    everywhere_R = torch.ones_like(return_R, dtype=torch.bool)
    metrics.explained_variance("critic/explained_variance", explained_variance_sums(batch.value_R, return_R, everywhere_R))
    position_BT = torch.arange(batch.mask_BT.shape[1]).expand(size, -1)
    decile_R = (10 * position_BT / batch.response_length_B[:, None])[batch.mask_BT].long()
    for decile in range(10):
        sums = explained_variance_sums(batch.value_R, return_R, decile_R == decile)
        if sums[0] > 0:
            metrics.explained_variance(f"critic/explained_variance_decile_{decile}", sums)

    metrics.gauge("clock/rl_step", module.rl_step)
    metrics.gauge("clock/policy_step", module.policy_step)
    metrics.gauge("clock/actor_updates", module.actor_updates)
    metrics.gauge("clock/critic_updates", module.critic_updates)
    for name, optimizer in zip(("actor", "critic"), module.raw_optimizers, strict=True):
        metrics.gauge(f"{name}/learning_rate", optimizer.param_groups[0]["lr"])
