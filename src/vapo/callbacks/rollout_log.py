"""Logs rollouts token by token: one Parquet file per RL step, so a step that is repeated replaces its own file."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, Trainer
from torch import Tensor

from vapo.algorithms import ActorCritic
from vapo.module import RLModule
from vapo.types import Batch, MicroBatch, Rollout
from vapo.whole_file import replacing


class RolloutLog(Callback):
    """Columns: rl_step, group, prompt, response, reference, answer, status, reward, length, finished, actor_lambda; and per token:
    token_ids, sampler_logprobs, values, advantages, targets. Responses that the verifier failed on come last, without reward,
    values, advantages and targets: they are not trained on.

    With `ratio_and_entropy` also per token, of the policy as it is after the step's updates: entropies in nats, and ratios of its
    probability of the token to `old_logprobs`, those that the updates started from, which are logged where the actor computed them
    itself: what a step did to each token; to prefetched ones, it and the step before. A frozen actor has no ratios.
    """

    def __init__(self, folder: str, every_n_steps: int, max_rollouts: int | None, ratio_and_entropy: bool = False) -> None:
        """
        Args:
            folder: where `step_000010.parquet` goes.
            every_n_steps: RL steps between files, >= 1.
            max_rollouts: maximum rollouts written per step, group after group; None for all. All responses to the shortest, the
                longest and a random problem are written in any case.
            ratio_and_entropy: two more passes of the actor over the rollouts that are written.
        """
        if every_n_steps < 1:
            raise ValueError(f"callbacks.rollout_log.every_n_steps is {every_n_steps}; set it to 1 or more")
        self.folder, self.every_n_steps, self.max_rollouts = Path(folder), every_n_steps, max_rollouts
        self.ratio_and_entropy = ratio_and_entropy

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        if module.rl_step % self.every_n_steps != 0 or module.batch is None:
            return
        chosen = chosen_rollouts(module.rollouts, self.max_rollouts, f"{module.seed}/{module.rl_step}")
        batch = module.batch.select(torch.tensor(chosen, dtype=torch.long))
        passes = after_updates(module, batch) if self.ratio_and_entropy and chosen else {}  # on all ranks
        if trainer.is_global_zero:
            self._write(module, [module.rollouts[i] for i in chosen], batch, passes)

    def _write(self, module: RLModule, rollouts: Sequence[Rollout], batch: Batch, passes: dict[str, Tensor]) -> None:
        lengths = batch.response_length_B.tolist()
        per_token = {"values": batch.value_R, "advantages": batch.advantage_R, "targets": batch.target_R} | passes
        columns = {name: [x_T.tolist() for x_T in x_R.split(lengths)] for name, x_R in per_token.items() if x_R is not None}
        columns["reward"] = module.algorithm.reward(batch).tolist()
        if isinstance(module.algorithm, ActorCritic):
            columns["actor_lambda"] = module.algorithm.policy_lambda(batch).tolist()
        groups = {rollout.prompt.index: rollout.group for rollout in module.rollouts}
        faults = [
            replace(rollout, group=groups.setdefault(rollout.prompt.index, len(groups)))
            for rollout in module.sampled
            if not rollout.judged
        ][: self.max_rollouts]
        rows = [
            {
                "rl_step": module.rl_step,
                "group": rollout.group,
                "prompt": rollout.prompt.text,
                "response": module.sampler.decode(rollout.completion.token_ids),
                "reference": rollout.prompt.reference,
                "answer": rollout.verdict.answer,
                "status": rollout.verdict.status.value,
                "length": len(rollout.completion.token_ids),
                "finished": rollout.completion.finished,
                "token_ids": rollout.completion.token_ids.tolist(),
                "sampler_logprobs": rollout.completion.logprobs.tolist(),
                **{name: values[i] if i < len(values) else None for name, values in columns.items()},
            }
            for i, rollout in enumerate([*rollouts, *faults])
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"step_{module.rl_step:06d}.parquet") as partial:
            pd.DataFrame(rows).to_parquet(partial, index=False)


def chosen_rollouts(rollouts: Sequence[Rollout], most: int | None, seed: str) -> list[int]:
    """Indices of the first `most` rollouts (None: all), and of all responses to the problem with the fewest prompt tokens, to that
    with the most, and to one that `seed` draws."""
    lengths = {rollout.group: len(rollout.prompt.token_ids) for rollout in rollouts}
    groups = sorted(lengths, key=lambda group: (lengths[group], group))
    kept = {groups[0], groups[-1], random.Random(seed).choice(groups)}
    limit = len(rollouts) if most is None else most
    return [i for i, rollout in enumerate(rollouts) if i < limit or rollout.group in kept]


def after_updates(module: RLModule, batch: Batch) -> dict[str, Tensor]:
    """entropies, and where the actor trained ratios, of the batch's response tokens under the policy as it is now; old_logprobs
    if they are the actor's and not the engine's."""

    def entropy(micro: MicroBatch) -> Tensor:
        entropy_R = module.actor(micro, module.sampling.temperature, with_entropy=True)[1]
        assert entropy_R is not None
        return entropy_R

    per_token, old = module.learners["actor"].per_token, batch.old_logprob_R
    columns = {"entropies": per_token(batch, entropy)}
    if old is not None and module.actor_trained:
        columns["ratios"] = (per_token(batch, lambda micro: module.actor(micro, module.sampling.temperature)[0]) - old).exp()
        assert module.batch is not None
        if module.batch.old_logprob_R is not module.batch.sampler_logprob_R:
            columns["old_logprobs"] = old
    return columns
