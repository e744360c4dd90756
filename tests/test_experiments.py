"""VC-PPO, GRPO and DAPO through the training entry: who has a critic, a reference, and which prompts are asked."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tests.runs import config_for, metrics, run
from torch import Tensor

from vapo.models.actor import Actor
from vapo.module import RLModule

QUIET = "callbacks.aime_evaluation=null"
ALL_WRONG_IS_RARE = "data.source.max_operands=3"  # of easy problems most groups are mixed


def weights(folder: Path, network: str) -> dict[str, Tensor]:
    """A network's weights in the newest checkpoint."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix(f"{network}."): weight for name, weight in state.items() if name.startswith(f"{network}.")}


def initial(folder: Path) -> dict[str, Tensor]:
    return dict(Actor.from_pretrained(config_for(folder).model.path).state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys() != set()
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


def record_prompts(patch: pytest.MonkeyPatch) -> list[tuple[int, list[int]]]:
    """Fills with the RL step and the prompts of every draw for training."""
    draws: list[tuple[int, list[int]]] = []
    original = RLModule.sample

    def sample(self: RLModule, prompts: Any, *args: Any) -> Any:
        if args[-1] == self.rl_step:  # not of a callback
            draws.append((self.rl_step, [prompt.index for prompt in prompts]))
        return original(self, prompts, *args)

    patch.setattr(RLModule, "sample", sample)
    return draws


def test_vc_ppo_pretrains_its_critic_and_then_trains_both(tmp_path: Path) -> None:
    run(tmp_path, QUIET, experiment="vc_ppo")
    frame = metrics(tmp_path)
    assert frame["clock/policy_step"].tolist() == [0, 1, 2]
    assert frame["clock/actor_updates"].tolist() == [0, 2, 4] and frame["clock/critic_updates"].is_monotonic_increasing
    assert frame["actor/lambda_mean"].tolist() == pytest.approx([0.95] * 3)
    assert weights(tmp_path, "critic") and not equal(weights(tmp_path, "actor"), initial(tmp_path))


def test_grpo_trains_an_actor_beside_a_reference_that_stays_and_has_no_critic(tmp_path: Path) -> None:
    run(tmp_path, QUIET, ALL_WRONG_IS_RARE, "module.minibatch_rollouts=16", "module.policy_steps=3", experiment="grpo")
    frame = metrics(tmp_path)
    assert frame["clock/policy_step"].tolist() == [1, 2, 3]
    assert frame["clock/rollouts"].tolist() == [16, 32, 48] and frame["clock/critic_updates"].tolist() == [0, 0, 0]
    assert [name for name in frame if name.startswith(("critic/", "value_pretraining/")) or "lambda" in name] == []
    first, *later = frame["actor/kl_reference"].tolist()
    assert abs(first) < 1e-6 < min(later)  # one update a step: in the first the policy still is the reference
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"actor", "reference"}
    assert len(checkpoint["optimizer_states"]) == len(checkpoint["lr_schedulers"]) == 1
    assert equal(weights(tmp_path, "reference"), initial(tmp_path))
    assert not equal(weights(tmp_path, "actor"), initial(tmp_path))
    rollouts = pd.read_parquet(tmp_path / "rollouts" / "step_000001.parquet")
    assert "values" not in rollouts and "targets" not in rollouts
    for _, group in rollouts.groupby("group"):
        assert len(group) == 4 and group["prompt"].nunique() == 1
        spread = group["reward"].std()
        for _, row in group.iterrows():
            expected = (row["reward"] - group["reward"].mean()) / (spread + 1e-6)
            assert row["advantages"].tolist() == pytest.approx([expected] * row["length"], abs=1e-5)


def test_without_kl_there_is_no_reference(tmp_path: Path) -> None:
    run(tmp_path, QUIET, "algorithm.kl_coef=0", "module.policy_steps=1", experiment="grpo")
    assert "actor/kl_reference" not in metrics(tmp_path)
    assert weights(tmp_path, "reference") == {} and weights(tmp_path, "actor")


def test_dapo_trains_on_mixed_groups_and_asks_no_prompt_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = record_prompts(monkeypatch)
    run(tmp_path, QUIET, "module.policy_steps=3", experiment="dapo")
    frame = metrics(tmp_path)
    assert frame["clock/policy_step"].tolist() == [1, 2, 3]
    assert [name for name in frame if name.startswith("critic/") or "reference" in name] == []
    prompts = [index for _, asked in draws for index in asked]
    assert prompts == list(range(len(prompts))) and len(prompts) > 3 * 4  # some step drew more than once
    sampled = [4 * sum(len(asked) for step, asked in draws if step <= done) for done in range(3)]
    assert frame["clock/rollouts"].tolist() == sampled
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["PromptDataModule"] == {"cursor": len(prompts)}
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"actor"}
    for step in (1, 2, 3):
        rollouts = pd.read_parquet(tmp_path / "rollouts" / f"step_{step:06d}.parquet")
        assert rollouts["group"].tolist() == [group for group in range(4) for _ in range(4)]
        for _, group in rollouts.groupby("group"):
            assert group["prompt"].nunique() == 1 and 0 < (group["status"] == "correct").sum() < 4
    drawn = [sum(len(asked) for step, asked in draws if step == done) for done in range(3)]
    mixed = [share * groups for share, groups in zip(frame["group/frac_mixed"], drawn, strict=True)]
    assert mixed == pytest.approx([round(groups) for groups in mixed]) and min(mixed) >= 4  # reported of all that was sampled
    assert min(frame["group/frac_mixed"]) < 1


def test_dapo_goes_on_with_fewer_groups_when_it_may_not_draw_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = record_prompts(monkeypatch)
    with pytest.warns(UserWarning, match="raise algorithm.max_draws"):
        run(tmp_path, QUIET, "algorithm.max_draws=1", "module.minibatch_rollouts=4", experiment="dapo")
    assert [asked for _, asked in draws] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    frame = metrics(tmp_path)
    mixed = [round(4 * share) for share in frame["group/frac_mixed"]]
    trained = [len(pd.read_parquet(path)) for path in sorted((tmp_path / "rollouts").iterdir())]
    assert min(mixed) < 4 and trained == [4 * (groups or 4) for groups in mixed]
    updates = frame["clock/actor_updates"].diff().fillna(frame["clock/actor_updates"].iloc[0])
    assert updates.tolist() == [rollouts / 4 for rollouts in trained]
