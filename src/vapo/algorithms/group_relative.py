"""GRPO and DAPO: no critic. A response's advantage is its reward relative to its group, shared by all its tokens."""

from dataclasses import dataclass

from torch import Tensor

from vapo.algorithms.advantages import spread
from vapo.algorithms.diagnostics import KL_ESTIMATORS
from vapo.algorithms.groups import group_advantage
from vapo.algorithms.masked import masked_fill
from vapo.algorithms.policy_gradient import Normalizers, PolicyGradient, require
from vapo.algorithms.policy_loss import MAX_LOG_RATIO
from vapo.types import Batch, MicroBatch

MAX_KL = 10.0  # nats at one token


def bounded_kl(log_ratio_BT: Tensor, estimator: str) -> Tensor:
    """An estimate of the KL divergence at each token that cannot overflow, for the loss: the log-ratio is clamped to ±20 before the
    estimator and the estimate to ±10 after it, as common implementations do. A token beyond the limits has no gradient.

    Args:
        log_ratio_BT: log π_reference(a|s) - log π(a|s).
        estimator: k1, k2 or k3. The limit of 10 is reached at a log-ratio of ±10, ±4.5, and -11 or +2.6.
    """
    return KL_ESTIMATORS[estimator](log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)).clamp(-MAX_KL, MAX_KL)


@dataclass(frozen=True, kw_only=True)
class GroupRelative(PolicyGradient):
    """One advantage per response, the same for each of its tokens: no per-token credit."""

    group_size: int = 16  # G >= 2, responses per prompt: their mean is the baseline
    divide_by_std: bool = True  # advantages in units of the group's standard deviation (DAPO Eq 9)
    kl_coef: float = 0.0  # beta, weight of the KL divergence from the initial policy; DAPO has none
    kl_estimator: str = "k3"  # k1, k2 or k3; GRPO's is k3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.group_size >= 2,
            f"algorithm.group_size is {self.group_size}: a group is its own baseline, so it needs 2 responses or more",
        )
        require(self.kl_coef >= 0, f"algorithm.kl_coef is {self.kl_coef}; set it to 0 (off) or more")
        require(
            self.kl_estimator in KL_ESTIMATORS,
            f"algorithm.kl_estimator is {self.kl_estimator!r}; set it to one of {', '.join(KL_ESTIMATORS)}",
        )

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    def credit(self, batch: Batch, pretraining: bool = False) -> Batch:
        """Gives every token of a response its response's advantage within the group."""
        assert not pretraining, "there is no critic to pretrain"
        advantage_B = group_advantage(self.reward(batch), batch.group_B, self.divide_by_std)
        return batch.replace(advantage_R=spread(advantage_B, batch.response_length_B))

    def actor_loss(self, logprob_R: Tensor, micro: MicroBatch, counts: Normalizers) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds beta * KL(policy || initial policy), estimated at the sampled tokens within limits, to the shared loss."""
        loss, diagnostics = super().actor_loss(logprob_R, micro, counts)
        if self.kl_coef > 0:
            log_ratio_BT = micro.padded("reference_logprob_R") - micro.pad(logprob_R)
            kl_BT = bounded_kl(log_ratio_BT, self.kl_estimator)
            loss = loss + self.kl_coef * self.aggregate(kl_BT, micro.mask_BT, counts)
            diagnostics["kl_reference"] = masked_fill(kl_BT.detach(), micro.mask_BT).sum()
        return loss, diagnostics
