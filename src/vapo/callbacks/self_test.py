"""Before training: do actor, engine and the model itself agree on the probability of a few sampled tokens?

Models differ in masks, windows, caps and scales, and a loop that gets one of them wrong silently trains on a wrong policy. This
takes seconds and finds it, in the precision of the run.
"""

from contextlib import nullcontext

import torch
from lightning import Callback, Trainer

from vapo.module import RLModule
from vapo.rollout.collate import collate
from vapo.types import SamplingParams

SELF_TEST_STEP = -3  # RL step in the sampling seeds of the self-test's responses, which no training step has
MAX_GAP = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # nats, mean over tokens; measured: 1e-6, and 0.01 to 0.03


class SelfTest(Callback):
    """Compares log-probabilities of the actor and of the rollout engine with those of a plain call of the model."""

    def __init__(self, prompts: int, responses: int, max_new_tokens: int, max_gap: float | None) -> None:
        """
        Args:
            prompts: held-out prompts, >= 1; responses: per prompt, >= 1; max_new_tokens: per response.
            max_gap: nats in the mean over tokens, above which the run stops; None takes MAX_GAP.
        """
        if prompts < 1 or responses < 1:
            raise ValueError(
                f"self-test with {prompts} prompts and {responses} responses; set both of callbacks.self_test to 1 or more, or "
                "callbacks.self_test to null"
            )
        self.prompts, self.responses, self.max_new_tokens, self.max_gap = prompts, responses, max_new_tokens, max_gap

    def on_train_start(self, trainer: Trainer, module: RLModule) -> None:
        """Raises ValueError if one of them differs by more than rounding."""
        module.sync()
        learner, engine, temperature = module.learners["actor"], module.sampler.engine, module.sampling.temperature
        sampling = SamplingParams(temperature, max_new_tokens=min(self.max_new_tokens, module.sampling.max_new_tokens))
        prompts = module.datamodule.held_out(self.prompts)
        with nullcontext() if engine.own_weights else learner.on_device():
            batch = collate(module.sampler.sample(prompts, self.responses, sampling, module.seed, SELF_TEST_STEP))
        own_R = learner.per_token(batch, lambda micro: module.actor(micro, temperature, whole=True)[0])
        actor_R = learner.per_token(batch, lambda micro: module.actor(micro, temperature)[0])
        coarse = trainer.precision != "32-true" or torch.bfloat16 in (module.actor.compute_dtype, engine.dtype)
        limit = MAX_GAP[torch.bfloat16 if coarse else torch.float32] if self.max_gap is None else self.max_gap
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
