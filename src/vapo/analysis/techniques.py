"""What each of the seven techniques changes, as curves computed by the functions that training calls."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vapo.algorithms import (
    clipped_surrogate,
    gae,
    group_fractions,
    length_adaptive_lambda,
    monte_carlo_return,
    positive_example_nll,
    sequence_mean,
    terminal_reward,
    token_mean,
)

LENGTH = 100  # tokens of the example response


def value_pretraining(wrong_by: float = 1.0, lam: float = 0.95) -> dict[str, Tensor]:
    """Technique 1: advantages of the tokens of a response with reward -1, if the critic knows it and if it starts at V = -1 +
    `wrong_by` everywhere: what is left is the critic's error, at the end."""
    length_B, values = torch.tensor([LENGTH]), {"V = -1": -1.0, f"V = {wrong_by - 1:g}": wrong_by - 1}
    reward_R = terminal_reward(torch.tensor([-1.0]), length_B)
    return {name: gae(reward_R, torch.full((LENGTH,), value), length_B, lam) for name, value in values.items()}


def decoupled_gae(lam: float = 0.95) -> dict[str, Tensor]:
    """Technique 2: the critic's targets for a correct response while V = 0, with λ = 1 and with the actor's λ."""
    length_B, reward_B, value_R = torch.tensor([LENGTH]), torch.tensor([1.0]), torch.zeros(LENGTH)
    shared_R = gae(terminal_reward(reward_B, length_B), value_R, length_B, lam) + value_R
    return {"λ = 1": monte_carlo_return(reward_B, length_B), f"λ = {lam}": shared_R}


def windows(length_B: Tensor, alphas: tuple[float, ...] = (0.05, 0.1, 0.4)) -> dict[str, Tensor]:
    """Technique 3: the window 1 / (1 - λ) in tokens for each length, and that of a fixed λ of 0.95."""
    adaptive = {f"α = {alpha}": 1 / (1 - length_adaptive_lambda(length_B, alpha).double()) for alpha in alphas}
    return adaptive | {"λ = 0.95": torch.full((len(length_B),), 1 / (1 - 0.95), dtype=torch.float64)}


def clip_gradients(ratio_B: Tensor, clip_high: float, clip_low: float = 0.2) -> dict[str, Tensor]:
    """Technique 4: how strongly the loss pushes a token of advantage 1 or -1 up, at each probability ratio."""
    pushes = {}
    for advantage in (1.0, -1.0):
        log_ratio_B1 = ratio_B.log()[:, None].requires_grad_()
        loss_B1 = clipped_surrogate(log_ratio_B1, torch.full_like(log_ratio_B1, advantage), clip_low, clip_high)
        pushes[f"advantage {advantage:g}"] = -torch.autograd.grad(loss_B1.sum(), log_ratio_B1)[0][:, 0]
    return pushes


def token_weights(length_B: Tensor) -> dict[str, Tensor]:
    """Technique 5: the weight of one token's loss in a minibatch of responses of these lengths, relative to the mean weight."""
    mask_BT = torch.arange(int(length_B.max())) < length_B[:, None]
    found = {}
    for name, mean, count in (("token", token_mean, length_B.sum()), ("sequence", sequence_mean, len(length_B))):
        loss_BT = torch.zeros(mask_BT.shape, requires_grad=True)
        mean(loss_BT, mask_BT, float(count)).backward()
        assert loss_BT.grad is not None
        found[name] = loss_BT.grad[:, 0] * length_B.sum()
    return found


def lm_push(share_B: Tensor, mu: float = 0.1) -> Tensor:
    """Technique 6: what the LM loss adds to a token of a correct response, in units of advantage, where a `share` p of a
    minibatch's tokens is in correct responses: μ / p."""
    pushes, tokens = [], 1000
    for share in share_B.tolist():
        positive = max(1, round(share * tokens))
        logprob_B1 = torch.zeros(tokens, 1, requires_grad=True)
        mask_B1 = torch.ones(tokens, 1, dtype=torch.bool)
        loss_B1 = positive_example_nll(logprob_B1, mask_B1, torch.arange(tokens) < positive)
        (mu * token_mean(loss_B1, mask_B1, positive)).backward()
        assert logprob_B1.grad is not None
        pushes.append(-logprob_B1.grad[0, 0] * tokens)
    return torch.stack(pushes)


def mixed_groups(rate_B: Tensor, sizes: tuple[int, ...] = (2, 4, 16), groups: int = 10_000) -> dict[str, Tensor]:
    """Technique 7: the share of groups with right and wrong responses, by the policy's success rate, sampled."""
    generator, found = torch.Generator().manual_seed(0), {}
    for size in sizes:
        group_B = torch.arange(groups).repeat_interleave(size)
        drawn = [torch.rand(len(group_B), generator=generator) < rate for rate in rate_B.tolist()]
        found[f"{size} responses"] = torch.tensor([group_fractions(correct_B, group_B)["frac_mixed"] for correct_B in drawn])
    return found


def draw(axis: Axes, x: Tensor, curves: dict[str, Tensor], title: str, xlabel: str) -> None:
    for name, y in curves.items():
        axis.plot(x, y, label=name)
    axis.set_title(title, fontsize="medium")
    axis.set_xlabel(xlabel)
    axis.grid(alpha=0.3)
    axis.legend()


def plot_techniques() -> Figure:
    """The seven, a panel each."""
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    axes = figure.subplots(2, 4).flatten()
    tokens, lengths, ratio = torch.arange(LENGTH), torch.arange(1, 1001), torch.linspace(0.5, 1.6, 400)
    share, sorted_lengths = torch.linspace(0.02, 1, 50), torch.tensor([3, 10, 30, 100, 300])
    draw(axes[0], tokens, value_pretraining(), "1 advantages while V is wrong; reward −1", "token")
    draw(axes[1], tokens, decoupled_gae(), "2 the critic's targets; reward 1, V = 0", "token")
    draw(axes[2], lengths, windows(lengths), "3 window of credit, tokens", "response length")
    for clip_high, style in ((0.28, "-"), (0.2, "--")):
        up_B, down_B = clip_gradients(ratio, clip_high).values()
        axes[3].plot(ratio, up_B, style, color="tab:blue", label=f"advantage 1, ε_high {clip_high}")
    axes[3].plot(ratio, down_B, color="tab:red", label="advantage −1")
    axes[3].set_title("4 push on a token", fontsize="medium")
    axes[3].set(xlabel="probability ratio", ylim=(-1.8, 2.4))
    axes[3].legend(loc="upper left", fontsize="small")
    draw(axes[4], sorted_lengths, token_weights(sorted_lengths), "5 weight of a token; mean is 1", "response length")
    axes[4].set(xscale="log", yscale="log")
    draw(axes[5], share, {"μ = 0.1": lm_push(share)}, "6 the LM loss as an advantage", "share of tokens in correct responses")
    rate = torch.linspace(0, 1, 41)
    draw(axes[6], rate, mixed_groups(rate), "7 share of groups with right and wrong", "success rate")
    axes[7].set_visible(False)
    return figure
