"""Logs rollouts token by token: one Parquet file per RL step, so a step that is repeated replaces its own file."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, Trainer

from vapo.module import RLModule


class RolloutLog(Callback):
    """Columns: rl_step, group, prompt, response, reference, answer, status, reward, length, finished; and per token: token_ids,
    sampler_logprobs, values, advantages, targets."""

    def __init__(self, folder: str, every_n_steps: int, max_rollouts: int | None) -> None:
        """
        Args:
            folder: where `step_000010.parquet` goes.
            every_n_steps: RL steps between files, >= 1.
            max_rollouts: maximum rollouts written per step, group after group; None for all.
        """
        if every_n_steps < 1:
            raise ValueError(f"callbacks.rollout_log.every_n_steps is {every_n_steps}; set it to 1 or more")
        self.folder, self.every_n_steps, self.max_rollouts = Path(folder), every_n_steps, max_rollouts

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        if module.rl_step % self.every_n_steps != 0 or not trainer.is_global_zero or module.batch is None:
            return
        rollouts = module.rollouts[: self.max_rollouts]
        batch = module.batch.select(torch.arange(len(rollouts)))
        rewards, lengths = module.algorithm.reward(batch).tolist(), batch.response_length_B.tolist()
        per_token = {
            name: [piece.tolist() for piece in x_R.split(lengths)]
            for name, x_R in (("values", batch.value_R), ("advantages", batch.advantage_R), ("targets", batch.target_R))
            if x_R is not None
        }
        rows = [
            {
                "rl_step": module.rl_step,
                "group": rollout.group,
                "prompt": rollout.prompt.text,
                "response": module.sampler.decode(rollout.completion.token_ids),
                "reference": rollout.prompt.reference,
                "answer": rollout.verdict.answer,
                "status": rollout.verdict.status.value,
                "reward": rewards[i],
                "length": lengths[i],
                "finished": rollout.completion.finished,
                "token_ids": rollout.completion.token_ids.tolist(),
                "sampler_logprobs": rollout.completion.logprobs.tolist(),
                **{name: values[i] for name, values in per_token.items()},
            }
            for i, rollout in enumerate(rollouts)
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{module.rl_step:06d}.parquet"
        partial = path.with_suffix(".partial")
        pd.DataFrame(rows).to_parquet(partial, index=False)
        partial.replace(path)
