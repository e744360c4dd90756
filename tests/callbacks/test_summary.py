from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from vapo.callbacks.summary import Summary


@pytest.mark.parametrize(("overlap", "minutes"), [(False, "6.0"), (True, "5.0")])
def test_networks_that_train_at_the_same_time_are_counted_once(
    overlap: bool, minutes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step of value pretraining, in which only the critic trains, then one of both; evaluation aside."""
    frame = pd.DataFrame({"rl_step": [1, 2], "reward/mean": 0.0, "response/length_mean": 9.0, "actor/entropy_mean": 0.1})
    frame["clock/policy_step"] = [0, 1]
    frame["time/rollout_seconds"], frame["time/evaluation_seconds"] = 60.0, 999.0
    frame["time/critic_update_seconds"], frame["time/actor_update_seconds"] = [60.0, 60.0], [float("nan"), 120.0]
    frame.to_csv(tmp_path / "metrics.csv", index=False)
    Summary(str(tmp_path)).on_train_end(SimpleNamespace(is_global_zero=True), SimpleNamespace(overlap=overlap, rl_step=2))
    assert f"{minutes} min, 2 RL steps" in capsys.readouterr().out


def test_a_run_that_lost_its_scores_has_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed before its first checkpoint, resumed without evaluation: the column of scores is left, its row is not."""
    scores = {f"mini_aime_t1_p0.7/avg@4{end}": float("nan") for end in ("", "_low95", "_high95")}
    frame = pd.DataFrame({"rl_step": [1], "clock/policy_step": [1], "reward/mean": 0.0, **scores})
    frame.to_csv(tmp_path / "metrics.csv", index=False)
    Summary(str(tmp_path)).on_train_end(SimpleNamespace(is_global_zero=True), SimpleNamespace(overlap=False, rl_step=1))
    assert "metrics, rollouts, checkpoints" in capsys.readouterr().out
