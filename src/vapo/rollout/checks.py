"""Checks of the settings of rollouts and updates; errors say what to set."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vapo.algorithms import PolicyGradient
from vapo.types import Completion, Request, SamplingParams

if TYPE_CHECKING:
    from vapo.rollout.engine import Engine  # imports transformers, and settings are checked before

MAX_LOGPROB_GAP = 0.05  # nats, mean over the tokens of a step


def check_sampling(sampling: SamplingParams, algorithm: PolicyGradient, prefetch: int) -> None:
    """Raises ValueError if rollouts sampled this way cannot be trained on."""
    if sampling.temperature == 0:
        raise ValueError("rollout.sampling.temperature is 0: greedy rollouts do not explore; set it above 0, the paper's is 1.0")
    if algorithm.mismatch is not None and sampling.top_p < 1:
        raise ValueError(
            f"algorithm.mismatch compares whole distributions, but rollout.sampling.top_p is {sampling.top_p}: set it to 1, or "
            "algorithm.mismatch to null"
        )
    if prefetch not in (0, 1):
        raise ValueError(f"rollout.prefetch is {prefetch}; set it to 0, or to 1 for rollouts one policy step old")
    if prefetch == 1 and sampling.top_p < 1:
        raise ValueError(
            f"rollout.prefetch=1 uses the engine's log-probabilities as the old policy's, but with rollout.sampling.top_p "
            f"{sampling.top_p} they are of a truncated distribution: set top_p to 1, or prefetch to 0"
        )
    if prefetch == 1 and (algorithm.dynamic_sampling or algorithm.mismatch is not None):
        raise ValueError(
            "rollout.prefetch=1 needs algorithm.dynamic_sampling=false, which draws more prompts after seeing the rollouts, "
            "and algorithm.mismatch=null: old log-probabilities are the engine's own"
        )


def check_counts(module: object, names: Sequence[str]) -> None:
    """Raises ValueError if one of these settings of the module is below 1."""
    for name in names:
        if getattr(module, name) < 1:
            raise ValueError(f"module.{name} is {getattr(module, name)}; set it to 1 or more")


def check_groups(rollouts_per_step: int, group_size: int) -> None:
    """Raises ValueError if a step's rollouts are not whole groups."""
    if group_size < 1:
        raise ValueError(f"algorithm.group_size is {group_size}; set it to 1 (no groups) or more")
    if rollouts_per_step < 1 or rollouts_per_step % group_size != 0:
        raise ValueError(
            f"data.rollouts_per_step is {rollouts_per_step}, not a multiple of the group size {group_size}; "
            f"set it to {max(1, round(rollouts_per_step / group_size)) * group_size}, or change the group size "
            "(algorithm.group_size; while the actor is frozen, callbacks.value_pretraining.group_size)"
        )


def check_minibatches(minibatch_rollouts: int, rollouts_per_step: int, group_size: int, keep_groups: bool) -> None:
    """Raises ValueError if minibatches would have different sizes, or cut groups that are to be kept."""
    if keep_groups and minibatch_rollouts % group_size != 0:
        found = f"{minibatch_rollouts} and cuts groups of {group_size}, which module.keep_groups=true keeps together"
        raise ValueError(f"module.minibatch_rollouts is {found}; set it to a multiple of algorithm.group_size")
    if rollouts_per_step % minibatch_rollouts != 0:
        found = f"{minibatch_rollouts} and does not divide data.rollouts_per_step {rollouts_per_step}"
        raise ValueError(f"module.minibatch_rollouts is {found}; set it to a divisor, so that all updates see as many rollouts")


def check_engine(engine: "Engine", prefetch: bool, actor_is_sharded: bool) -> None:
    """Raises ValueError if this engine cannot generate while networks train."""
    if prefetch and (engine.ranks_per_engine > 1 or getattr(engine, "sleep_level", 0) > 0):
        raise ValueError(
            "rollout.prefetch=1 generates while networks train: set rollout.engine.tensor_parallel=1, as collectives "
            "would mix, and rollout.engine.sleep_level=0"
        )
    if prefetch and not (engine.own_weights or actor_is_sharded):
        raise ValueError(
            "rollout.prefetch=1 generates while the actor trains: set rollout.engine.own_weights=true, or rollout=vllm"
        )


def check_length(requests: Sequence[Request], sampling: SamplingParams, most: int, setting: str) -> None:
    """Raises ValueError if an engine that holds `most` tokens of prompt and response could not answer a request to its limit.

    Args:
        setting: what makes the engine hold more.
    """
    longest = max((len(request.prompt_ids) for request in requests), default=0)
    if longest + sampling.max_new_tokens > most:
        shorter = f", or max_new_tokens to {most - longest} or less" if most > longest else ""
        raise ValueError(
            f"a prompt of {longest} tokens and a response of up to {sampling.max_new_tokens} do not fit into the engine's {most}: "
            f"set {setting} to {longest + sampling.max_new_tokens} or more{shorter}"
        )


def check_completions(completions: Sequence[Completion], requests: int, limit: int) -> None:
    """Raises ValueError unless an engine returned a completion of its own for each request, of 1 to `limit` tokens with a finite
    log-probability for each: one wrong place would give a response another problem's reward."""
    faults = [f"{len(completions)} completions for {requests} requests"] * (len(completions) != requests)
    faults += ["the same completion for two requests"] * (len({id(completion) for completion in completions}) < len(completions))
    for i, completion in enumerate(completions):
        tokens, logprobs = len(completion.token_ids), completion.logprobs
        if not 0 < tokens <= limit or len(logprobs) != tokens:
            faults.append(f"completion {i} with {tokens} tokens and {len(logprobs)} log-probabilities, of 1 to {limit}")
        elif not np.isfinite(logprobs).all():
            faults.append(f"completion {i} with a log-probability that is not finite; the actor's weights may not be either")
    if faults:
        raise ValueError(f"the engine returned {faults[0]}: a fault of rollout.engine; resume from the last checkpoint")


def check_logprob_gap(metrics: dict[str, float], sampling: SamplingParams, engine: "Engine") -> None:
    """Raises ValueError if the engine samples from another policy than the trainer's although both share their weights; elsewhere
    the callback Health has an alarm for it. With top-p below 1 the two differ by design."""
    gap = metrics.get("engine/logprob_gap_mean", 0.0)
    if gap > MAX_LOGPROB_GAP and sampling.top_p == 1 and not engine.own_weights:
        raise ValueError(
            f"engine/logprob_gap_mean is {gap:.2g} nats (rounding of bfloat16 explains about 0.03) although engine and trainer "
            "share their weights: set model.attention to sdpa or eager, or rollout=vllm"
        )
