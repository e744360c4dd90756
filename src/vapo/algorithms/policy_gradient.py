"""Base class of all algorithms: outcome rewards, clipped surrogate, loss aggregation, LM loss on correct responses.

Two subclasses complete it: `ActorCritic` (PPO, VC-PPO, VAPO) and `GroupRelative` (GRPO, DAPO). All of it is pure: a `Batch` in, a
`Batch` out; tensors in, losses out.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vapo.algorithms.diagnostics import clip_indicators, kl_k1, kl_k3
from vapo.algorithms.masked import masked_fill, sequence_mean, token_mean
from vapo.algorithms.mismatch import MISMATCH, mismatch_weight
from vapo.algorithms.policy_loss import clipped_surrogate, positive_example_nll
from vapo.algorithms.rewards import outcome_reward, overlong_penalty
from vapo.types import Batch, MicroBatch


@dataclass(frozen=True)
class Normalizers:
    """Denominators of the losses: counted once over a whole optimizer minibatch, before it is cut into micro-batches and ranks."""

    tokens: float
    sequences: float
    positive_tokens: float  # tokens of correct responses


def require(condition: bool, message: str) -> None:
    """Raises ValueError with `message`, which says what to set, unless `condition` holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """Switches and losses that all algorithms share."""

    needs_critic: ClassVar[bool] = False

    group_size: int = 1  # G, responses per prompt (technique 7)
    clip_low: float = 0.2  # epsilon_low
    clip_high: float = 0.2  # epsilon_high; above clip_low is clip-higher (technique 4)
    dual_clip: float | None = None  # c > 1 bounds the loss of tokens with a negative advantage; not in VAPO
    loss_aggregation: str = "sequence"  # token (technique 5) or sequence
    positive_lm_coef: float = 0.0  # mu, weight of the LM loss on correct responses (technique 6)
    overlong_buffer: int = 0  # tokens of DAPO's soft punishment ramp before the length limit; 0 turns it off (A17)
    max_response_tokens: int | None = None  # the length limit the ramp ends at; needed when overlong_buffer > 0
    mismatch: str | None = None  # weights for engine/trainer mismatch, one of MISMATCH; None for none, as in VAPO
    mismatch_low: float = 0.5  # ratio of trainer's to engine's probability below which a mask drops tokens
    mismatch_high: float = 2.0  # ratio above which a mask drops tokens, and at which a truncation caps it
    dynamic_sampling: bool = False  # train only on groups with both right and wrong responses (DAPO Eq 11); not in VAPO
    max_draws: int = 10  # dynamic sampling: maximum draws of prompts in one RL step; then it continues with fewer groups

    def __post_init__(self) -> None:
        require(self.group_size >= 1, f"algorithm.group_size is {self.group_size}; set it to 1 (no groups) or more")
        require(0 <= self.clip_low < 1, f"algorithm.clip_low is {self.clip_low}; set it in [0, 1); the paper's is 0.2")
        require(
            self.clip_high >= self.clip_low,
            f"algorithm.clip_high is {self.clip_high}, below clip_low {self.clip_low}; "
            "set clip_high to clip_low (plain clipping) or higher; the paper's is 0.28",
        )
        require(
            self.dual_clip is None or self.dual_clip > 1,
            f"algorithm.dual_clip is {self.dual_clip}; set it above 1, or to null for none",
        )
        require(
            self.loss_aggregation in ("token", "sequence"),
            f"algorithm.loss_aggregation is {self.loss_aggregation!r}; set it to token or sequence",
        )
        require(self.positive_lm_coef >= 0, f"algorithm.positive_lm_coef is {self.positive_lm_coef}; set it to 0 (off) or more")
        require(
            self.overlong_buffer == 0 or 0 < self.overlong_buffer <= (self.max_response_tokens or 0),
            f"algorithm.overlong_buffer is {self.overlong_buffer} tokens with max_response_tokens {self.max_response_tokens}; "
            "set it to 0 (off) or at most max_response_tokens",
        )
        require(
            self.mismatch is None or self.mismatch in MISMATCH,
            f"algorithm.mismatch is {self.mismatch!r}; set it to one of {', '.join(MISMATCH)}, or to null for none",
        )
        require(
            0 < self.mismatch_low <= 1 <= self.mismatch_high,
            f"algorithm.mismatch_low is {self.mismatch_low}, mismatch_high {self.mismatch_high}; set them to 0 < low <= 1 <= high",
        )
        require(
            not self.dynamic_sampling or self.group_size >= 2,
            "algorithm.dynamic_sampling needs groups with both right and wrong responses; set algorithm.group_size to 2 or more",
        )
        require(self.max_draws >= 1, f"algorithm.max_draws is {self.max_draws}; set it to 1 (no refill) or more")

    def normalizers(self, batch: Batch, index_B: Tensor | None = None) -> Normalizers:
        """Counts tokens, responses and positive tokens of a whole optimizer minibatch, which every rank holds.

        Args:
            index_B: the minibatch's rollouts; None for all of the batch.
        """
        length_B, correct_B = batch.response_length_B, batch.correct_B
        if index_B is not None:
            length_B, correct_B = length_B[index_B], correct_B[index_B]
        return Normalizers(float(length_B.sum()), float(len(length_B)), float((length_B * correct_B).sum()))

    def reward(self, batch: Batch) -> Tensor:
        """One reward per response: the verifier's outcome, and the overlong punishment if it is on."""
        reward_B = outcome_reward(batch.correct_B)
        if self.overlong_buffer > 0:
            assert self.max_response_tokens is not None
            reward_B = reward_B + overlong_penalty(batch.response_length_B, self.max_response_tokens, self.overlong_buffer)
        return reward_B

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares the policy with the initial policy."""
        return False

    def credit(self, batch: Batch, pretraining: bool = False) -> Batch:
        """Adds advantages, and value targets if there is a critic, to an annotated batch."""
        raise NotImplementedError

    @property
    def reward_range(self) -> tuple[float, float]:
        """The least and the largest reward of a response."""
        return (-2.0 if self.overlong_buffer > 0 else -1.0), 1.0

    def aggregate(self, x_BT: Tensor, mask_BT: Tensor, counts: Normalizers) -> Tensor:
        """This micro-batch's share of the minibatch mean that `loss_aggregation` selects (technique 5)."""
        if self.loss_aggregation == "token":
            return token_mean(x_BT, mask_BT, counts.tokens)
        return sequence_mean(x_BT, mask_BT, counts.sequences)

    def actor_loss(self, logprob_R: Tensor, micro: MicroBatch, counts: Normalizers) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's share of the actor's loss (VAPO Eq 10: L = L_PPO + μ L_NLL).

        Args:
            logprob_R: log-probabilities under the policy being trained, with gradient.
            micro: a micro-batch of the minibatch that was counted.

        Returns:
            The loss, and diagnostics: its two terms, and sums over the micro-batch's tokens.
        """
        mask_BT, logprob_BT = micro.mask_BT, micro.pad(logprob_R)
        advantage_BT, old_logprob_BT = micro.padded("advantage_R"), micro.padded("old_logprob_R")
        log_ratio_BT = logprob_BT - old_logprob_BT
        surrogate_BT = clipped_surrogate(log_ratio_BT, advantage_BT, self.clip_low, self.clip_high, self.dual_clip)
        if self.mismatch is not None:
            log_rho_BT = old_logprob_BT - micro.padded("sampler_logprob_R")
            surrogate_BT = mismatch_weight(self.mismatch, log_rho_BT, mask_BT, self.mismatch_low, self.mismatch_high) * surrogate_BT
        surrogate = self.aggregate(surrogate_BT, mask_BT, counts)
        nll_BT = positive_example_nll(logprob_BT, mask_BT, micro.part.correct_B.to(mask_BT.device))
        positive_nll = token_mean(nll_BT, mask_BT, counts.positive_tokens)
        low_BT, high_BT = clip_indicators(log_ratio_BT, advantage_BT, self.clip_low, self.clip_high)
        sums = {
            "clip_fraction_low": low_BT,
            "clip_fraction_high": high_BT,
            "kl_k1": kl_k1(log_ratio_BT),
            "kl_k3": kl_k3(log_ratio_BT),
        }
        diagnostics = {name: masked_fill(x_BT.detach(), mask_BT).sum() for name, x_BT in sums.items()}
        diagnostics |= {"surrogate": surrogate.detach(), "positive_nll": positive_nll.detach()}
        return surrogate + self.positive_lm_coef * positive_nll, diagnostics
