"""Collates rollouts into one ragged `Batch`."""

from collections.abc import Sequence

import torch

from vapo.types import Batch, Rollout


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
