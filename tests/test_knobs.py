"""Knobs of the loop are alive: turning one changes what a run logs. Those of the algorithm are tested in tests/algorithms/."""

from pathlib import Path

import pandas as pd
import pytest
from tests.runs import metrics, run

KNOBS = [
    "module.max_grad_norm=1e-9",
    "module.actor_optimizer.weight_decay=0.9",
    "module.critic_optimizer.lr=1e-2",
    "module.actor_schedule.warmup_steps=0",
    "module.critic_schedule.warmup_steps=0",
    "module.minibatch_rollouts=16",
    "rollout.sampling.temperature=0.7",
    "rollout.sampling.top_p=0.9",
    "callbacks.value_pretraining.heldout_rollouts=128",
    "callbacks.aime_evaluation.sampling.temperature=0.5",
]


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("default")
    run(folder)
    return metrics(folder)


@pytest.mark.parametrize("knob", KNOBS)
def test_knob_is_alive(knob: str, default: pd.DataFrame, tmp_path: Path) -> None:
    run(tmp_path, knob)
    turned = metrics(tmp_path)
    assert turned["rl_step"].equals(default["rl_step"]) and not turned.equals(default)


def test_rollout_log_knobs(tmp_path: Path) -> None:
    run(tmp_path, "callbacks.rollout_log.every_n_steps=2", "callbacks.rollout_log.max_rollouts=4")
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["step_000002.parquet"]
    assert len(pd.read_parquet(tmp_path / "rollouts" / "step_000002.parquet")) == 4
