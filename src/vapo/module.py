"""VAPO's loop. Read `training_step`: collect, annotate, credit, improve, report. `vapo.algorithms` holds the equations it calls."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase

from vapo.algorithms import ActorCritic, Normalizers, PolicyGradient
from vapo.checkpoints import check_shapes, shapes
from vapo.datamodule import PromptDataModule
from vapo.distributed.sharding import Sharding, is_sharded
from vapo.learner import Learner, check_precision
from vapo.metrics import PhaseClock, StepMetrics, repeatable
from vapo.micro_batches import minibatches
from vapo.models.actor import Actor
from vapo.models.critic import Critic
from vapo.models.ends import end_tokens
from vapo.reporting import report_step
from vapo.rollout.checks import check_counts, check_engine, check_logprob_gap, check_minibatches, check_sampling
from vapo.rollout.collate import collate, without_faults
from vapo.rollout.dynamic_sampling import dynamic_sampling
from vapo.rollout.engine import Engine
from vapo.rollout.sampler import Sampler
from vapo.side_by_side import may_overlap, side_by_side
from vapo.types import Batch, MicroBatch, Prompt, Rollout, SamplingParams


class RLModule(LightningModule):
    """Actor and critic under manual optimization. One `training_step` is one RL step: a batch of prompts, several updates of each.

    `sampler` turns prompts into rollouts, `learners` run and train the networks; all are built in `configure_model`. There is a
    critic if the algorithm needs one, and a frozen copy of the initial policy, the `reference`, if it has a KL loss.
    """

    def __init__(
        self,
        algorithm: PolicyGradient,
        actor: Callable[..., Actor],
        critic: Callable[..., Critic],
        tokenizer: PreTrainedTokenizerBase,
        engine: Callable[..., Engine],
        sampling: SamplingParams,
        prefetch: int,
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
        overlap: bool = False,
        keep_groups: bool = False,
    ) -> None:
        """
        Args:
            prefetch: 1 generates the next step's rollouts while the networks train on this step's; 0 does not.
            policy_steps: RL steps in which the actor trains; training stops after them. Value pretraining comes on top.
            minibatch_rollouts: rollouts per optimizer step, fewer if dynamic sampling found few; must divide those of a step.
            keep_groups: minibatches of whole groups; see `minibatches`.
            epochs: passes over each step's rollouts; value_pretraining_epochs: the same while the actor is frozen.
            microbatch_tokens, max_grad_norm, max_skipped_updates, offload: see `Learner`. sharding: over ranks, with trainer=fsdp.
            seed: seeds sampling and minibatch order. overlap: critic and actor run their passes at the same time, on a CPU.
        """
        super().__init__()
        check_sampling(sampling, algorithm, prefetch)
        self.automatic_optimization = False
        self.algorithm, self.sampling, self.prefetch, self.seed = algorithm, sampling, prefetch == 1, seed
        self.make_actor, self.make_critic, self.make_engine, self.tokenizer = actor, critic, engine, tokenizer
        self.make_optimizers = {"actor": (actor_optimizer, actor_schedule), "critic": (critic_optimizer, critic_schedule)}
        self.policy_steps, self.minibatch_rollouts, self.keep_groups = policy_steps, minibatch_rollouts, keep_groups
        self.epochs, self.value_pretraining_epochs, self.overlap = epochs, value_pretraining_epochs, overlap
        check_counts(self, ("policy_steps", "minibatch_rollouts", "epochs", "value_pretraining_epochs"))
        self.metrics, self.clock, self.sharding = StepMetrics(), PhaseClock(), sharding
        self.limits = (microbatch_tokens, max_grad_norm, max_skipped_updates, offload, sharding.defer_gradient_sync)
        self.learners: dict[str, Learner] = {}
        self.actor_frozen = False  # only the critic trains: set and reset by the callbacks ValuePretraining and Health
        self.engine_is_actor: bool | None = None  # in log-probabilities, as the SelfTest callback found before the first step
        self.actor_trained = False  # in the last step, for callbacks: `actor_frozen` may have changed since
        self.staleness = 0  # of this step's rollouts, in policy steps: 0 on-policy, 1 if they were prefetched
        self.sampled: list[Rollout] = []  # all rollouts of the last step
        self.rollouts: list[Rollout] = []  # those trained on: without verifier faults, and what dynamic sampling left out
        self.batch: Batch | None = None
        self.latest: dict[str, float] = {}  # newest value of every metric, for display
        self.rl_step = self.policy_step = self.actor_updates = self.critic_updates = self.rollouts_sampled = 0

    # --- one step of the algorithm -----------------------------------------------------------------------------------

    def training_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        """`credit` computes rewards; the engine gets new weights before it samples again (`sync`); callbacks freeze the actor."""
        self.batch, self.rollouts, self.sampled = None, [], []  # frees the last step's before this step's are there
        rollouts = self.collect(prompts)
        batch = self.annotate(rollouts)
        batch = self.algorithm.credit(batch, pretraining=self.actor_frozen)
        self.improve(batch)
        self.report(batch)

    def collect(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        """Samples a group of responses to each prompt with the current policy and verifies them (technique 7)."""
        data, group_size = self.datamodule, self.datamodule.group_size

        def draw(number: int) -> list[Rollout]:
            return self.sample(prompts if number == 0 else data.draw(number), group_size, self.sampling, self.rl_step)

        if self.algorithm.dynamic_sampling and not self.actor_frozen:
            self.rollouts, self.sampled = dynamic_sampling(draw, group_size, data.prompts_per_step, self.algorithm.max_draws)
            return self.rollouts
        with self.clock.phase("rollout"):
            prefetched = self.sampler.take_prefetched()
        self.sampled = draw(0) if prefetched is None else prefetched
        self.rollouts, self.staleness = without_faults(self.sampled), int(prefetched is not None)
        if self.prefetch and not self.actor_frozen and self.policy_step + 1 < self.policy_steps:
            self.sync()  # the next step's rollouts come from the policy as it is now, before this step's updates
            self.sampler.prefetch(data.draw(1), group_size, self.sampling, self.seed, self.rl_step + 1)
        return self.rollouts

    def annotate(self, rollouts: Sequence[Rollout]) -> Batch:
        """Adds the critic's values and the actor's log-probabilities as they are before the first update, without gradient."""
        self.sampler.engine.sleep()  # frees GPU memory, if `sleep_level` is set, which excludes a prefetch
        batch, temperature = collate(rollouts), self.sampling.temperature
        run = {name: learner.per_token for name, learner in self.learners.items()}
        passes: dict[str, Callable[[], Tensor]] = {}
        if self.algorithm.needs_critic:
            passes["value_R"] = lambda: run["critic"](batch, self.critic)
        if self.algorithm.needs_reference:
            passes["reference_logprob_R"] = lambda: run["reference"](batch, lambda micro: self.reference(micro, temperature)[0])
        if self.staleness > 0 or (self.engine_is_actor and not self.actor_frozen):  # only the engine knows what stale ones are from
            batch = batch.replace(old_logprob_R=batch.sampler_logprob_R)
        elif not self.actor_frozen:
            passes["old_logprob_R"] = lambda: run["actor"](batch, lambda micro: self.actor(micro, temperature)[0])
        with self.clock.phase("annotate", len(batch.token_N)):
            return batch.replace(**side_by_side(passes, self.overlap))

    def improve(self, batch: Batch) -> None:
        """All epochs of the critic and all epochs of the actor; only the critic while the actor is frozen (technique 1)."""
        trains = {"critic": self.algorithm.needs_critic, "actor": not self.actor_frozen}
        updates = side_by_side({name: partial(self.update, name, batch) for name in trains if trains[name]}, self.overlap)
        self.critic_updates += updates.get("critic", 0)
        self.actor_updates += updates.get("actor", 0)
        self.rl_step += 1
        self.policy_step += not self.actor_frozen
        self.actor_trained = not self.actor_frozen

    def report(self, batch: Batch) -> None:
        """Logs the step, moves the prompt cursor, and stops after `policy_steps`."""
        self.batch = batch
        self.rollouts_sampled += len(self.sampled)
        report_step(self.metrics, self.algorithm, self.sampled, batch)
        for name in ("rl_step", "policy_step", "actor_updates", "critic_updates", "staleness"):
            self.metrics.gauge(f"clock/{name}", getattr(self, name))
        self.metrics.gauge("clock/rollouts", self.rollouts_sampled)
        for learner in self.learners.values():
            learner.report()
        self.record(values := self.metrics.flush())
        check_logprob_gap(values, self.sampling, self.sampler.engine)
        self.datamodule.consume(len(self.sampled) // self.datamodule.group_size)
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()  # Lightning does not count steps of raw optimizers: its global_step and max_steps count RL steps
        progress.increment_completed()
        self.trainer.should_stop = self.trainer.should_stop or self.is_last_step

    # --- updates -------------------------------------------------------------------------------------------------------

    def update(self, name: str, batch: Batch) -> int:
        """Trains one network on each minibatch of each epoch; returns the number of updates, skipped ones included."""
        learner, loss, updates = self.learners[name], self.critic_loss if name == "critic" else self.actor_loss, 0
        dump = Path(self.trainer.default_root_dir) / f"nonfinite_{name}_step_{self.rl_step + 1:06d}.pt"
        with learner.on_device(train=True), learner.precision():  # autocast is of one thread, and this may be another
            for epoch in range(self.value_pretraining_epochs if self.actor_frozen else self.epochs):
                key = (self.seed, self.rl_step, epoch)
                for index_B in minibatches(batch.group_B, self.minibatch_rollouts, self.keep_groups, key):
                    counts = self.algorithm.normalizers(batch, index_B)  # denominators of the losses, over the whole minibatch
                    with self.clock.phase(f"{name}_update", int(batch.total_length_B[index_B].sum())):
                        learner.update(batch, index_B, partial(loss, counts=counts), dump)
                    updates += 1
        learner.schedule.step()  # once per RL step
        return updates

    def critic_loss(self, micro: MicroBatch, counts: Normalizers) -> Tensor:
        """This micro-batch's part of the minibatch's critic loss; the parts add up."""
        assert isinstance(self.algorithm, ActorCritic)
        loss = self.algorithm.critic_loss(self.critic(micro), micro, counts)
        self.metrics.part("critic/value_loss", loss, len(micro.index_B) / counts.sequences)
        return loss

    def actor_loss(self, micro: MicroBatch, counts: Normalizers) -> Tensor:
        """This micro-batch's part of the minibatch's actor loss; the parts add up."""
        logprob_R, entropy_R = self.actor(micro, self.sampling.temperature, with_entropy=True)
        loss, diagnostics = self.algorithm.actor_loss(logprob_R, micro, counts)
        fraction = len(micro.index_B) / counts.sequences  # of the minibatch's rollouts
        self.metrics.part("actor/surrogate_loss", diagnostics.pop("surrogate"), fraction)
        self.metrics.part("actor/positive_nll", diagnostics.pop("positive_nll"), fraction if counts.positive_tokens > 0 else 0.0)
        self.metrics.mean("actor/entropy_mean", entropy_R.sum(), len(entropy_R))
        for name, total in diagnostics.items():
            self.metrics.mean(f"actor/{name}", total, len(logprob_R))
        return loss

    # --- sampling ------------------------------------------------------------------------------------------------------

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: SamplingParams, rl_step: int, phase: str = "rollout"
    ) -> list[Rollout]:
        """Rollouts of the current policy; callbacks pass a negative `rl_step`, for seeds of their own, and the clock's `phase`."""
        self.sync()
        actor_on_device = nullcontext() if self.sampler.engine.own_weights else self.learners["actor"].on_device()
        with actor_on_device, self.clock.phase(phase):
            rollouts = self.sampler.sample(prompts, group_size, sampling, self.seed, rl_step)
        self.clock.tokens[phase] += sum(len(rollout.completion.token_ids) for rollout in rollouts)
        return rollouts

    def sync(self) -> None:
        """Weight sync: loads the actor's weights into the engine if the engine's are stale."""
        if self.sampler.needs_weights(self.actor_updates):
            with self.clock.phase("sync"), self.learners["actor"].on_device():
                for name, value in self.sampler.engine.load_weights(self.actor, self.actor_updates).items():
                    self.metrics.mean(name, value)

    # --- Lightning -----------------------------------------------------------------------------------------------------

    @property
    def datamodule(self) -> PromptDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined, no-any-return]

    @property
    def is_last_step(self) -> bool:
        """The step just finished was the last: `policy_steps` are done, or the trainer's `max_steps` of RL steps."""
        return self.policy_step >= self.policy_steps or (0 <= self.trainer.max_steps <= self.rl_step)

    def record(self, metrics: dict[str, float]) -> None:
        """Logs metrics at the current RL step at once, so that the logs are never behind a checkpoint."""
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.rl_step)
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        self.latest |= metrics

    def setup(self, stage: str) -> None:
        check_precision(self.trainer.precision)
        data = self.datamodule
        check_minibatches(self.minibatch_rollouts, data.rollouts_per_step, data.group_size, self.keep_groups)

    def configure_model(self) -> None:
        if self.learners:
            return
        placed = self.sharding.placement(self.device_mesh)  # the mesh is set by the strategy that shards
        precision = self.trainer.precision_plugin.forward_context  # Lightning enters it in training_step only
        make = partial(Learner, self.manual_backward, self.metrics, *self.limits, precision=precision)
        self.actor: Actor = self.make_actor(**placed).train()
        self.learners["actor"] = make(name="actor", network=self.actor)
        if self.algorithm.needs_critic:
            self.critic: Critic = self.make_critic(**placed).train()
            self.learners["critic"] = make(name="critic", network=self.critic)
        if self.algorithm.needs_reference:
            self.reference: Actor = self.make_actor(**placed).eval().requires_grad_(False)
            self.learners["reference"] = make(name="reference", network=self.reference)
        with torch.device("cpu"):  # not Lightning's default device: vLLM places its tensors itself
            engine = self.make_engine(eos_token_ids=end_tokens(self.actor, self.tokenizer))  # without weights yet
        check_engine(engine, self.prefetch, is_sharded(self.actor))
        self.sampler = Sampler(engine, self.tokenizer, self.datamodule.verifier, precision)

    def configure_optimizers(self) -> Any:
        """Actor first, critic second: the order is the key under which checkpoints keep their optimizers."""
        return tuple(self.learners[name].configure(*made) for name, made in self.make_optimizers.items() if name in self.learners)

    def on_fit_start(self) -> None:
        for learner in self.learners.values():
            learner.place(self.device, self.trainer.strategy.model)
        self.overlap &= may_overlap([learner.network for learner in self.learners.values()], self.device, self.trainer)

    def on_train_start(self) -> None:
        for learner in self.learners.values():
            learner.start()
        self.trainer.should_stop = self.is_last_step  # a finished run, resumed

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # prompts are plain values; the engine moves what it needs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        names = ("rl_step", "policy_step", "actor_updates", "critic_updates", "rollouts_sampled", "engine_is_actor")
        now = {"prefetched": self.sampler.state_dict(), "latest": repeatable(self.latest)}
        checkpoint["vapo"] = {name: getattr(self, name) for name in names} | now

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["vapo"]
        check_shapes(shapes(checkpoint.get("state_dict", {})), shapes(self.state_dict()))
        vars(self).update({name: value for name, value in saved.items() if name in vars(self)})
        self.sampler.load_state_dict(saved.get("prefetched", saved.get("ahead")))  # older checkpoints say `ahead`
