"""Rollouts without objects per token: their token ids and log-probabilities in two flat arrays, and the rest of each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from vapo.distributed.ranks import gather_lists, rank, sum_over_ranks
from vapo.types import Completion, Prompt, Rollout, Verdict


@dataclass(frozen=True)
class Outline:
    """A rollout without its tokens."""

    prompt: Prompt
    group: int
    verdict: Verdict
    finished: bool
    length: int  # response tokens

    @classmethod
    def of(cls, rollout: Rollout) -> "Outline":
        completion = rollout.completion
        return cls(rollout.prompt, rollout.group, rollout.verdict, completion.finished, len(completion.token_ids))


def gather_rollouts(part: Sequence[Rollout]) -> list[Rollout]:
    """Every rank's rollouts, joined in the order of ranks, on all ranks. Outlines travel as objects. Of tokens and
    log-probabilities every rank writes its share into a buffer for all, and the buffers are summed in place.
    """
    parts = gather_lists([[Outline.of(rollout) for rollout in part]])
    outlines = list(chain.from_iterable(parts))
    token_R, logprob_R = flat(part, sum(o.length for o in chain.from_iterable(parts[: rank()])), sum(o.length for o in outlines))
    return rollouts_of(outlines, sum_over_ranks(token_R), sum_over_ranks(logprob_R))


def flat(part: Sequence[Rollout], start: int, size: int) -> tuple[Tensor, Tensor]:
    """token_R (int32) and logprob_R (float32) with `size` entries: those of `part` from `start` on, and 0 elsewhere."""
    token_R, logprob_R = torch.zeros(size, dtype=torch.int32), torch.zeros(size)
    for completion in (rollout.completion for rollout in part):
        end = start + len(completion.token_ids)
        token_R.numpy()[start:end], logprob_R.numpy()[start:end] = completion.token_ids, completion.logprobs
        start = end
    return token_R, logprob_R


def rollouts_of(outlines: Sequence[Outline], token_R: Tensor, logprob_R: Tensor) -> list[Rollout]:
    """The rollouts, whose completions are views of `token_R` and `logprob_R`."""
    tokens, logprobs, rollouts, end = token_R.numpy(), logprob_R.numpy(), [], 0
    for outline in outlines:
        start, end = end, end + outline.length
        completion = Completion(tokens[start:end], logprobs[start:end], outline.finished)
        rollouts.append(Rollout(outline.prompt, outline.group, completion, outline.verdict))
    return rollouts
