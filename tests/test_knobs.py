"""Knobs of the loop: turning one moves weights by what its closed form predicts. Those of the algorithm are in tests/algorithms/.

Weights move by hand-made steps of plain gradient descent wherever the optimizer itself is not in question.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from tests.runs import CONFIGS, backward, build, metrics, run
from torch import Tensor
from torch.testing import assert_close

from vapo.micro_batches import minibatches
from vapo.module import RLModule
from vapo.types import Batch

TURNED: set[str] = set()  # keys of configs/module/default.yaml that a test below turns
GRADIENT_DESCENT = [
    *(f"module.{name}_optimizer._target_=torch.optim.SGD" for name in ("actor", "critic")),
    *(f"module.{name}_optimizer.weight_decay=0" for name in ("actor", "critic")),
    *(f"module.{name}_optimizer.lr=0.01" for name in ("actor", "critic")),
    *(f"module.{name}_schedule.warmup_steps=0" for name in ("actor", "critic")),
    "module.actor_schedule.decay_share=0",
    *("module.max_grad_norm=null", "module.minibatch_rollouts=16", "module.value_pretraining_epochs=1"),
]


def turns(*keys: str) -> Callable[[Any], Any]:
    TURNED.update(keys)
    return lambda test: test


def loop(folder: Path, *overrides: str, base: Iterable[str] = GRADIENT_DESCENT, **algorithm: Any) -> tuple[RLModule, Batch]:
    """A module that can `improve` without a trainer, and the batch to do so on."""
    module, batch = build(folder, *base, *overrides, **algorithm)
    module.configure_optimizers()
    return module, batch


def weights(module: RLModule, name: str) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.learners[name].network.parameters()])


def gradient(module: RLModule, name: str, minibatch: Batch) -> Tensor:
    """Of one network's loss on a whole minibatch."""
    module.zero_grad()
    backward(module, name, minibatch)
    found = torch.cat([p.grad.reshape(-1) for p in module.learners[name].network.parameters() if p.grad is not None])
    module.zero_grad()
    return found


def descend(module: RLModule, name: str, minibatches: Iterable[Batch], rate: float = 0.01) -> Tensor:
    """Weights of a copy of the network after one step of gradient descent on each minibatch."""
    trainer, module = module.trainer, copy.deepcopy(module)
    module._trainer = trainer
    for minibatch in minibatches:
        flat = weights(module, name) - rate * gradient(module, name, minibatch)
        torch.nn.utils.vector_to_parameters(flat, module.learners[name].network.parameters())
    return weights(module, name)


def assert_moves(module: RLModule, batch: Batch, name: str, expected: Tensor) -> None:
    """`improve` takes the network there, and not by a distance that the tolerance would hide."""
    before = weights(module, name)
    module.improve(batch)
    assert_close(weights(module, name), expected, atol=2e-6, rtol=0)
    assert (expected - before).abs().max() > 5e-5


def test_every_number_of_the_loop_has_a_test() -> None:
    def leaves(node: Any, prefix: str = "") -> Iterable[str]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            elif (isinstance(value, int | float) and not isinstance(value, bool)) or key == "seed":
                yield prefix + key

    module = OmegaConf.to_container(OmegaConf.load(Path(CONFIGS, "module", "default.yaml")))
    assert set(leaves(module)) == TURNED


@turns("actor_optimizer.lr", "critic_optimizer.lr")
@pytest.mark.parametrize("name", ["actor", "critic"])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_one_step_moves_a_network_by_its_own_rate_times_its_gradient(name: str, rate: float, tmp_path: Path) -> None:
    module, batch = loop(tmp_path, f"module.{name}_optimizer.lr={rate}")
    other = {"actor": "critic", "critic": "actor"}[name]
    unmoved = descend(module, other, [batch])
    assert_moves(module, batch, name, weights(module, name) - rate * gradient(module, name, batch))
    assert_close(weights(module, other), unmoved, atol=2e-6, rtol=0)


@turns("actor_optimizer.weight_decay", "critic_optimizer.weight_decay")
@pytest.mark.parametrize("name", ["actor", "critic"])
def test_adamw_starts_with_the_sign_of_the_gradient_and_weight_decay_shrinks_the_weights(name: str, tmp_path: Path) -> None:
    """Adam's moments cancel in its first step: w (1 - rate * decay) - rate * g / (|g| + 1e-8)."""
    base = ("module.minibatch_rollouts=16", "module.max_grad_norm=null", f"module.{name}_schedule.warmup_steps=0")
    moved = {}
    for decay in (0.0, 0.1, 0.9):
        overrides = (f"module.{name}_optimizer.weight_decay={decay}", f"module.{name}_optimizer.lr=0.01")
        module, batch = loop(tmp_path, *overrides, base=base)
        g, w = gradient(module, name, batch), weights(module, name)
        module.improve(batch)
        moved[decay] = weights(module, name)
        assert_close(moved[0.0] - moved[decay], 0.01 * decay * w, atol=1e-6, rtol=0)
    clear = g.abs() > 1e-4  # the sign of a smaller one may be rounding's
    assert_close((moved[0.0] - w)[clear], -0.01 * g[clear].sign(), atol=1e-5, rtol=0)
    assert clear.sum() > 1000


@turns("max_grad_norm")
@pytest.mark.parametrize("name", ["actor", "critic"])
@pytest.mark.parametrize("share", [0.25, 4.0])
def test_a_gradient_above_max_grad_norm_is_scaled_down_to_it(name: str, share: float, tmp_path: Path) -> None:
    module, batch = loop(tmp_path)
    limit = share * gradient(module, name, batch).norm().item()
    module, batch = loop(tmp_path, f"module.max_grad_norm={limit}")
    g, w = gradient(module, name, batch), weights(module, name)
    assert_moves(module, batch, name, w - 0.01 * min(1.0, share) * g)
    assert module.metrics.flush()[f"{name}/grad_norm"] == pytest.approx(g.norm().item(), rel=1e-5)  # as it was before


@turns("actor_schedule.warmup_steps", "critic_schedule.warmup_steps")
@pytest.mark.parametrize("warmup", [0, 1, 2, 4])
def test_the_rate_warms_up_over_the_rl_steps_in_which_a_network_trains(warmup: int, tmp_path: Path) -> None:
    overrides = (f"module.{name}_schedule.warmup_steps={warmup}" for name in ("actor", "critic"))
    module, batch = loop(tmp_path, *overrides, "module.policy_steps=4")
    rates: dict[str, list[float]] = {"actor": [], "critic": []}
    factors = [min(1.0, (k + 1) / max(warmup, 1)) for k in range(5)]
    module.actor_frozen = True  # one step of value pretraining, then four of both
    assert_moves(module, batch, "critic", descend(module, "critic", [batch], 0.01 * factors[0]))
    module.actor_frozen = False
    for _ in range(4):
        for name, learner in module.learners.items():
            rates[name].append(learner.optimizer.param_groups[0]["lr"])
        module.improve(batch)
    assert rates["actor"] == pytest.approx([0.01 * factor for factor in factors[:4]])
    assert rates["critic"] == pytest.approx([0.01 * factor for factor in factors[1:]])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_minis_rate_decays_over_the_last_policy_steps_whatever_value_pretraining_took(share: float, tmp_path: Path) -> None:
    module, batch = loop(tmp_path, f"module.actor_schedule.decay_share={share}", "module.policy_steps=4")
    module.actor_frozen = True
    module.improve(batch)
    module.actor_frozen, rates = False, []
    for _ in range(4):
        rates.append(module.learners["actor"].optimizer.param_groups[0]["lr"])
        module.improve(batch)
    assert rates == pytest.approx([0.01 * min(1.0, (4 - k) / (4 * share + 1)) for k in range(4)])


def cut(module: RLModule, batch: Batch, epochs: int) -> list[Batch]:
    return [batch.select(index_B) for epoch in range(epochs) for index_B in parts(module, batch.group_B, epoch)]


def parts(module: RLModule, group_B: Tensor, epoch: int) -> Sequence[Tensor]:
    """The minibatches that a module makes of rollouts of these groups."""
    return minibatches(group_B, module.minibatch_rollouts, module.keep_groups, (module.seed, module.rl_step, epoch))


@turns("epochs")
@pytest.mark.parametrize("name", ["actor", "critic"])
def test_epochs_pass_over_all_minibatches_so_many_times(name: str, tmp_path: Path) -> None:
    for epochs in (1, 3):
        module, batch = loop(tmp_path, f"module.epochs={epochs}", "module.minibatch_rollouts=8")
        assert_moves(module, batch, name, descend(module, name, cut(module, batch, epochs)))
        assert (module.actor_updates, module.critic_updates) == (2 * epochs, 2 * epochs)


@turns("value_pretraining_epochs")
def test_value_pretraining_has_epochs_of_its_own_and_leaves_the_actor_alone(tmp_path: Path) -> None:
    for epochs in (1, 3):
        module, batch = loop(tmp_path, f"module.value_pretraining_epochs={epochs}", "module.epochs=2")
        module.actor_frozen, actor = True, weights(module, "actor")
        assert_moves(module, batch, "critic", descend(module, "critic", cut(module, batch, epochs)))
        assert torch.equal(weights(module, "actor"), actor)
        assert (module.actor_updates, module.critic_updates) == (0, epochs)


@turns("minibatch_rollouts")
def test_each_minibatch_is_a_step_of_its_own_mean_and_all_rollouts_come_once_an_epoch(tmp_path: Path) -> None:
    """With every response weighing the same, m steps of a small rate go m times as far as one step on all rollouts."""
    for rollouts in (4, 8):
        overrides = (f"module.minibatch_rollouts={rollouts}", "module.actor_optimizer.lr=5e-4")
        module, batch = loop(tmp_path, *overrides, loss_aggregation="sequence", positive_lm_coef=0.0)
        for epoch in range(2):
            index_B = torch.cat(list(parts(module, batch.group_B, epoch)))
            assert sorted(index_B.tolist()) == list(range(16))
        before, g = weights(module, "actor"), gradient(module, "actor", batch)
        assert_moves(module, batch, "actor", descend(module, "actor", cut(module, batch, 1), 5e-4))
        step = (weights(module, "actor") - before) / (-5e-4 * 16 / rollouts)
        assert (step - g).norm() < 0.1 * g.norm()


@pytest.mark.parametrize("keep", [False, True])
def test_minibatches_keep_groups_together_or_do_not(keep: bool, tmp_path: Path) -> None:
    module, batch = loop(tmp_path, f"module.keep_groups={keep}", "module.minibatch_rollouts=8")
    of_group_E4 = [batch.group_B[parts(module, batch.group_B, epoch)[0]].bincount(minlength=4).tolist() for epoch in range(30)]
    assert [set(counts) == {0, 4} for counts in of_group_E4].count(True) == (30 if keep else 0)
    assert len({*map(tuple, of_group_E4)}) >= 6  # every pair of groups is the first minibatch of some epoch
    assert_moves(module, batch, "actor", descend(module, "actor", cut(module, batch, 1)))


@turns("microbatch_tokens")
@pytest.mark.parametrize("tokens", [1, 64, 200])
def test_micro_batches_change_no_weight(tokens: int, tmp_path: Path) -> None:
    found, forwards = [], []
    for budget in (10**6, tokens):
        module, batch = loop(tmp_path, f"module.microbatch_tokens={budget}", "module.minibatch_rollouts=8")
        module.actor.register_forward_hook(lambda *_, budget=budget: forwards.append(budget))
        module.improve(batch)
        found.append(torch.cat([weights(module, "actor"), weights(module, "critic")]))
    assert_close(found[1], found[0], atol=2e-6, rtol=0)
    assert forwards.count(10**6) == 2  # whole minibatches
    assert forwards.count(tokens) > 2 and (tokens > 1 or forwards.count(tokens) == 16)  # rollouts one by one


@turns("policy_steps")
def test_policy_steps_count_the_steps_in_which_the_actor_trains(tmp_path: Path) -> None:
    module, batch = loop(tmp_path, "module.policy_steps=2")
    last = []
    for frozen in (True, True, False, False):
        module.actor_frozen = frozen
        module.improve(batch)
        last.append(module.is_last_step)
    assert last == [False, False, False, True]


@turns("max_skipped_updates")
@pytest.mark.parametrize("limit", [0, 2])
def test_so_many_updates_in_a_row_are_skipped(limit: int, tmp_path: Path) -> None:
    module, batch = loop(tmp_path, f"module.max_skipped_updates={limit}")
    before, parameter = weights(module, "actor"), next(module.actor.parameters())

    def update(value: float) -> None:
        parameter.grad = torch.full_like(parameter, value)
        module.learners["actor"].step(batch, torch.arange(len(batch)), tmp_path / "batch.pt")

    for _ in range(2):  # an update that succeeds begins the count anew
        for _ in range(limit):
            update(float("inf"))
        assert weights(module, "actor").equal(before)
        update(0.0)
    for _ in range(limit):
        update(float("nan"))
    with pytest.raises(FloatingPointError, match=f"after {limit} skipped updates"):
        update(float("nan"))


@turns("seed")
def test_the_seed_the_step_and_the_epoch_decide_the_order_of_rollouts(tmp_path: Path) -> None:
    module, _ = build(tmp_path, "seed=3")
    assert module.seed == 3

    def order(seed: int, rl_step: int, epoch: int) -> tuple[int, ...]:
        module.seed, module.rl_step = seed, rl_step
        return tuple(torch.cat(list(parts(module, torch.arange(16), epoch))).tolist())

    keys = [(seed, step, epoch) for seed in range(3) for step in range(3) for epoch in range(3)]
    assert len({order(*key) for key in keys}) == len(keys)
    assert [order(*key) for key in keys] == [order(*key) for key in keys]


# --- sampling and callbacks: alive, and no more is claimed -------------------------------------------------------------------

ALIVE = {  # and a column that it changes
    "rollout.sampling.temperature=0.7": "response/length_mean",
    "rollout.sampling.top_p=0.5": "response/length_mean",
    "callbacks.value_pretraining.heldout_rollouts=128": "value_pretraining/heldout_explained_variance",
}


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("default")
    run(folder)
    return metrics(folder)


@pytest.mark.parametrize("knob", ALIVE)
def test_knob_is_alive(knob: str, default: pd.DataFrame, tmp_path: Path) -> None:
    run(tmp_path, knob)
    turned = metrics(tmp_path)
    assert turned["rl_step"].equals(default["rl_step"]) and not turned[ALIVE[knob]].equals(default[ALIVE[knob]])


def test_rollout_log_knobs(tmp_path: Path) -> None:
    run(tmp_path, "callbacks.rollout_log.every_n_steps=2", "callbacks.rollout_log.max_rollouts=1", "algorithm.group_size=2")
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["step_000002.parquet"]
    sizes = pd.read_parquet(tmp_path / "rollouts" / "step_000002.parquet").groupby("group").size()
    assert 2 <= len(sizes) <= 4 and set(sizes[1:]) == {2}  # of 8 problems the first response, and three at most as a whole
