"""Ten RL steps of mini are what they were, on any machine; a change of an equation by a few percent is seen."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.golden.run import FOLDER, LIMITS, deviations, golden_run, read
from torch import Tensor

from vapo.algorithms import actor_critic, policy_gradient

CAPABILITY = torch.backends.cpu.get_cpu_capability()


def test_the_golden_run_is_what_it_was(tmp_path: Path) -> None:
    if not (FOLDER / f"{CAPABILITY.lower()}.csv").exists():
        pytest.skip(f"there is no golden file of {CAPABILITY}")
    assert deviations(golden_run(tmp_path), read(CAPABILITY)) == []


def test_the_files_are_of_the_same_run() -> None:
    first, *others = [read(file.stem) for file in sorted(FOLDER.glob("*.csv"))]
    assert len(others) == 2 and len(first) == 10 and first["actor/grad_norm"].notna().sum() == 7
    assert [deviations(other, first) for other in others] == [[], []]


@pytest.mark.parametrize(("step", "start"), [(1, 1), (3, 1), (4, 4), (6, 4), (7, 7), (10, 7)])
def test_a_number_out_of_its_limit_is_found(step: int, start: int) -> None:
    golden = read("avx2")
    names, limit = LIMITS[start]
    for name in names:
        for share, expected in ((0.99, 0), (1.01, 1), (float("nan"), 1)):
            found = golden.copy()
            found.loc[step, name] += share * limit * golden[name].abs().max()
            if name == "response/length_mean" and start < 7:  # another response, so only what lasts is compared
                expected = int(share != share)
            assert len(deviations(found, golden)) == (0 if golden[name].isna()[step] else expected)


def test_after_a_token_that_was_sampled_otherwise_only_what_lasts_is_compared() -> None:
    golden = read("avx2")
    found = golden.copy()
    found.loc[3:, "response/length_mean"] += 1 / 64
    found.loc[3:, "actor/surrogate_loss"] *= 2
    assert deviations(found, golden) == []
    found.loc[2, "critic/value_loss"] *= 1.001
    found.loc[5, "reward/mean"] += 0.2
    assert [line.split(",")[0] for line in deviations(found, golden)] == ["RL step 2", "RL step 5"]


def times(factor: float, function: Any) -> Any:
    def changed(*arguments: Any) -> Tensor:
        result: Tensor = factor * function(*arguments)
        return result

    return changed


CHANGES: dict[str, tuple[Any, str, float] | str] = {
    "lambda": (actor_critic, "length_adaptive_lambda", 1.02),
    "whitening": (actor_critic, "whiten", 1.02),
    "value loss": (actor_critic, "value_loss", 1.02),
    "reward": (policy_gradient, "outcome_reward", 1.02),
    "surrogate": (policy_gradient, "clipped_surrogate", 1.02),
    "window": "algorithm.length_adaptive_alpha=0.41",
    "upper bound": "algorithm.clip_high=0.29",
    "lower bound": "algorithm.clip_low=0.21",
    "weight of the LM loss": "algorithm.positive_lm_coef=0.103",
    "critic's lambda": "algorithm.critic_lambda=0.98",
    "discount": "algorithm.gamma=0.995",
    "largest gradient": "module.max_grad_norm=1.03",
    "actor's rate": "module.actor_optimizer.lr=1.02e-4",
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_equation_is_seen(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = CHANGES[change]
    if isinstance(how, tuple):
        module, name, factor = how
        monkeypatch.setattr(module, name, times(factor, getattr(module, name)))
    found = golden_run(tmp_path, *([how] if isinstance(how, str) else []))
    assert deviations(found, read(CAPABILITY)) != []
