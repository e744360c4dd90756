"""Measures whether the critic sees where a response went wrong. Needs a task with ground truth for every step: running sums."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning import Callback, Trainer

from vapo.algorithms import ActorCritic, auroc_at, explained_variance, explained_variance_sums
from vapo.module import RLModule
from vapo.rollout.collate import collate
from vapo.types import Batch, Rollout, SamplingParams
from vapo.verifiers.sums import reveal_index

BASE_VERSION = -2  # version of the base policy's weights in the engine: never the actor's, so the next rollouts sync again
FIXED_SEED = 2_000_003  # seed of the fixed responses' prompts and samples, independent of the run's seed


NAMES = (
    "first_slip_auroc_advantage",
    "first_slip_auroc_value_drop",
    "first_slip_blame_share",
    "value_drop_slip",
    "value_drop_other",
)
MOST_DRAWS = 8  # maximum draws of `responses` prompts each, to find that many responses with a slip


@dataclass(frozen=True)
class MarkedResponse:
    """A wrong response, the token indices of its steps' results, and which of them is the first unrepaired slip."""

    rollout: Rollout
    result_indices: list[int]
    slip: int  # position in result_indices


class CreditAssignment(Callback):
    """Evaluates advantages and values on a fixed set of the base policy's wrong responses, before the actor's first update, every
    `every_n_steps` RL steps of policy training, and after the last.

    `credit/first_slip_auroc_advantage`: how often -advantage at the first unrepaired slip's result exceeds that at the other
    results of the same response, averaged over responses; `..._value_drop`: the same for V before minus V after the result.
    An advantage that is the same at every token scores 0.5. `credit/first_slip_blame_share`: the slip's part of the response's
    negative advantage, over all tokens. Where problems state the true total, `credit/explained_variance_before_reveal` and
    `..._after_reveal` are those of the tokens before it and from it on, over right and wrong responses that copy it.
    """

    def __init__(self, responses: int, every_n_steps: int) -> None:
        """
        Args:
            responses: size of the fixed set, >= 1; below 500 the numbers are rough.
            every_n_steps: RL steps of policy training between measurements, >= 1.
        """
        if responses < 1 or every_n_steps < 1:
            raise ValueError(
                f"credit assignment on {responses} responses every {every_n_steps} RL steps; set both values of "
                "callbacks.credit_assignment to 1 or more, or callbacks.credit_assignment to null"
            )
        self.responses, self.every_n_steps = responses, every_n_steps
        self.measured_base = False
        self._marked: list[MarkedResponse] = []
        self._batch: Batch | None = None
        self._revealed: list[tuple[Rollout, int]] = []  # with the token index of the stated total

    def on_train_start(self, trainer: Trainer, module: RLModule) -> None:
        if isinstance(module.algorithm, ActorCritic):
            self._marked = self._sample_base_policy(trainer, module)
            self._batch = collate([marked.rollout for marked in self._marked])

    def on_train_batch_start(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        if not module.actor_frozen and not self.measured_base:
            self.measured_base = True
            self._measure(module)

    def on_train_batch_end(self, trainer: Trainer, module: RLModule, *args: Any) -> None:
        if module.actor_trained and (module.policy_step % self.every_n_steps == 0 or module.is_last_step):
            self._measure(module)

    def _sample_base_policy(self, trainer: Trainer, module: RLModule) -> list[MarkedResponse]:
        """Samples the fixed set from the initial weights, not from those being trained, so it is the same after a resume."""
        datamodule = module.datamodule
        base = module.make_actor().to(module.device)
        module.sampler.engine.load_weights(base, BASE_VERSION)
        marked: list[MarkedResponse] = []
        sampling = SamplingParams(max_new_tokens=module.sampling.max_new_tokens)
        for draw in range(MOST_DRAWS):
            indices = range(draw * self.responses, (draw + 1) * self.responses)
            prompts = [datamodule.source.prompt(index, FIXED_SEED) for index in indices]
            rollouts = module.sampler.sample(prompts, 1, sampling, FIXED_SEED, 0)
            texts = [module.sampler.decode(rollout.completion.token_ids) for rollout in rollouts]
            if draw == 0:
                places = [reveal_index(text) for text in texts]
                self._revealed = [(rollout, place) for rollout, place in zip(rollouts, places, strict=True) if place is not None]
            found = [self._mark(datamodule, rollout, text) for rollout, text in zip(rollouts, texts, strict=True)]
            marked += [response for response in found if response is not None]
            if len(marked) >= self.responses:
                return marked[: self.responses]
        if not marked:
            raise ValueError("the base policy makes no step errors to find; set callbacks.credit_assignment to null")
        return marked

    @staticmethod
    def _mark(datamodule: Any, rollout: Rollout, text: str) -> MarkedResponse | None:
        steps = datamodule.source.trace(rollout.prompt, text)
        slips = [i for i, step in enumerate(steps) if not step.right and not step.repaired]
        if rollout.correct or not slips or len(steps) < 2:
            return None
        return MarkedResponse(rollout, [step.result_index for step in steps], slips[0])

    def _measure(self, module: RLModule) -> None:
        if self._batch is None:
            return
        assert isinstance(module.algorithm, ActorCritic)
        value_R = module.learners["critic"].per_token(self._batch, module.critic)
        # not whitened: the mean over these responses, all wrong, would make blame of what is none
        batch = replace(module.algorithm, whiten_advantages=False).credit(self._batch.replace(value_R=value_R))
        assert batch.advantage_R is not None
        lengths = batch.response_length_B.tolist()
        sums = dict.fromkeys(NAMES, 0.0)
        for marked, value_T, advantage_T in zip(
            self._marked, value_R.split(lengths), batch.advantage_R.split(lengths), strict=True
        ):
            following_T = torch.cat([value_T[1:], value_T.new_zeros(1)])
            drops = (value_T - following_T)[marked.result_indices].tolist()
            blame = (-advantage_T)[marked.result_indices].tolist()
            others = [drop for i, drop in enumerate(drops) if i != marked.slip]
            sums["first_slip_auroc_advantage"] += auroc_at(blame, marked.slip)
            sums["first_slip_auroc_value_drop"] += auroc_at(drops, marked.slip)
            blame_T = (-advantage_T).clamp(min=0)
            sums["first_slip_blame_share"] += (blame_T[marked.result_indices[marked.slip]] / blame_T.sum().clamp(min=1e-12)).item()
            sums["value_drop_slip"] += drops[marked.slip]
            sums["value_drop_other"] += sum(others) / len(others)
        means = {name: total / len(self._marked) for name, total in sums.items()}
        module.record({f"credit/{name}": value for name, value in (means | self._around_reveal(module)).items()})

    def _around_reveal(self, module: RLModule) -> dict[str, float]:
        if not self._revealed:
            return {}
        assert isinstance(module.algorithm, ActorCritic)
        batch = collate([rollout for rollout, _ in self._revealed])
        value_R, return_R = module.learners["critic"].per_token(batch, module.critic), module.algorithm.monte_carlo_return(batch)
        before_B = torch.tensor([place for _, place in self._revealed])
        lengths_B2 = torch.stack([before_B, batch.response_length_B - before_B], 1)
        sums_B25 = explained_variance_sums(value_R, return_R, lengths_B2.flatten()).view(-1, 2, 5)
        before, after = (explained_variance(sums).item() for sums in sums_B25.sum(0))
        return {"explained_variance_before_reveal": before, "explained_variance_after_reveal": after}

    def state_dict(self) -> dict[str, Any]:
        return {"measured_base": self.measured_base}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.measured_base = state_dict["measured_base"]
