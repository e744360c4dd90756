"""VAPO's loop. Read `training_step`: collect, annotate, credit, improve, report; `vapo.algorithms` holds the equations it calls."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase

from vapo.algorithms import ActorCritic, PolicyGradient
from vapo.metrics import PhaseClock, StepMetrics
from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.networks import Networks
from vapo.reporting import report_step
from vapo.rollout.collate import collate, micro_batches
from vapo.rollout.collect import collect
from vapo.rollout.dynamic_sampling import dynamic_sampling
from vapo.rollout.engine import Engine
from vapo.types import Batch, MicroBatch, Prompt, Rollout, SamplingParams


class RLModule(Networks):
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
        seed: int,
    ) -> None:
        """
        Args:
            policy_steps: RL steps in which the actor trains; training stops after them. Value pretraining comes on top.
            minibatch_rollouts: rollouts per optimizer step; must divide the rollouts of a step.
            microbatch_tokens: most padded tokens in one forward; memory only, it changes no result.
            epochs: passes over each step's rollouts; value_pretraining_epochs: the same while the actor is frozen.
            max_grad_norm: gradients of each network are scaled down to this norm; None for no clipping.
            seed: of sampling and minibatch order.
        """
        optimizers = (actor_optimizer, critic_optimizer, actor_schedule, critic_schedule)
        super().__init__(algorithm, actor, critic, engine, *optimizers, max_grad_norm)
        counts = dict(minibatch_rollouts=minibatch_rollouts, microbatch_tokens=microbatch_tokens, epochs=epochs)
        for name, value in {**counts, "value_pretraining_epochs": value_pretraining_epochs, "policy_steps": policy_steps}.items():
            if value < 1:
                raise ValueError(f"module.{name} is {value}; set it to 1 or more")
        if sampling.temperature == 0:
            raise ValueError(
                "rollout.sampling.temperature is 0: greedy rollouts explore nothing; set it above 0, the paper's is 1.0"
            )
        if algorithm.mismatch is not None and sampling.top_p < 1:
            raise ValueError(
                f"algorithm.mismatch compares whole distributions, but rollout.sampling.top_p is {sampling.top_p}: set it to 1, or "
                "algorithm.mismatch to null"
            )
        self.sampling, self.tokenizer = sampling, tokenizer
        self.policy_steps, self.minibatch_rollouts, self.microbatch_tokens = policy_steps, minibatch_rollouts, microbatch_tokens
        self.epochs, self.value_pretraining_epochs, self.seed = epochs, value_pretraining_epochs, seed
        self.actor_frozen = False  # set by the ValuePretraining callback
        self.actor_trained = False  # in the last step
        self.metrics, self.clock = StepMetrics(), PhaseClock()
        self.sampled: list[Rollout] = []  # all rollouts of the last step
        self.rollouts: list[Rollout] = []  # those of them that trained: all, but with dynamic sampling
        self.batch: Batch | None = None
        self.latest: dict[str, float] = {}  # newest value of every metric, for people

    # --- one step of the algorithm -----------------------------------------------------------------------------------

    def training_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        rollouts = self.collect(prompts)
        batch = self.annotate(rollouts)
        batch = self.algorithm.credit(batch, self.sum_over_ranks, monte_carlo=self.actor_frozen)
        self.improve(batch)
        self.report(batch)

    def collect(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        """Group-samples responses with the current policy and verifies them; dynamic sampling goes on until enough are mixed."""
        datamodule, algorithm = self.trainer.datamodule, self.algorithm  # type: ignore[attr-defined]

        def draw(number: int) -> list[Rollout]:
            drawn = prompts if number == 0 else datamodule.draw(number)
            return self.sample(drawn, datamodule.group_size, self.sampling, self.seed, self.rl_step, "rollout")

        if not algorithm.dynamic_sampling or self.actor_frozen:
            self.sampled = self.rollouts = draw(0)
        else:
            self.rollouts, self.sampled = dynamic_sampling(
                draw, datamodule.group_size, datamodule.prompts_per_step, algorithm.max_draws
            )
        return self.rollouts

    @torch.no_grad()
    def annotate(self, rollouts: Sequence[Rollout]) -> Batch:
        """Adds the critic's values and the actor's log-probabilities as they are before the first update."""
        batch = collate(rollouts)
        with self.clock.phase("annotate", len(batch.token_N)):
            if self.algorithm.needs_critic:
                batch = batch.with_(value_R=self.per_token(batch, self.critic))
            if self.algorithm.needs_reference:
                batch = batch.with_(reference_logprob_R=self.per_token(batch, partial(self._logprob, self.reference)))
            if not self.actor_frozen:
                batch = batch.with_(old_logprob_R=self.per_token(batch, partial(self._logprob, self.actor)))
        return batch

    def improve(self, batch: Batch) -> None:
        """Updates critic, then actor, on each minibatch; only the critic while the actor is frozen (technique 1)."""
        for epoch in range(self.value_pretraining_epochs if self.actor_frozen else self.epochs):
            for index_B in self.minibatches(len(batch), epoch):
                minibatch = batch.select(index_B)
                if self.algorithm.needs_critic:
                    with self.clock.phase("critic_update", len(minibatch.token_N)):
                        self.backward_critic(minibatch)
                        self.metrics.mean("critic/grad_norm", self.apply_gradient("critic"))
                        self.critic_updates += 1
                if not self.actor_frozen:
                    with self.clock.phase("actor_update", len(minibatch.token_N)):
                        self.backward_actor(minibatch)
                        self.metrics.mean("actor/grad_norm", self.apply_gradient("actor"))
                        self.actor_updates += 1
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
        total = self.algorithm.normalisers(minibatch, self.sum_over_ranks)
        for micro in micro_batches(minibatch, self.microbatch_tokens, self.device):
            loss = self.algorithm.critic_loss(self.critic(micro), micro, total)
            self.manual_backward(loss)
            self.metrics.mean("critic/value_loss", loss, 0)
        self.metrics.mean("critic/value_loss", 0.0, 1 / self.world_size)  # each micro-batch added its share of the mean

    def backward_actor(self, minibatch: Batch) -> None:
        """Accumulates the actor's gradient over a whole optimiser minibatch."""
        total = self.algorithm.normalisers(minibatch, self.sum_over_ranks)
        for micro in micro_batches(minibatch, self.microbatch_tokens, self.device):
            logprob_R, entropy_R = self.actor(micro, self.sampling.temperature)
            loss, watched = self.algorithm.actor_loss(logprob_R, micro, total)
            self.manual_backward(loss)
            for name in ("clip_fraction_low", "clip_fraction_high", "kl_k1", "kl_k3", "kl_reference"):
                if name in watched:
                    self.metrics.mean(f"actor/{name}", watched[name], len(logprob_R))
            self.metrics.mean("actor/entropy_mean", entropy_R.sum(), len(entropy_R))
            self.metrics.mean("actor/surrogate_loss", watched["surrogate"], 0)
            self.metrics.mean("actor/positive_nll", watched["positive_nll"], 0)
        self.metrics.mean("actor/surrogate_loss", 0.0, 1 / self.world_size)
        self.metrics.mean("actor/positive_nll", 0.0, (total.positive_tokens > 0) / self.world_size)

    # --- pieces --------------------------------------------------------------------------------------------------------

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: SamplingParams, seed: int, rl_step: int, phase: str
    ) -> list[Rollout]:
        """Rollouts of the current policy; `phase` names where their time is counted."""
        if self.engine.weights_version != self.actor_updates:
            proof = self.engine.load_weights(self.actor.language_model, self.actor_updates)  # type: ignore[func-returns-value]
            for name, value in (proof or self.engine.check_weights(self.actor.language_model)).items():
                self.metrics.mean(name, value)
        verifier = self.trainer.datamodule.verifier  # type: ignore[attr-defined]
        with self.clock.phase(phase), self.trainer.precision_plugin.forward_context():  # also where Lightning has not set it
            rollouts = collect(prompts, group_size, self.engine, sampling, self.tokenizer, verifier, seed, rl_step)
        self.clock.tokens[phase] += sum(len(rollout.completion.token_ids) for rollout in rollouts)
        return rollouts

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

    def per_token(self, batch: Batch, forward: Callable[[MicroBatch], Tensor]) -> Tensor:
        """Applies `forward` to micro-batches and joins its results in the order of the batch's flat response tokens."""
        pieces: dict[int, Tensor] = {}
        for micro in micro_batches(batch, self.microbatch_tokens, self.device):
            x_R = forward(micro).cpu()
            pieces |= zip(micro.index_B.tolist(), x_R.split(micro.part.response_length_B.tolist()), strict=True)
        return torch.cat([pieces[row] for row in range(len(batch))])

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
