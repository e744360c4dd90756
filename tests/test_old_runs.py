"""A run that a version before November 2026 began (tests/old_run) is resumed by this one: old names in its configuration and
checkpoint. It was made at commit c7290a8, with rollouts that were prefetched (then `rollout.ahead=1`) in its checkpoint."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.runs import metrics, resume

from vapo.module import RLModule
from vapo.run.record import load_config
from vapo.types import Batch

OLD = Path(__file__).parent / "old_run"


def test_a_run_of_an_older_version_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(OLD, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    (tmp_path / "run" / "checkpoints" / "last.ckpt").symlink_to("step_000002.ckpt")
    saved = torch.load(OLD / "checkpoints" / "step_000002.ckpt", weights_only=True)
    started: list[tuple[dict[str, torch.Tensor], int, int]] = []
    original = RLModule.improve

    def improve(self: RLModule, batch: Batch) -> None:
        steps = int(self.learners["critic"].optimizer.state_dict()["state"][0]["step"])
        started.append(({name: x.clone() for name, x in self.state_dict().items()}, self.staleness, steps))
        original(self, batch)

    monkeypatch.setattr(RLModule, "improve", improve)
    models = [f"model.path={OLD}/model", f"model.critic.path={OLD}/model"]
    resume(tmp_path / "run", *models, "trainer.max_steps=-1")
    weights, staleness, steps = started[0]
    assert weights.keys() == saved["state_dict"].keys()
    assert [name for name, x in weights.items() if not torch.equal(x, saved["state_dict"][name])] == []
    assert staleness == 1 and steps == saved["vapo"]["critic_updates"] == 10  # prefetched rollouts came with the checkpoint
    frame = metrics(tmp_path / "run")
    assert frame["rl_step"].tolist() == [1, 2, 3, 4] and frame["clock/policy_step"].tolist() == [0, 1, 2, 3]
    assert frame["clock/critic_updates"].tolist() == [8, 10, 12, 14]


def test_old_names_are_replaced() -> None:
    config = load_config(OLD / "config.yaml")
    assert config.rollout.prefetch == 1 and config.module.prefetch == 1 and "ahead" not in config.rollout
    assert config.module.actor.loading._target_ == "vapo.models.loading.LoadOptions"
