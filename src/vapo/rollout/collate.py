"""Collates rollouts into one ragged `Batch`."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from vapo.types import Batch, Rollout


def without_faults(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts with a verdict, groups numbered 0, 1, ... anew: what a verifier failed on has no reward, and enters no loss,
    group mean or value target. Its group goes on without it.

    Raises:
        ValueError: there is none.
    """
    judged = [rollout for rollout in rollouts if rollout.judged]
    if not judged:
        raise ValueError(
            f"the verifier failed on all {len(rollouts)} responses: raise data.verifier.timeout, or look at its answers"
        )
    numbers = {group: number for number, group in enumerate(sorted({rollout.group for rollout in judged}))}
    return [
        rollout if numbers[rollout.group] == rollout.group else replace(rollout, group=numbers[rollout.group]) for rollout in judged
    ]


def collate(rollouts: Sequence[Rollout]) -> Batch:
    """Concatenates rollouts, in order, into one batch."""
    completions = [rollout.completion for rollout in rollouts]
    prompts = {ids: torch.tensor(ids, dtype=torch.int32) for ids in {rollout.prompt.token_ids for rollout in rollouts}}
    return Batch(
        token_N=torch.cat([x for r in rollouts for x in (prompts[r.prompt.token_ids], torch.from_numpy(r.completion.token_ids))]),
        prompt_length_B=torch.tensor([len(r.prompt.token_ids) for r in rollouts]),
        response_length_B=torch.tensor([len(c.token_ids) for c in completions]),
        group_B=torch.tensor([r.group for r in rollouts]),
        correct_B=torch.tensor([r.correct for r in rollouts]),
        truncated_B=torch.tensor([not c.finished for c in completions]),
        sampler_logprob_R=torch.cat([torch.from_numpy(c.logprobs) for c in completions]),
    )
