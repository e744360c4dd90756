"""Where a step's rollouts come from: sampled by the policy, verified, and if wanted made one step ahead."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from vapo.algorithms import PolicyGradient
from vapo.metrics import PhaseClock
from vapo.models.sharding import is_sharded
from vapo.networks import Networks
from vapo.rollout.ahead import Ahead
from vapo.rollout.collect import collect, collect_share
from vapo.rollout.dynamic_sampling import dynamic_sampling
from vapo.types import Prompt, Rollout, SamplingParams


class Experience(Networks):
    """The first of the five verbs, and what callbacks sample with."""

    policy_steps: int

    def __init__(
        self,
        algorithm: PolicyGradient,
        *networks: Any,
        tokenizer: PreTrainedTokenizerBase,
        sampling: SamplingParams,
        ahead: int,
        seed: int,
    ) -> None:
        """
        Args:
            networks: the other arguments of `Networks`.
            ahead: 1 generates the next step's rollouts while this step's train: they are one policy old. 0 waits for them.
        """
        super().__init__(algorithm, *networks)
        if sampling.temperature == 0:
            raise ValueError(
                "rollout.sampling.temperature is 0: greedy rollouts explore nothing; set it above 0, the paper's is 1.0"
            )
        if ahead not in (0, 1):
            raise ValueError(f"rollout.ahead is {ahead}; set it to 0, or to 1 for rollouts one policy old")
        if ahead == 1 and sampling.top_p < 1:
            raise ValueError(
                f"rollout.ahead=1 takes the engine's log-probabilities for the old policy's, but with rollout.sampling.top_p "
                f"{sampling.top_p} those are of a truncated distribution: set top_p to 1, or ahead to 0"
            )
        if ahead == 1 and (algorithm.dynamic_sampling or algorithm.mismatch is not None):
            raise ValueError(
                "rollout.ahead=1 needs algorithm.dynamic_sampling=false, which asks for more prompts when it sees the rollouts, "
                "and algorithm.mismatch=null: old log-probabilities are the engine's own"
            )
        if algorithm.mismatch is not None and sampling.top_p < 1:
            raise ValueError(
                f"algorithm.mismatch compares whole distributions, but rollout.sampling.top_p is {sampling.top_p}: set it to 1, or "
                "algorithm.mismatch to null"
            )
        self.tokenizer, self.sampling, self.seed = tokenizer, sampling, seed
        self.run_ahead, self.ahead = ahead == 1, Ahead()
        self.policy_age = 0  # RL steps of policy training between the sampling of the step's rollouts and the step
        self.actor_frozen = False  # set by the ValuePretraining callback
        self.clock = PhaseClock()
        self.sampled: list[Rollout] = []  # all rollouts of the last step
        self.rollouts: list[Rollout] = []  # those of them that trained: all, but with dynamic sampling

    def configure_model(self) -> None:
        super().configure_model()
        if self.run_ahead and (self.engine.ranks_together > 1 or getattr(self.engine, "sleep_level", 0) > 0):
            raise ValueError(
                "rollout.ahead=1 generates while networks train: set rollout.engine.tensor_parallel=1, as collectives "
                "would mix, and rollout.engine.sleep_level=0"
            )
        if self.run_ahead and not (self.engine.own_weights or is_sharded(self.actor)):
            raise ValueError(
                "rollout.ahead=1 generates while the actor trains: set rollout.engine.own_weights=true, or rollout=vllm"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["vapo"]["ahead"] = self.ahead.state_dict(self.engine)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.ahead.load_state_dict(checkpoint["vapo"]["ahead"])

    def collect(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        """Group-samples responses with the current policy and verifies them; dynamic sampling goes on until enough are mixed."""
        datamodule, algorithm = self.trainer.datamodule, self.algorithm  # type: ignore[attr-defined]

        def draw(number: int) -> list[Rollout]:
            drawn = prompts if number == 0 else datamodule.draw(number)
            return self.sample(drawn, datamodule.group_size, self.sampling, self.seed, self.rl_step, "rollout")

        self.policy_age = 0
        if not algorithm.dynamic_sampling or self.actor_frozen:
            self.sampled = self.rollouts = self.take_ahead() or draw(0)
            self.start_ahead()
        else:
            self.rollouts, self.sampled = dynamic_sampling(
                draw, datamodule.group_size, datamodule.prompts_per_step, algorithm.max_draws
            )
        return self.rollouts

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: SamplingParams, seed: int, rl_step: int, phase: str
    ) -> list[Rollout]:
        """Rollouts of the current policy; `phase` names where their time is counted."""
        self.sync()
        verifier = self.trainer.datamodule.verifier  # type: ignore[attr-defined]
        needed = nullcontext() if self.engine.own_weights else self.at_hand("actor")
        with (
            needed,
            self.clock.phase(phase),
            self.trainer.precision_plugin.forward_context(),
        ):  # also where Lightning has not set it
            rollouts = collect(prompts, group_size, self.engine, sampling, self.tokenizer, verifier, seed, rl_step)
        self.clock.tokens[phase] += sum(len(rollout.completion.token_ids) for rollout in rollouts)
        return rollouts

    def sync(self) -> None:
        """Gives the engine the actor's weights, if it has others."""
        self.ahead.wait()
        if self.engine.weights_version != self.actor_updates:
            with self.clock.phase("sync"), self.at_hand("actor"):
                for name, value in self.engine.load_weights(self.actor, self.actor_updates).items():
                    self.metrics.mean(name, value)

    def take_ahead(self) -> list[Rollout] | None:
        """This step's rollouts, if the last step had them made."""
        with self.clock.phase("rollout"):
            rollouts = self.ahead.take(self.engine, self.trainer.datamodule.verifier)  # type: ignore[attr-defined]
        if rollouts is not None:
            self.policy_age = 1  # and no speed is logged: the time is that of waiting only
        return rollouts

    def start_ahead(self) -> None:
        """Has the next step's rollouts made by the policy as it is now, before this step's updates."""
        if not self.run_ahead or self.actor_frozen or self.policy_step + 1 == self.policy_steps:
            return
        self.sync()
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        asked = (datamodule.draw(1), datamodule.group_size, self.engine, self.sampling, self.tokenizer, datamodule.verifier)
        rl_step = self.rl_step + 1

        def work() -> list[Rollout]:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)  # a thread begins on GPU 0
            with self.trainer.precision_plugin.forward_context():
                return collect_share(*asked, self.seed, rl_step)

        self.ahead.start(work)
