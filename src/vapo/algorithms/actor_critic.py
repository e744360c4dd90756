"""PPO, VC-PPO and VAPO: one class with different switches. Its defaults are vanilla PPO; `configs/algorithm/vapo.yaml` is VAPO."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vapo.algorithms.advantages import gae, length_adaptive_lambda, monte_carlo_return
from vapo.algorithms.masked import token_mean, whiten
from vapo.algorithms.policy_gradient import Normalizers, PolicyGradient, require
from vapo.algorithms.rewards import terminal_reward
from vapo.algorithms.value_loss import value_loss
from vapo.types import Batch, MicroBatch


@dataclass(frozen=True, kw_only=True)
class ActorCritic(PolicyGradient):
    """PPO and its refinements: a critic turns one reward at the end into an advantage for each token."""

    needs_critic: ClassVar[bool] = True

    value_pretraining_steps: int = (
        0  # RL steps in which only the critic trains (technique 1); fewer with callbacks.value_pretraining.patience
    )
    actor_lambda: float = 0.95  # lambda of the advantages, unless length-adaptive
    critic_lambda: float | None = None  # lambda of the value targets (technique 2); None shares the actor's
    pretraining_lambda: float = 1.0  # lambda of the value targets in value pretraining; 1 is the Monte-Carlo return
    length_adaptive_alpha: float | None = None  # alpha of the length-adaptive lambda (technique 3); None uses actor_lambda
    gamma: float = 1.0  # discount; 1 throughout the paper
    whiten_advantages: bool = True  # usual in PPO code, not in the paper's text (A10)
    clip_value: float | None = None  # largest change of a value, in units of reward; None for no value clipping (A20)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.value_pretraining_steps >= 0,
            f"algorithm.value_pretraining_steps is {self.value_pretraining_steps}; set it to 0 (none) or more RL steps",
        )
        for name in ("actor_lambda", "critic_lambda", "pretraining_lambda", "gamma"):
            value = getattr(self, name)
            require(name == "critic_lambda" if value is None else 0 <= value <= 1, f"algorithm.{name} is {value}; set it in [0, 1]")
        alpha = self.length_adaptive_alpha
        require(
            alpha is None or alpha > 0,
            f"algorithm.length_adaptive_alpha is {alpha}; set it above 0 (the paper's is 0.05), or to null for actor_lambda",
        )
        require(
            self.clip_value is None or self.clip_value > 0,
            f"algorithm.clip_value is {self.clip_value}; set it above 0, or to null for none",
        )

    def credit(self, batch: Batch, pretraining: bool = False) -> Batch:
        """Adds advantages and value targets to an annotated batch (techniques 2 and 3). The reward, 1 for a correct response and -1
        for any other, is on the last token. The critic is the baseline: groups do not enter.

        Args:
            batch: must have `value_R`.
            pretraining: True during value pretraining (technique 1): value targets have pretraining_lambda.
        """
        value_R, length_B, lambda_B = batch.value_R, batch.response_length_B, self.policy_lambda(batch)
        assert value_R is not None

        def estimate(lam: Tensor | float) -> Tensor:
            return gae(terminal_reward(self.reward(batch), length_B), value_R, length_B, lam, self.gamma)

        # whitened: mean 0, variance 1 over all response tokens of the step; targets stay as they are
        advantage_R = whiten(estimate(lambda_B)) if self.whiten_advantages else estimate(lambda_B)
        critic_lambda = self.pretraining_lambda if pretraining else self.critic_lambda
        if critic_lambda == 1:
            target_R = self.monte_carlo_return(batch)
        else:
            target_R = estimate(lambda_B if critic_lambda is None else critic_lambda) + value_R
        return batch.replace(advantage_R=advantage_R, target_R=target_R)

    def policy_lambda(self, batch: Batch) -> Tensor:
        """lambda_B of the policy's advantages: by length, or the same for all (technique 3)."""
        if self.length_adaptive_alpha is None:
            return torch.full((len(batch),), self.actor_lambda, dtype=torch.float64)
        return length_adaptive_lambda(batch.response_length_B, self.length_adaptive_alpha)

    def monte_carlo_return(self, batch: Batch) -> Tensor:
        """return_R: the discounted reward still to come at each token. Explained variance is measured against it."""
        return monte_carlo_return(self.reward(batch), batch.response_length_B, self.gamma)

    def critic_loss(self, value_R: Tensor, micro: MicroBatch, counts: Normalizers) -> Tensor:
        """This micro-batch's part of the critic's loss: (V - target)² / 2, a mean over tokens at any loss_aggregation (A20).

        Args:
            value_R: values under the critic being trained, with gradient.
        """
        old_value_BT = None if self.clip_value is None else micro.padded("value_R")
        loss_BT = value_loss(micro.pad(value_R), micro.padded("target_R"), old_value_BT, self.clip_value)
        return token_mean(loss_BT, micro.mask_BT, counts.tokens)
