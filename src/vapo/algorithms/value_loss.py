"""The critic's loss, and its explained variance."""

import torch
from torch import Tensor


def value_loss(value_BT: Tensor, target_BT: Tensor, old_value_BT: Tensor | None = None, clip_value: float | None = None) -> Tensor:
    """Half the squared error, per token (VAPO section 2; vapo.md A20).

        1/2 (V - target)²,    or with clipping    1/2 max((V - target)², (clip(V, V_old ± clip_value) - target)²)

    Args:
        value_BT: V of the state before each token, under the critic being trained.
        target_BT: its regression target; the Monte-Carlo return when the critic's lambda is 1.
        old_value_BT: V when the rollouts were annotated; needed for clipping only.
        clip_value: how far V may move from V_old, > 0, in units of reward; None for no clipping.
    """
    error_BT = (value_BT - target_BT) ** 2
    if clip_value is not None:
        assert old_value_BT is not None
        clipped_BT = old_value_BT + (value_BT - old_value_BT).clamp(-clip_value, clip_value)
        error_BT = torch.maximum(error_BT, (clipped_BT - target_BT) ** 2)
    return 0.5 * error_BT


def explained_variance_sums(value_R: Tensor, return_R: Tensor, segment_lengths: Tensor | None = None) -> Tensor:
    """The five sums `(n, R, R^2, R-V, (R-V)^2)` over tokens, float64: add them over micro-batches and ranks, then
    call `explained_variance`. Averaging explained variances of parts would be meaningless.

    Args:
        value_R, return_R: the critic's value and the Monte-Carlo return at each token.
        segment_lengths: to sum separately over the first tokens, the next ones and so on: how many in each of these segments.

    Returns:
        Sums of shape (segments, 5), or of shape (5,) without `segment_lengths`.
    """
    return_R = return_R.double()
    error_R = return_R - value_R.double()
    columns = (torch.ones_like(return_R), return_R, return_R**2, error_R, error_R**2)
    if segment_lengths is None:
        return torch.stack([x_R.sum() for x_R in columns])
    return torch.stack([torch.segment_reduce(x_R, "sum", lengths=segment_lengths) for x_R in columns], -1)


def centred_sums(sums_B5: Tensor, problem_B: Tensor) -> Tensor:
    """The five sums after returns and values were centred per problem, over the problems with two responses or more: their
    `explained_variance` says whether the critic tells the responses to one problem apart, not only hard problems from easy ones.

        1 - Σₚ Σ (e - mean_p(e))² / Σₚ Σ (R - mean_p(R))²,    e = R - V, means over the tokens of problem p

    Args:
        sums_B5: the `explained_variance_sums` of each response.
        problem_B: number of each response's problem, 0 or more.

    Returns:
        Sums of shape (5,); the first is 0 if no problem has two responses.
    """
    sums_P5 = torch.zeros(int(problem_B.max()) + 1, 5, dtype=torch.float64).index_add_(0, problem_B, sums_B5)
    count, total, square, error, error_square = sums_P5[problem_B.bincount() > 1].unbind(-1)
    zero = torch.zeros((), dtype=torch.float64)
    return torch.stack([count.sum(), zero, (square - total**2 / count).sum(), zero, (error_square - error**2 / count).sum()])


def explained_variance(sums: Tensor) -> Tensor:
    """How much of the variance of the Monte-Carlo return the critic explains (vapo.md A24).

        1 - Var(R - V) / Var(R)

    1 is a perfect critic, 0 one that knows only the mean (a constant offset costs nothing); below 0 it is worse than a constant.
    Against a bootstrapped target a bad critic would look good, so always use the return.

    Args:
        sums: as from `explained_variance_sums`.

    Returns:
        A scalar at most 1; 0 when all returns are equal, since then there is nothing to explain.
    """
    count, total, square, error, error_square = sums
    count = count.clamp(min=1)
    variance = square / count - (total / count) ** 2
    error_variance = error_square / count - (error / count) ** 2
    explained = 1.0 - error_variance / variance.clamp(min=1e-12)
    return torch.where(variance > 1e-12, explained, torch.zeros_like(explained))
