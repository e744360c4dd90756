"""Before training: do actor, engine and the model itself agree on the probability of a few sampled tokens?

Models differ in masks, windows, caps and scales, and a loop that gets one of them wrong silently trains on a wrong policy. This
takes seconds and finds it, in the precision of the run.
"""

from contextlib import nullcontext

import torch
from lightning import Callback, Trainer

from vapo.models.rounding import rounding_of
from vapo.module import RLModule
from vapo.rollout.collate import collate
from vapo.types import SamplingParams

OTHER_PRECISION = 1e-4  # nats: a run that began with an equal engine is resumed in bfloat16
SELF_TEST_STEP = -3  # RL step in the sampling seeds of the self-test's responses, which no training step has


class SelfTest(Callback):
    """Compares log-probabilities of the actor and of the rollout engine with those of a plain call of the model."""

    def __init__(
        self, prompts: int, responses: int, max_new_tokens: int, max_gap: float | None, equal_gap: float | None = None
    ) -> None:
        """
        Args:
            prompts: held-out prompts, >= 1; responses: per prompt, >= 1; max_new_tokens: per response.
            max_gap: nats in the mean over tokens, above which the run stops; None: what rounding explains (models/rounding.py).
            equal_gap: nats in the mean over tokens, up to which an engine that shares the actor's weights is the actor: its
                log-probabilities then serve as the old policy's, without a pass of the actor; None: never.
        """
        if prompts < 1 or responses < 1:
            raise ValueError(
                f"self-test with {prompts} prompts and {responses} responses; set both of callbacks.self_test to 1 or more, or "
                "callbacks.self_test to null"
            )
        self.prompts, self.responses, self.max_new_tokens = prompts, responses, max_new_tokens
        self.max_gap, self.equal_gap = max_gap, equal_gap

    def on_train_start(self, trainer: Trainer, module: RLModule) -> None:
        """Raises ValueError if one of them differs by more than rounding."""
        module.sync()
        learner, engine, temperature = module.learners["actor"], module.sampler.engine, module.sampling.temperature
        sampling = SamplingParams(temperature, max_new_tokens=min(self.max_new_tokens, module.sampling.max_new_tokens))
        prompts = module.datamodule.held_out(self.prompts)
        with nullcontext() if engine.own_weights else learner.on_device():
            batch = collate(
                module.sampler.sample(prompts, self.responses, sampling, module.seed, SELF_TEST_STEP, check_faults=False)
            )
        own_R = learner.per_token(batch, lambda micro: module.actor(micro, temperature, whole=True)[0])
        actor_R = learner.per_token(batch, lambda micro: module.actor(micro, temperature)[0])
        computes = torch.bfloat16 if trainer.precision == "bf16-mixed" else module.actor.compute_dtype
        limit = rounding_of(computes, engine.dtype).limit if self.max_gap is None else self.max_gap
        own_head = "The model does more with its logits than vapo.models.logprobs.own_head sees: set model.path to another family"
        masks = "Set model.attention to sdpa or eager, or rollout to another engine (vllm, torch)"
        for who, found_R, cure in (("the actor", actor_R, own_head), ("the engine", batch.sampler_logprob_R, masks)):
            gap_R = (found_R - own_R).abs()
            if not gap_R.mean() <= limit:
                raise ValueError(
                    f"self-test: {who}'s log-probabilities differ from the model's own by {gap_R.mean():.2g} nats in the mean and "
                    f"{gap_R.max():.2g} at most over {len(gap_R)} tokens; rounding explains {limit:g}. {cure}. "
                    "callbacks.self_test=null skips this test"
                )
        gap = (batch.sampler_logprob_R - actor_R).abs().mean()
        shared = not engine.own_weights and module.algorithm.mismatch is None and module.sampling.top_p == 1
        if not shared or self.equal_gap is None or gap > max(self.equal_gap, OTHER_PRECISION):
            module.engine_is_actor = False
        elif module.engine_is_actor is None:  # a resumed run goes on as it began
            module.engine_is_actor = bool(gap <= self.equal_gap)
