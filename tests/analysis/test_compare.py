"""`compare.py` names the first step and value in which two runs differ."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed.checkpoint as dcp
from tests.commands import run_python
from tests.runs import CONFIGS, FAST, run

from vapo.analysis.compare import compare
from vapo.checkpoints import REST


def test_a_run_equals_its_repetition_and_differs_from_another_seeds_in_the_first_rollout(fast_run: Path, tmp_path: Path) -> None:
    run(tmp_path / "again", *FAST)
    equal = compare(fast_run, tmp_path / "again")
    assert equal.first is None and equal.alone == []
    kinds = [f"{kind} of RL step {step}" for step in (1, 2, 3) for kind in ("rollouts", "metrics", "checkpoint")]
    assert equal.compared == [kind for kind in kinds if kind != "checkpoint of RL step 1"]  # two are kept
    run(tmp_path / "other", *FAST, "seed=1")
    first = compare(fast_run, tmp_path / "other").first
    assert first is not None and first.startswith("first difference in the rollouts of RL step 1: row 0.prompt")


def test_a_run_that_goes_another_way_differs_where_it_does(fast_run: Path, tmp_path: Path) -> None:
    run(tmp_path, *FAST, "algorithm.clip_high=0.21", "algorithm.positive_lm_coef=0.2")  # of the actor, which trains from step 2 on
    first = compare(fast_run, tmp_path).first
    assert first is not None and "the metrics of RL step 2: actor/" in first


def change_weight(folder: Path) -> None:
    file = folder / "checkpoints" / "step_000002.ckpt"
    state = torch.load(file, weights_only=True)
    state["state_dict"]["critic.head.bias"][0] += 1
    torch.save(state, file)


def change_moment(folder: Path) -> None:
    file = folder / "checkpoints" / "step_000003.ckpt"
    state = torch.load(file, weights_only=True)
    state["optimizer_states"][1]["state"][2]["exp_avg"][0] += 1
    torch.save(state, file)


def change_metric(folder: Path) -> None:
    frame = pd.read_csv(folder / "metrics.csv")
    frame.loc[frame["rl_step"] == 2, "reward/mean"] += 1
    frame["time/step_seconds"] = 0.0
    frame.to_csv(folder / "metrics.csv", index=False)


def change_value(folder: Path) -> None:
    file = folder / "rollouts" / "step_000003.parquet"
    frame = pd.read_parquet(file)
    values = frame.loc[4, "values"].copy()
    values[1] += 1
    frame.at[4, "values"] = values
    frame.to_parquet(file)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (change_weight, "checkpoint of RL step 2: state_dict.critic.head.bias, in 1 of 1 places, first [0]: "),
        (change_moment, "checkpoint of RL step 3: optimizer_states.1.state.2.exp_avg, in "),
        (change_metric, "metrics of RL step 2: reward/mean: "),
        (change_value, "rollouts of RL step 3: row 4.values, in 1 of "),
    ],
)
def test_one_changed_value_is_found(change: Callable[[Path], None], place: str, fast_run: Path, tmp_path: Path) -> None:
    shutil.copytree(fast_run, tmp_path / "changed", symlinks=True)
    change(tmp_path / "changed")
    first = compare(fast_run, tmp_path / "changed").first
    assert first is not None and first.startswith(f"first difference in the {place}")


def test_what_one_run_alone_logs_is_said_and_not_compared(fast_run: Path, tmp_path: Path) -> None:
    """Its order among the others does not matter, and what differs elsewhere is still found."""
    other = tmp_path / "other"
    shutil.copytree(fast_run, other, symlinks=True)
    metrics = pd.read_csv(other / "metrics.csv").assign(**{"actor/new": 1.0, "time/new_seconds": 1.0}).drop(columns="reward/mean")
    metrics.to_csv(other / "metrics.csv", index=False)
    for file in (other / "rollouts").iterdir():
        pd.read_parquet(file).assign(entropies=0.0).drop(columns="values").to_parquet(file)
    alone = ["the metric actor/new", "the metric reward/mean", "the rollouts' entropies", "the rollouts' values"]
    for pair in ((fast_run, other), (other, fast_run)):
        found = compare(*pair)
        assert found.first is None and found.alone == alone
    change_moment(other)
    assert "checkpoint of RL step 3" in str(compare(fast_run, other).first)


def test_sharded_checkpoints_are_compared_too(fast_run: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        shutil.copytree(fast_run, folder, symlinks=True)
        path = folder / "checkpoints" / "step_000003.ckpt"
        path.unlink()
        dcp.save({"model": {"x": torch.ones(3), "y": torch.arange(3) + number}}, checkpoint_id=path, no_dist=True)
        torch.save({"vapo": {"rl_step": 3}}, path / REST)
    assert compare(folders[0], folders[0]).first is None
    found = compare(*folders).first
    assert found == "first difference in the checkpoint of RL step 3: model.y, in 3 of 3 places, first [0]: 0 and 1"


def test_the_command(fast_run: Path, tmp_path: Path) -> None:
    def command(*folders: Path) -> tuple[int, str]:
        done = run_python(str(Path(CONFIGS).parent / "src" / "compare.py"), *map(str, folders), cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr

    code, said = command(fast_run, fast_run)
    assert code == 0 and said.startswith("equal in 8 places")
    shutil.copytree(fast_run, tmp_path / "changed", symlinks=True)
    change_weight(tmp_path / "changed")
    (tmp_path / "changed" / "rollouts" / "step_000001.parquet").unlink()
    code, said = command(fast_run, tmp_path / "changed")
    assert code == 1 and "critic.head.bias" in said and "only one run has rollouts of RL step 1" in said
    code, said = command(fast_run, tmp_path)
    assert code == 2 and said == f"error: no metrics.csv in {tmp_path}: give the folders of two runs\n"
