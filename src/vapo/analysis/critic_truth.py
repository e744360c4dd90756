"""The critic beside the truth: its value of a prefix, and how often fresh continuations of that prefix succeed."""

from collections.abc import Sequence

import pandas as pd
import torch

from vapo.algorithms import outcome_reward
from vapo.module import RLModule
from vapo.rollout.collate import collate
from vapo.rollout.collect import sampling_seed
from vapo.types import Request, Rollout, SamplingParams, Status
from vapo.verifiers.base import Verifier


@torch.no_grad()
def critic_against_truth(
    module: RLModule, rollouts: Sequence[Rollout], verifier: Verifier, positions: int, continuations: int, seed: int
) -> pd.DataFrame:
    """Cuts each rollout at evenly spaced places and finishes it anew from there.

    Args:
        module: with networks built, and an engine; the engine gets the actor's weights.
        rollouts: of any policy; the truth is that of the module's actor going on from their prefixes.
        positions: prefixes per rollout, >= 1; the first is the bare prompt.
        continuations: samples per prefix, >= 1; 64 bring the truth's standard error below 0.13 for rewards of +-1.

    Returns:
        a row per prefix: rollout, tokens before it, its share of the response, the critic's value, the mean reward of the
        continuations, the reward of the rollout itself.
    """
    module.engine.load_weights(module.actor.language_model, module.actor_updates)
    batch = collate(rollouts)
    values = module.per_token(batch, module.critic).split(batch.response_length_B.tolist())
    rows, requests = [], []
    for i, rollout in enumerate(rollouts):
        tokens = rollout.completion.token_ids
        for at in sorted({len(tokens) * k // positions for k in range(positions)}):
            rows.append((i, at, at / len(tokens), values[i][at].item(), 1.0 if rollout.correct else -1.0))
            prefix = (*rollout.prompt.token_ids, *tokens[:at])
            requests += [Request(prefix, sampling_seed(seed, at, i, sample)) for sample in range(continuations)]
    left = SamplingParams(module.sampling.temperature, module.sampling.top_p, module.sampling.max_new_tokens)
    completions = module.engine.generate(requests, left)
    correct = []
    for number, completion in enumerate(completions):
        i, at, *_ = rows[number // continuations]
        ids = [*rollouts[i].completion.token_ids[:at], *completion.token_ids]
        text = str(module.tokenizer.decode(ids, skip_special_tokens=True))
        correct.append(completion.finished and verifier(text, rollouts[i].prompt.reference).status is Status.CORRECT)
    truth = outcome_reward(torch.tensor(correct)).view(-1, continuations).mean(-1).tolist()
    frame = pd.DataFrame(rows, columns=["rollout", "tokens", "share", "value", "reward"])
    return frame.assign(truth=truth)


def by_place(frame: pd.DataFrame) -> pd.DataFrame:
    """Summary of `critic_against_truth` by tenths of the response: a row per tenth that has prefixes, by the tenth's number 0 to 9.

    Returns:
        prefixes, mean value, mean truth, and the mean distance of the two, in units of reward.
    """
    shown = frame.assign(error=(frame["value"] - frame["truth"]).abs())
    return shown.groupby((frame["share"] * 10).astype(int).clip(upper=9).rename("tenth")).agg(
        prefixes=("value", "size"), value=("value", "mean"), truth=("truth", "mean"), error=("error", "mean")
    )
