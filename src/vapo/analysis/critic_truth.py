"""Compares the critic with the truth: its value of a prefix, and how often new continuations of that prefix succeed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from vapo.algorithms import outcome_reward
from vapo.module import RLModule
from vapo.rollout.collate import collate
from vapo.rollout.sampler import sampling_seed
from vapo.types import Request, Rollout, Status
from vapo.verifiers.base import Verifier


@torch.no_grad()
def critic_against_truth(
    module: RLModule, rollouts: Sequence[Rollout], verifier: Verifier, positions: int, continuations: int, seed: int
) -> pd.DataFrame:
    """Cuts each rollout at evenly spaced places and samples new continuations from there.

    Args:
        module: with networks built, and an engine; the engine gets the actor's weights.
        rollouts: rollouts of any policy; the truth is that of the module's actor, continuing their prefixes.
        positions: prefixes per rollout, >= 1; the first is the bare prompt.
        continuations: samples per prefix, >= 1; 64 bring the truth's standard error below 0.13 for rewards of +-1.

    Returns:
        a row per prefix: rollout, tokens before it, its place in the response from 0 to below 1, the critic's value, the mean
        reward of the continuations (truth) and its standard error (noise), the reward of the rollout itself.
    """
    engine = module.sampler.engine
    engine.load_weights(module.actor, module.actor_updates)
    batch = collate(rollouts)
    values = module.learners["critic"].per_token(batch, module.critic).split(batch.response_length_B.tolist())
    rows, requests = [], []
    for i, rollout in enumerate(rollouts):
        tokens = rollout.completion.token_ids
        places = {len(tokens) * k // positions: k / positions for k in reversed(range(positions))}  # in a short one, some coincide
        for at, place in sorted(places.items()):
            rows.append((i, at, place, values[i][at].item(), 1.0 if rollout.correct else -1.0))
            prefix = (*rollout.prompt.token_ids, *tokens[:at].tolist())
            requests += [Request(prefix, sampling_seed(seed, at, i, sample)) for sample in range(continuations)]
    completions = engine.generate(requests, module.sampling)
    correct = []
    for number, completion in enumerate(completions):
        i, at, *_ = rows[number // continuations]
        ids = np.concatenate([rollouts[i].completion.token_ids[:at], completion.token_ids])
        limit = module.sampling.max_new_tokens  # where training would have cut it
        text = verifier.judged(module.sampler.decode(ids[:limit]), completion.finished and len(ids) <= limit)
        correct.append(bool(text) and verifier(text, rollouts[i].prompt.reference).status is Status.CORRECT)
    truth = outcome_reward(torch.tensor(correct)).view(-1, continuations).mean(-1).tolist()
    frame = pd.DataFrame(rows, columns=["rollout", "tokens", "place", "value", "reward"]).assign(truth=truth)
    return frame.assign(noise=((1 - frame["truth"] ** 2) / continuations) ** 0.5)


def by_place(frame: pd.DataFrame) -> pd.DataFrame:
    """Summary of `critic_against_truth` by place in the response: a row per place.

    Returns:
        prefixes, mean value, mean truth, root mean square of their difference, and of the truth's standard error, by which
        even a perfect critic differs. All but the first in units of reward.
    """
    shown = frame.assign(difference=(frame["value"] - frame["truth"]) ** 2, noise=frame["noise"] ** 2)
    table = shown.groupby("place").agg(
        prefixes=("value", "size"),
        value=("value", "mean"),
        truth=("truth", "mean"),
        difference=("difference", "mean"),
        noise=("noise", "mean"),
    )
    return table.assign(difference=table["difference"] ** 0.5, noise=table["noise"] ** 0.5)
