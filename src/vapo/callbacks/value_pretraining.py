"""Value pretraining (technique 1): trains the critic on rollouts of the frozen policy.

For the first RL steps only the critic trains, on Monte-Carlo returns (VAPO section 4.1, VC-PPO) unless
`algorithm.pretraining_lambda` is below 1. This ends after `algorithm.value_pretraining_steps`, or when explained variance on
held-out rollouts stops rising. No rollout of the frozen policy reaches an actor update: each RL step uses its own rollouts only.
"""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from vapo.algorithms import ActorCritic, explained_variance, explained_variance_sums
from vapo.distributed.ranks import gather_lists, raise_on_all_ranks, rank
from vapo.distributed.sharding import checksums
from vapo.module import RLModule
from vapo.rollout.collate import collate, without_faults
from vapo.types import Batch

HELD_OUT_STEP = -2  # keys the sampling seeds of held-out rollouts: no RL step has it


def fingerprint(network: nn.Module) -> str:
    """Short digest of a network's names, shapes and checksums: the same for equal weights, however they are sharded."""
    digest = hashlib.sha256()
    state = network.state_dict()
    for name, total in checksums(state.items()).items():
        digest.update(f"{name}{tuple(state[name].shape)}{total}".encode())
    return digest.hexdigest()[:16]


class ValuePretraining(Callback):
    """Freezes the actor, tracks the critic's explained variance, then unfreezes the actor."""

    def __init__(
        self,
        steps: int,
        heldout_rollouts: int,
        patience: int | None,
        min_delta: float,
        group_size: int | None = None,
        critic_file: str | None = None,
    ) -> None:
        """
        Args:
            steps: maximum RL steps with a frozen actor; 0 turns the technique off.
            heldout_rollouts: rollouts of the frozen policy for measuring explained variance, never trained on.
            patience: stop after this many RL steps in a row without a rise of more than `min_delta` above the best explained
                variance; None takes all steps.
            group_size: responses per prompt during value pretraining (rollouts per step unchanged); None keeps
                algorithm.group_size. The critic learns more from many problems than from many responses to few.
            critic_file: the pretrained critic is loaded from here if the file exists, else saved here, so a sweep pretrains once.
                A file made with another base model, critic initialization, task, sampling, return, training or precision is
                refused.
        """
        if patience is not None and patience < 1:
            raise ValueError(
                f"value pretraining patience is {patience}; set callbacks.value_pretraining.patience to 1 or more, or null"
            )
        if group_size is not None and group_size < 1:
            raise ValueError(
                f"value pretraining's group size is {group_size}; set callbacks.value_pretraining.group_size to 1 or more, or null"
            )
        if steps > 0 and heldout_rollouts < 1:
            raise ValueError(
                "value pretraining needs held-out rollouts; set callbacks.value_pretraining.heldout_rollouts to 1 or more"
            )
        self.steps, self.patience, self.min_delta = steps, patience, min_delta
        self.group_size = group_size
        self.heldout_rollouts, self.critic_file = heldout_rollouts, None if critic_file is None else Path(critic_file)
        self.done = steps == 0
        self.steps_done, self.best, self.waited = 0, float("-inf"), 0
        self.key: dict[str, str] = {}
        self._heldout: Batch | None = None

    def on_train_start(self, trainer: Trainer, module: RLModule) -> None:
        if self.done:
            return
        module.actor_frozen = True
        datamodule = module.datamodule
        datamodule.regroup(self.group_size)
        if not self.key:  # the weights are still the initial ones; a resumed run has restored its key
            self.key = self._make_key(trainer, module)
        prompts = datamodule.held_out(self.heldout_rollouts)
        self._heldout = collate(without_faults(module.sample(prompts, 1, module.sampling, HELD_OUT_STEP, "heldout")))
        (found,) = gather_lists([self.critic_file is not None and self.critic_file.exists()] if rank() == 0 else [])
        if found and self._load(trainer, module):
            clock = {"clock/policy_step": 0.0, "clock/rollouts": float(module.rollouts_sampled)}
            module.record({"value_pretraining/heldout_explained_variance": self._explained_variance(module)} | clock)
            self._finish(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        if self.done:
            return
        self.steps_done += 1
        explained = self._explained_variance(module)
        module.record({"value_pretraining/heldout_explained_variance": explained})
        if explained > self.best + self.min_delta:
            self.best, self.waited = explained, 0
        else:
            self.waited += 1
        if self.steps_done >= self.steps or (self.patience is not None and self.waited >= self.patience):
            if self.critic_file is not None:
                self._save(trainer, module)
            self._finish(trainer, module)

    def _finish(self, trainer: Trainer, module: RLModule) -> None:
        module.datamodule.regroup(None)
        module.actor_frozen, self.done, self._heldout = False, True, None

    def _explained_variance(self, module: RLModule) -> float:
        assert self._heldout is not None and isinstance(module.algorithm, ActorCritic)
        value_R = module.learners["critic"].per_token(self._heldout, module.critic)
        return_R = module.algorithm.monte_carlo_return(self._heldout)
        sums = explained_variance_sums(value_R, return_R)
        return explained_variance(sums).item()

    def _make_key(self, trainer: Trainer, module: RLModule) -> dict[str, str]:
        algorithm, sampling, datamodule = module.algorithm, module.sampling, module.datamodule
        if not isinstance(algorithm, ActorCritic):
            raise ValueError(
                f"{type(algorithm).__name__} has no critic to pretrain; set callbacks.value_pretraining.steps to 0, or "
                "algorithm to one with a critic, such as vapo"
            )
        learner = module.learners["critic"]
        training = {
            "steps": (self.steps, self.patience, self.min_delta),
            "updates": (
                datamodule.rollouts_per_step,
                datamodule.group_size,
                module.minibatch_rollouts,
                module.value_pretraining_epochs,
                *(("whole groups",) if module.keep_groups else ()),  # without it the key is that of older files
            ),
            "optimizer": (
                {k: v for k, v in learner.optimizer.defaults.items() if k not in ("fused", "foreach")},
                [learner.schedule.lr_lambdas[0](step) for step in range(self.steps)],
                learner.max_grad_norm,
                algorithm.clip_value,
            ),
        }
        return {
            "base model": fingerprint(module.actor),
            "critic initialization": fingerprint(module.critic),
            "task": f"{datamodule.source.describe()}, verifier {datamodule.verifier.describe()}",
            "sampling": str(sampling) if not sampling.stop else f"{sampling}, stop {sampling.stop}",
            "return": f"lambda {algorithm.pretraining_lambda}, gamma {algorithm.gamma}, "
            f"overlong buffer {algorithm.overlong_buffer}",
            "training": str(training),
            "precision": f"{next(module.critic.parameters()).dtype}, {module.actor.compute_dtype}, {trainer.precision}",
        }

    def _save(self, trainer: Trainer, module: RLModule) -> None:
        assert self.critic_file is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)  # whole, so that it fits any number of ranks
        critic, optimizer = get_state_dict(module.critic, module.learners["critic"].optimizer, options=options)
        state = {
            "key": self.key,
            "run": str(trainer.default_root_dir),
            "seed": module.seed,
            "clock": {name: getattr(module, name) for name in ("rl_step", "critic_updates", "rollouts_sampled")},
            "datamodule": module.datamodule.state_dict(),
            "critic": critic,
            "optimizer": optimizer,
            "schedule": module.learners["critic"].schedule.state_dict(),
        }
        with raise_on_all_ranks():
            if rank() == 0:
                self.critic_file.parent.mkdir(parents=True, exist_ok=True)
                partial = self.critic_file.with_name(f"{self.critic_file.name}.{id(self)}.partial")
                torch.save(state, partial)
                partial.replace(self.critic_file)  # atomic: another job of a sweep may be reading

    def _load(self, trainer: Trainer, module: RLModule) -> bool:
        """Restores critic, optimizer, counters and prompt cursor, so that this run continues exactly as the one that wrote the file
        and trains on none of its rollouts again. Returns False if this run wrote the file itself."""
        assert self.critic_file is not None
        state = torch.load(self.critic_file, map_location="cpu", weights_only=True, mmap=True)  # every rank reads it
        if state["run"] == str(trainer.default_root_dir):
            return False  # this run wrote it and was killed before its next checkpoint: repeat those steps
        differs = [name for name in self.key if state["key"].get(name) != self.key[name]]
        if differs:
            raise ValueError(
                f"the pretrained critic in {self.critic_file} was made with another {', '.join(differs)}; "
                "set callbacks.value_pretraining.critic_file to another path, or to null"
            )
        if rank() == 0 and state.get("seed", module.seed) != module.seed:
            warnings.warn(
                f"the critic in {self.critic_file} is of seed {state['seed']}, this run of {module.seed}: value pretraining then "
                "adds nothing to what differs between seeds. For a critic each, put ${seed} into "
                "callbacks.value_pretraining.critic_file",
                stacklevel=2,
            )
        set_state_dict(
            module.critic,
            module.learners["critic"].optimizer,
            model_state_dict=state["critic"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(full_state_dict=True),
        )
        module.learners["critic"].schedule.load_state_dict(state["schedule"])
        for name, value in state["clock"].items():
            setattr(module, name, value)
        module.datamodule.load_state_dict(state["datamodule"])
        return True

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("done", "steps_done", "best", "waited", "key")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)
