"""VAPO's loop. Read `training_step`: collect, annotate, credit, improve, report; `vapo.algorithms` holds the equations it calls."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase

from vapo.algorithms import ActorCritic, PolicyGradient
from vapo.experience import Experience
from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.models.sharding import Sharding
from vapo.ranks import world_size
from vapo.reporting import report_step
from vapo.rollout.collate import collate
from vapo.rollout.engine import Engine
from vapo.types import Batch, MicroBatch, Prompt, Rollout, SamplingParams


class RLModule(Experience):
    """Actor and critic under manual optimization. Its clock is the RL step: one batch of prompts, several updates of each network.

    Networks and engine are built in `configure_model`, which Lightning calls where their parameters belong.
    """

    def __init__(
        self,
        algorithm: PolicyGradient,
        actor: Callable[[], Actor],
        critic: Callable[[], Critic],
        tokenizer: PreTrainedTokenizerBase,
        engine: Callable[..., Engine],
        sampling: SamplingParams,
        ahead: int,
        actor_optimizer: Callable[..., Optimizer],
        critic_optimizer: Callable[..., Optimizer],
        actor_schedule: Callable[[Optimizer], LambdaLR],
        critic_schedule: Callable[[Optimizer], LambdaLR],
        policy_steps: int,
        minibatch_rollouts: int,
        microbatch_tokens: int,
        epochs: int,
        value_pretraining_epochs: int,
        max_grad_norm: float | None,
        max_skipped_updates: int,
        offload: bool,
        sharding: Sharding,
        seed: int,
    ) -> None:
        """
        Args:
            ahead: see `Experience`.
            policy_steps: RL steps in which the actor trains; training stops after them. Value pretraining comes on top.
            minibatch_rollouts: rollouts per optimizer step; must divide the rollouts of a step.
            microbatch_tokens: most padded tokens in one forward; memory only, it changes no result.
            epochs: passes over each step's rollouts; value_pretraining_epochs: the same while the actor is frozen.
            max_grad_norm: gradients of each network are scaled down to this norm; None for no clipping.
            max_skipped_updates: updates in a row whose gradient was not finite, and which were dropped; one more stops the run.
            offload: networks and optimizers that are not in use wait in the memory of the CPU.
            sharding: of networks over ranks, where the trainer shards.
            seed: of sampling and minibatch order.
        """
        optimizers = (actor_optimizer, critic_optimizer, actor_schedule, critic_schedule)
        networks = (actor, critic, engine, *optimizers, max_grad_norm, max_skipped_updates, offload, sharding)
        super().__init__(algorithm, *networks, tokenizer=tokenizer, sampling=sampling, ahead=ahead, seed=seed)
        counts = dict(minibatch_rollouts=minibatch_rollouts, microbatch_tokens=microbatch_tokens, epochs=epochs)
        for name, value in {**counts, "value_pretraining_epochs": value_pretraining_epochs, "policy_steps": policy_steps}.items():
            if value < 1:
                raise ValueError(f"module.{name} is {value}; set it to 1 or more")
        self.policy_steps, self.minibatch_rollouts, self.microbatch_tokens = policy_steps, minibatch_rollouts, microbatch_tokens
        self.epochs, self.value_pretraining_epochs = epochs, value_pretraining_epochs
        self.actor_trained = False  # in the last step
        self.batch: Batch | None = None
        self.latest: dict[str, float] = {}  # newest value of every metric, for people

    # --- one step of the algorithm -----------------------------------------------------------------------------------

    def training_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        rollouts = self.collect(prompts)
        batch = self.annotate(rollouts)
        batch = self.algorithm.credit(batch, monte_carlo=self.actor_frozen)
        self.improve(batch)
        self.report(batch)

    @torch.no_grad()
    def annotate(self, rollouts: Sequence[Rollout]) -> Batch:
        """Adds the critic's values and the actor's log-probabilities as they are before the first update."""
        self.engine.rest()
        batch = collate(rollouts)
        with self.clock.phase("annotate", len(batch.token_N)):
            if self.algorithm.needs_critic:
                with self.at_hand("critic"):
                    batch = batch.with_(value_R=self.per_token(batch, self.critic))
            if self.algorithm.needs_reference:
                with self.at_hand("reference"):
                    batch = batch.with_(reference_logprob_R=self.per_token(batch, partial(self._logprob, self.reference)))
            if self.policy_age > 0:  # the actor has moved since: only the engine knows what it sampled from
                batch = batch.with_(old_logprob_R=batch.sampler_logprob_R)
            elif not self.actor_frozen:
                with self.at_hand("actor"):
                    batch = batch.with_(old_logprob_R=self.per_token(batch, partial(self._logprob, self.actor)))
        return batch

    def improve(self, batch: Batch) -> None:
        """Updates the critic on each minibatch, then the actor; only the critic while the actor is frozen (technique 1). Neither
        update reads what the other changes, so each network works through the batch alone."""
        epochs = self.value_pretraining_epochs if self.actor_frozen else self.epochs
        backward = {"critic": self.backward_critic} if self.algorithm.needs_critic else {}
        backward |= {} if self.actor_frozen else {"actor": self.backward_actor}
        for name, accumulate_gradient in backward.items():
            with self.at_hand(name):
                for epoch in range(epochs):
                    for index_B in self.minibatches(len(batch), epoch):
                        minibatch = batch.select(index_B)
                        with self.clock.phase(f"{name}_update", len(minibatch.token_N)):
                            accumulate_gradient(minibatch)
                            self.apply_gradient(name, minibatch)
                        setattr(self, f"{name}_updates", getattr(self, f"{name}_updates") + 1)
        self.rl_step += 1
        self.policy_step += not self.actor_frozen
        self.actor_trained = not self.actor_frozen
        for name, schedule in self.schedules.items():
            if name == "critic" or self.actor_trained:
                schedule.step()

    def report(self, batch: Batch) -> None:
        """Logs the step, moves the prompt cursor, and stops after `policy_steps`."""
        self.batch = batch
        self.rollouts_sampled += len(self.sampled)
        report_step(self, self.sampled, batch)
        self.record(self.metrics.flush())
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        datamodule.consume(len(self.sampled) // datamodule.group_size)
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()  # raw optimizers leave Lightning's global_step at 0; now it, and max_steps, count RL steps
        progress.increment_completed()
        self.trainer.should_stop = self.trainer.should_stop or self.is_last_step

    # --- gradients -----------------------------------------------------------------------------------------------------

    def backward_critic(self, minibatch: Batch) -> None:
        """Accumulates the critic's gradient over a whole optimiser minibatch, however it is cut into micro-batches."""
        assert isinstance(self.algorithm, ActorCritic)
        total = self.algorithm.normalisers(minibatch)
        for micro in self.micro_batches(minibatch, train="critic"):
            loss = self.algorithm.critic_loss(self.critic(micro), micro, total)
            self.manual_backward(loss)
            self.metrics.mean("critic/value_loss", loss, 0)
        self.metrics.mean("critic/value_loss", 0.0, 1 / world_size())  # each micro-batch added its share of the mean

    def backward_actor(self, minibatch: Batch) -> None:
        """Accumulates the actor's gradient over a whole optimiser minibatch."""
        total = self.algorithm.normalisers(minibatch)
        for micro in self.micro_batches(minibatch, train="actor"):
            logprob_R, entropy_R = self.actor(micro, self.sampling.temperature)
            loss, watched = self.algorithm.actor_loss(logprob_R, micro, total)
            self.manual_backward(loss)
            for name in ("clip_fraction_low", "clip_fraction_high", "kl_k1", "kl_k3", "kl_reference"):
                if name in watched:
                    self.metrics.mean(f"actor/{name}", watched[name], len(logprob_R))
            self.metrics.mean("actor/entropy_mean", entropy_R.sum(), len(entropy_R))
            self.metrics.mean("actor/surrogate_loss", watched["surrogate"], 0)
            self.metrics.mean("actor/positive_nll", watched["positive_nll"], 0)
        self.metrics.mean("actor/surrogate_loss", 0.0, 1 / world_size())
        self.metrics.mean("actor/positive_nll", 0.0, (total.positive_tokens > 0) / world_size())

    # --- pieces --------------------------------------------------------------------------------------------------------

    def record(self, metrics: dict[str, float]) -> None:
        """Logs metrics at the current RL step at once, so that a checkpoint never knows of more than the logs do."""
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.rl_step)
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        self.latest |= metrics

    def minibatches(self, rollouts: int, epoch: int) -> Sequence[Tensor]:
        """Shuffled indices of the rollouts, `minibatch_rollouts` at a time; the order depends on (seed, RL step, epoch) only."""
        key = torch.Generator().manual_seed(hash((self.seed, self.rl_step, epoch)) % 2**63)
        return torch.randperm(rollouts, generator=key).split(self.minibatch_rollouts)

    def _logprob(self, policy: Actor, micro: MicroBatch) -> Tensor:
        logprob_R: Tensor = policy(micro, self.sampling.temperature)[0]
        return logprob_R

    # --- Lightning -----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        rollouts_per_step = self.trainer.datamodule.rollouts_per_step  # type: ignore[attr-defined]
        if rollouts_per_step % self.minibatch_rollouts != 0:
            raise ValueError(
                f"module.minibatch_rollouts is {self.minibatch_rollouts} and does not divide data.rollouts_per_step "
                f"{rollouts_per_step}; set it to a divisor, so that every update sees as many rollouts"
            )

    @property
    def is_last_step(self) -> bool:
        """The step just finished was the last: `policy_steps` are done, or the trainer's `max_steps` of RL steps."""
        return self.policy_step >= self.policy_steps or self.rl_step == self.trainer.max_steps

    def on_train_start(self) -> None:
        super().on_train_start()
        self.trainer.should_stop = self.is_last_step  # a finished run, resumed
