"""The switchboard: which of the equations an algorithm uses. PPO, VC-PPO and VAPO are `ActorCritic` with other switches.

Pure: a `Batch` in, a `Batch` out; tensors in, losses out. Its defaults are vanilla PPO; `configs/algorithm/vapo.yaml` is VAPO.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vapo.algorithms.advantages import gae, length_adaptive_lambda
from vapo.algorithms.diagnostics import clip_indicators, kl_k1, kl_k3
from vapo.algorithms.masked import local_sum, masked_fill, masked_whiten, sequence_mean, token_mean
from vapo.algorithms.policy_loss import clipped_surrogate, positive_example_nll
from vapo.algorithms.rewards import outcome_reward, overlong_penalty, terminal_reward
from vapo.algorithms.value_loss import value_loss
from vapo.types import Batch, MicroBatch


@dataclass(frozen=True)
class Normalisers:
    """What losses divide by: counted once over a whole optimiser minibatch and all ranks, before its first micro-batch."""

    tokens: float
    sequences: float
    positive_tokens: float  # tokens of correct responses


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """What every algorithm here shares: outcome rewards, a clipped surrogate, its reduction, an LM loss on correct responses."""

    group_size: int = 1  # G, responses per prompt (technique 7)
    clip_low: float = 0.2  # epsilon_low
    clip_high: float = 0.2  # epsilon_high; above clip_low is clip-higher (technique 4)
    dual_clip: float | None = None  # c > 1 bounds the loss of tokens with a negative advantage; not in VAPO
    loss_aggregation: str = "sequence"  # token (technique 5) or sequence
    positive_lm_coef: float = 0.0  # mu, weight of the LM loss on correct responses (technique 6)
    overlong_buffer: int = 0  # tokens of DAPO's soft punishment ramp before the length limit; 0 turns it off (A17)
    max_response_tokens: int | None = None  # the length limit the ramp ends at; needed when overlong_buffer > 0

    def __post_init__(self) -> None:
        _require(self.group_size >= 1, f"algorithm.group_size is {self.group_size}; set it to 1 (no groups) or more")
        _require(0 <= self.clip_low < 1, f"algorithm.clip_low is {self.clip_low}; set it in [0, 1), the paper's is 0.2")
        _require(
            self.clip_high >= self.clip_low,
            f"algorithm.clip_high is {self.clip_high}, below clip_low {self.clip_low}; "
            "set clip_high to clip_low (plain clipping) or higher, the paper's is 0.28",
        )
        _require(
            self.dual_clip is None or self.dual_clip > 1,
            f"algorithm.dual_clip is {self.dual_clip}; set it above 1, or to null for none",
        )
        _require(
            self.loss_aggregation in ("token", "sequence"),
            f"algorithm.loss_aggregation is {self.loss_aggregation!r}; set it to token or sequence",
        )
        _require(self.positive_lm_coef >= 0, f"algorithm.positive_lm_coef is {self.positive_lm_coef}; set it to 0 (off) or more")
        _require(
            self.overlong_buffer == 0 or 0 < self.overlong_buffer <= (self.max_response_tokens or 0),
            f"algorithm.overlong_buffer is {self.overlong_buffer} tokens with max_response_tokens {self.max_response_tokens}; "
            "set it to 0 (off) or at most max_response_tokens",
        )

    def normalisers(self, minibatch: Batch, sum_over_ranks: Callable[[Tensor], Tensor] = local_sum) -> Normalisers:
        """Counts tokens, responses and positive tokens of a whole optimiser minibatch over all ranks."""
        length_B = minibatch.response_length_B
        counts = torch.stack([length_B.sum(), torch.tensor(len(minibatch)), length_B[minibatch.correct_B].sum()]).double()
        return Normalisers(*sum_over_ranks(counts).tolist())

    def reward(self, batch: Batch) -> Tensor:
        """One reward per response: the verifier's outcome, and the overlong punishment if it is on."""
        reward_B = outcome_reward(batch.correct_B)
        if self.overlong_buffer > 0:
            assert self.max_response_tokens is not None
            reward_B = reward_B + overlong_penalty(batch.response_length_B, self.max_response_tokens, self.overlong_buffer)
        return reward_B

    def actor_loss(self, logprob_R: Tensor, micro: MicroBatch, total: Normalisers) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's share of the actor's loss (VAPO Eq 10: L = L_PPO + mu * L_NLL).

        Args:
            logprob_R: log-probabilities under the policy being trained, with gradient.
            micro: a piece of the minibatch that `total` was counted on.

        Returns:
            The loss, and sums over this micro-batch's tokens of what is worth watching.
        """
        mask_BT, logprob_BT = micro.mask_BT, micro.pad(logprob_R)
        advantage_BT, old_logprob_BT = micro.padded("advantage_R"), micro.padded("old_logprob_R")
        log_ratio_BT = logprob_BT - old_logprob_BT
        surrogate_BT = clipped_surrogate(log_ratio_BT, advantage_BT, self.clip_low, self.clip_high, self.dual_clip)
        if self.loss_aggregation == "token":
            surrogate = token_mean(surrogate_BT, mask_BT, total.tokens)
        else:
            surrogate = sequence_mean(surrogate_BT, mask_BT, total.sequences)
        nll_BT = positive_example_nll(logprob_BT, mask_BT, micro.part.correct_B.to(mask_BT.device))
        positive_nll = token_mean(nll_BT, mask_BT, total.positive_tokens)
        low_BT, high_BT = clip_indicators(log_ratio_BT, advantage_BT, self.clip_low, self.clip_high)
        sums = {
            "clip_fraction_low": low_BT,
            "clip_fraction_high": high_BT,
            "kl_k1": kl_k1(log_ratio_BT),
            "kl_k3": kl_k3(log_ratio_BT),
        }
        watched = {name: masked_fill(x_BT.detach(), mask_BT).sum() for name, x_BT in sums.items()}
        watched |= {"surrogate": surrogate.detach(), "positive_nll": positive_nll.detach()}
        return surrogate + self.positive_lm_coef * positive_nll, watched


@dataclass(frozen=True, kw_only=True)
class ActorCritic(PolicyGradient):
    """PPO and its refinements: a critic turns one reward at the end into an advantage for each token."""

    value_pretraining_steps: int = 0  # most RL steps in which only the critic trains (technique 1)
    actor_lambda: float = 0.95  # lambda of the advantages, where not length-adaptive
    critic_lambda: float | None = None  # lambda of the value targets (technique 2); None shares the actor's
    length_adaptive_alpha: float | None = None  # alpha of the length-adaptive lambda (technique 3); None uses actor_lambda
    gamma: float = 1.0  # discount; 1 throughout the paper
    whiten_advantages: bool = True  # as PPO is run in practice; the paper's text has none (A10)
    clip_value: float | None = None  # in units of reward; None for no value clipping (A20)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.value_pretraining_steps >= 0,
            f"algorithm.value_pretraining_steps is {self.value_pretraining_steps}; set it to 0 (none) or more RL steps",
        )
        for name in ("actor_lambda", "critic_lambda", "gamma"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 1, f"algorithm.{name} is {value}; set it in [0, 1]")
        alpha = self.length_adaptive_alpha
        _require(
            alpha is None or alpha > 0,
            f"algorithm.length_adaptive_alpha is {alpha}; set it above 0, the paper's is 0.05, or to null for a fixed actor_lambda",
        )
        _require(
            self.clip_value is None or self.clip_value > 0,
            f"algorithm.clip_value is {self.clip_value}; set it above 0, or to null for none",
        )

    def credit(self, batch: Batch, sum_over_ranks: Callable[[Tensor], Tensor] = local_sum, monte_carlo: bool = False) -> Batch:
        """Adds advantages and value targets to an annotated batch (techniques 2 and 3).

        Args:
            batch: with `value_R`.
            monte_carlo: value targets are the plain returns, whatever `critic_lambda` says: value pretraining (technique 1).
        """
        assert batch.value_R is not None
        mask_BT, value_BT = batch.mask_BT, batch.pad(batch.value_R)
        reward_BT = terminal_reward(self.reward(batch), mask_BT)
        actor_lambda: float | Tensor = self.actor_lambda
        if self.length_adaptive_alpha is not None:
            actor_lambda = length_adaptive_lambda(batch.response_length_B, self.length_adaptive_alpha)
        critic_lambda = actor_lambda if self.critic_lambda is None else self.critic_lambda
        if monte_carlo:
            critic_lambda = 1.0
        advantage_BT = gae(reward_BT, value_BT, mask_BT, actor_lambda, self.gamma)
        target_BT = gae(reward_BT, value_BT, mask_BT, critic_lambda, self.gamma) + value_BT
        if self.whiten_advantages:
            advantage_BT = masked_whiten(advantage_BT, mask_BT, sum_over_ranks)
        return batch.with_(advantage_R=advantage_BT[mask_BT], target_R=target_BT[mask_BT])

    def monte_carlo_return(self, batch: Batch) -> Tensor:
        """return_R: what explained variance is measured against, the discounted reward still to come at each token."""
        mask_BT = batch.mask_BT
        reward_BT = terminal_reward(self.reward(batch), mask_BT)
        return gae(reward_BT, torch.zeros_like(reward_BT), mask_BT, 1.0, self.gamma)[mask_BT]

    def critic_loss(self, value_R: Tensor, micro: MicroBatch, total: Normalisers) -> Tensor:
        """This micro-batch's share of the critic's loss: a mean over tokens, whatever the actor's aggregation (A20).

        Args:
            value_R: values under the critic being trained, with gradient.
        """
        old_value_BT = None if self.clip_value is None else micro.padded("value_R")
        loss_BT = value_loss(micro.pad(value_R), micro.padded("target_R"), old_value_BT, self.clip_value)
        return token_mean(loss_BT, micro.mask_BT, total.tokens)
