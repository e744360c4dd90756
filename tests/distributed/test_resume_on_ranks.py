"""Runs on several ranks that were killed, or go on with another number of ranks."""

import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import open_dict
from tests.ranks import REPLICATED, SETTINGS, SHARDED, finish, output, start, train_on_ranks, wait_until
from tests.runs import config_for, metrics

from vapo.run.evaluation import load_actor

pytestmark = pytest.mark.distributed

STEPS = ("scale_overrides.value_pretraining_steps=2", "module.policy_steps=3", "callbacks.rl_checkpoint.every_n_steps=2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sharded ranks, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train_on_ranks(2, folder, *SETTINGS, *SHARDED, *STEPS, end=folder / "end.pt", replay=folder / "rollouts.pt")
    return folder


def assert_same_run(folder: Path, whole: Path) -> None:
    """Bit for bit: metrics, weights, optimizer states."""
    pd.testing.assert_frame_equal(metrics(folder), metrics(whole), check_exact=True)
    mine, theirs = (torch.load(f / "end.pt") for f in (folder, whole))
    assert mine.keys() == theirs.keys() and len(mine) > 200
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def events(folder: Path) -> list[str]:
    """What `train_rank.slow_disk` has noted."""
    file = folder / "events.txt"
    return file.read_text().split() if file.exists() else []


@pytest.mark.parametrize(
    ("killed", "asynchronous"), [((1,), "true"), ((0, 1), "false")], ids=["one_rank_asynchronous", "all_ranks_while_saving"]
)
def test_killed_ranks_resume_bit_for_bit(killed: tuple[int, ...], asynchronous: str, whole: Path, tmp_path: Path) -> None:
    saving = f"trainer.strategy.asynchronous_checkpoints={asynchronous}"
    options = {} if len(killed) == 1 else {"slow_disk": (4, "never")}
    processes = start(2, tmp_path, *SETTINGS, *SHARDED, *STEPS, saving, **options)
    if options:
        wait_until(lambda: "writing_4" in events(tmp_path), processes)
    else:
        wait_until((tmp_path / "checkpoints" / "step_000002.ckpt").exists, processes)
    for rank in killed:
        assert processes[rank].pid is not None
        os.kill(processes[rank].pid, signal.SIGKILL)
    assert all(finish(processes, timeout=600)), output(tmp_path)  # the other rank does not wait for ever
    assert not (tmp_path / "end.pt").exists()
    train_on_ranks(2, tmp_path, f"resume={tmp_path}", end=tmp_path / "end.pt")
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(("asked_in", "saved"), [(0, 1), (3, 3)], ids=["before_the_first_step", "in_a_step"])
def test_a_run_that_is_asked_to_go_saves_the_step_it_is_in(asked_in: int, saved: int, whole: Path, tmp_path: Path) -> None:
    late, paused = "callbacks.rl_checkpoint.every_n_steps=100", tmp_path / "paused"
    processes = start(2, tmp_path, *SETTINGS, *SHARDED, *STEPS, late, pause=(paused, asked_in))
    wait_until(paused.exists, processes)
    assert processes[1].pid is not None
    os.kill(processes[1].pid, signal.SIGTERM)  # one of them is enough
    paused.unlink()
    assert finish(processes) == [143, 143], output(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step_*.ckpt")] == [f"step_{saved:06d}.ckpt"]
    assert metrics(tmp_path)["rl_step"].max() == saved
    train_on_ranks(2, tmp_path, f"resume={tmp_path}", end=tmp_path / "end.pt")
    assert_same_run(tmp_path, whole)


@pytest.fixture(scope="module")
def whole_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on one rank."""
    folder = tmp_path_factory.mktemp("alone")
    train_on_ranks(1, folder, *SETTINGS, *SHARDED, *STEPS, replay=folder / "rollouts.pt")
    return folder


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 4), (1, 2)])
def test_a_checkpoint_fits_any_number_of_ranks(before: int, after: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The restored state is equal tensor by tensor, and the next updates, on recorded rollouts, agree."""
    made: Path = request.getfixturevalue("whole" if before == 2 else "whole_alone")
    started = {}
    for ranks in (before, after):
        folder = tmp_path / str(ranks)
        shutil.copytree(made, folder, symlinks=True)
        (folder / "checkpoints" / "last.ckpt").unlink()
        for path in (folder / "checkpoints").glob("step_000005*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        later = torch.load(made / "rollouts.pt", weights_only=False)[-2:]  # of the last step and the last evaluation
        torch.save(later, tmp_path / f"{ranks}.pt")
        options = {"start": folder / "start.pt", "end": folder / "end.pt", "replay": tmp_path / f"{ranks}.pt"}
        train_on_ranks(ranks, folder, f"resume={folder}", "checkpoint=step_000004.ckpt", **options)
        started[ranks] = torch.load(folder / "start.pt")
    assert started[before].keys() == started[after].keys() and len(started[before]) > 200
    assert [name for name, x in started[before].items() if not torch.equal(x, started[after][name])] == []
    ends = [torch.load(tmp_path / str(ranks) / "end.pt") for ranks in (before, after)]
    assert max(float((x - ends[1][name]).abs().max()) for name, x in ends[0].items()) < 1e-5
    pd.testing.assert_frame_equal(metrics(tmp_path / str(after)), metrics(tmp_path / str(before)), rtol=1e-5, atol=1e-5)


def test_a_truncated_file_of_a_checkpoint_is_named_and_the_one_before_it_offered(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder, symlinks=True)
    (damaged,) = (folder / "checkpoints" / "step_000005.ckpt").glob("__1_*.distcp")
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    said = train_on_ranks(2, folder, f"resume={folder}", fails=True)
    assert said.count("is damaged (__1_0.distcp changed") >= 2 and "set checkpoint to one of step_000004.ckpt" in said


@pytest.mark.parametrize("trainer", [SHARDED, REPLICATED], ids=["each_rank_writes", "rank_0_writes"])
def test_a_full_disk_leaves_the_checkpoint_before_it(trainer: tuple[str, ...], tmp_path: Path) -> None:
    said = train_on_ranks(2, tmp_path, *SETTINGS, *trainer, *STEPS, full_disk_at=4, fails=True)
    assert said.count("checkpoint step_000004.ckpt could not be written") >= 2
    assert all("No space left" in rank and "step_000002.ckpt is intact" in rank for rank in said.split("--- ")[1:])
    assert (tmp_path / "checkpoints" / "last.ckpt").resolve().name == "step_000002.ckpt"


def test_an_asynchronous_checkpoint_is_published_when_it_is_written(whole: Path, tmp_path: Path) -> None:
    """Training goes on meanwhile: a slow writer does not hold it up, and the run waits for it only at its end."""
    train_on_ranks(
        2,
        tmp_path,
        *SETTINGS,
        *SHARDED,
        *STEPS,
        "trainer.strategy.asynchronous_checkpoints=true",
        slow_disk=(2, "step_3"),
        end=tmp_path / "end.pt",
    )
    assert_same_run(tmp_path, whole)
    noted = events(tmp_path)
    assert noted.index("writing_2") < noted.index("step_3") < noted.index("written_2") < noted.index("published_2")
    assert noted[-1] == "published_5"


def test_a_sharded_run_is_evaluated_by_one_process(whole: Path) -> None:
    config = config_for(whole, *SETTINGS)
    with open_dict(config):
        config.run, config.device = str(whole), "cpu"
    actor, rl_step = load_actor(config)
    end = torch.load(whole / "end.pt")
    assert rl_step == 5 and all(torch.equal(x, end[f"actor.{name}"]) for name, x in actor.state_dict().items())
