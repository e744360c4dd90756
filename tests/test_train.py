"""The training entry: what a run leaves behind, and what bad input gets."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tests.commands import run_python
from tests.runs import CONFIGS, metrics, resume, run
from torch import Tensor

from vapo.learner import Learner
from vapo.rollout.torch_engine import TorchEngine
from vapo.types import Batch

TRAIN = str(Path(CONFIGS).parent / "src" / "train.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder, summary=True)
    return folder


def test_a_run_leaves_metrics_curves_rollouts_checkpoints_and_its_record(finished: Path) -> None:
    assert metrics(finished)["rl_step"].tolist() == [0, 1, 2, 3]
    assert (finished / "training_curves.png").stat().st_size > 10_000
    assert json.loads((finished / "record.json").read_text())[0]["versions"]["torch"].startswith("2.")
    steps = [f"step_00000{i}.ckpt{ending}" for i in (2, 3) for ending in ("", ".sha256")]
    assert {p.name for p in (finished / "checkpoints").iterdir()} == {*steps, "last.ckpt"}
    rollouts = pd.read_parquet(finished / "rollouts" / "step_000003.parquet")
    assert len(rollouts) == 16 and rollouts["group"].tolist() == [g for g in range(4) for _ in range(4)]
    for _, row in rollouts.iterrows():
        assert row["length"] == len(row["token_ids"]) == len(row["values"]) == len(row["advantages"])
        assert row["reward"] == (1.0 if row["status"] == "correct" else -1.0)


def test_evaluation_comes_before_the_first_step_and_after_policy_steps_only(finished: Path) -> None:
    scores = metrics(finished)["mini_aime_t1_p0.7/avg@2"]
    assert scores.notna().tolist() == [True, False, True, True]  # step 1 is value pretraining: the policy has not moved


def test_two_runs_with_a_seed_are_equal_and_another_seed_is_not(finished: Path, tmp_path: Path) -> None:
    run(tmp_path / "same")
    run(tmp_path / "other", "seed=1")
    pd.testing.assert_frame_equal(metrics(tmp_path / "same"), metrics(finished), check_exact=True)
    assert not metrics(tmp_path / "other").equals(metrics(finished))


def test_global_step_counts_rl_steps_so_max_steps_means_them(tmp_path: Path) -> None:
    run(tmp_path, "trainer.max_steps=2")
    assert metrics(tmp_path)["rl_step"].tolist() == [0, 1, 2]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_micro_batch_budget_changes_no_metric(finished: Path, tmp_path: Path) -> None:
    run(tmp_path, "module.microbatch_tokens=64", "model.logits_chunk_tokens=16")
    mine, theirs = metrics(tmp_path), metrics(finished)
    pd.testing.assert_frame_equal(mine, theirs, rtol=1e-3, atol=1e-5)


def poison(patch: pytest.MonkeyPatch, times: int) -> list[int]:
    """The first `times` gradients of the actor after its first step hold a NaN."""
    original, poisoned, updates = Learner.step, [], []

    def step(self: Learner, batch: Batch, index_B: Tensor, dump: Path) -> None:
        if self.name == "actor":
            updates.append(len(updates))
            if updates[-1] >= 2 and len(poisoned) < times:  # two updates a step
                next(self.network.parameters()).grad.fill_(float("nan"))  # type: ignore[union-attr]
                poisoned.append(updates[-1])
        original(self, batch, index_B, dump)

    patch.setattr(Learner, "step", step)
    return poisoned


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[torch.Tensor] = []
    poison(monkeypatch, 1)
    original = Learner.step

    def step(self: Learner, batch: Batch, index_B: Tensor, dump: Path) -> None:
        weights = next(self.network.parameters()).detach().clone()
        original(self, batch, index_B, dump)
        if self.name == "actor":
            before.append((next(self.network.parameters()).detach() - weights).abs().max())

    monkeypatch.setattr(Learner, "step", step)
    run(tmp_path)
    assert [float(moved) > 0 for moved in before] == [True, True, False, True]
    assert metrics(tmp_path)["actor/skipped_fraction"].tolist()[2:] == [0.0, 0.5]
    assert metrics(tmp_path)["actor/grad_norm"].notna().tolist()[2:] == [True, True]


def test_too_many_such_gradients_stop_the_run_and_keep_the_batch_and_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        poison(patch, 2)
        with pytest.raises(
            FloatingPointError, match=r"actor's gradient norm is nan.*after 1 skipped.*lower module.actor_optimizer"
        ):
            run(tmp_path, "module.max_skipped_updates=1")
    assert (tmp_path / "checkpoints" / "last.ckpt").resolve().name == "step_000002.ckpt"
    batch = Batch(**torch.load(tmp_path / "nonfinite_actor_step_000003.pt", weights_only=True))
    assert len(batch) == 8 and batch.advantage_R is not None and batch.advantage_R.isfinite().all()


BAD_INPUT = {
    "algorithm.length_adaptive_alpha=0": "set it above 0",
    "algorithm.clip_high=0.1": "below clip_low",
    "data.rollouts_per_step=18": "set it to 16, or change the group size",
    "algorithm.group_size=0": "algorithm.group_size is 0",
    "callbacks.value_pretraining.group_size=0": "set callbacks.value_pretraining.group_size to 1 or more",
    "callbacks.value_pretraining.group_size=3": "set it to 15, or change the group size",
    "model.path=/nowhere/model": "set model.path to an existing folder",
    "model.critic.path=/nowhere/model": "set model.critic.path to an existing folder",
    "module.minibatch_rollouts=5": "does not divide",
    "+algorithm.no_such_key=1": "no_such_key",
    "rollout.sampling.temperature=0": "greedy rollouts do not explore",
    "callbacks.aime_evaluation.k=0": "1 or more",
}


@pytest.mark.parametrize("override", BAD_INPUT)
def test_bad_input_gets_a_sentence_that_says_what_to_set(override: str, tmp_path: Path) -> None:
    with pytest.raises(Exception) as raised:
        run(tmp_path, override)
    error = raised.value.__cause__ or raised.value
    assert BAD_INPUT[override] in str(error)


def test_mismatch_weights_want_the_whole_distribution(tmp_path: Path) -> None:
    with pytest.raises(Exception) as raised:
        run(tmp_path, "algorithm.mismatch=mask", "rollout.sampling.top_p=0.9")
    assert "rollout.sampling.top_p is 0.9: set it to 1, or algorithm.mismatch to null" in str(raised.value.__cause__)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"OMP_NUM_THREADS": "1"}
    return run_python(TRAIN, *arguments, cwd=Path.cwd(), env=environment)


UNKNOWN = ["+algorithm.no_such_key=1", "algorithm.clip_hihg=0.3", "algorithm=vapoo"]


@pytest.mark.parametrize("override", ["algorithm.length_adaptive_alpha=-1", *UNKNOWN])
def test_the_command_prints_one_line_and_fails(override: str, tmp_path: Path) -> None:
    done = command("debug=fast", f"hydra.run.dir={tmp_path}", override)
    assert done.returncode == 1
    assert override.split("=")[0].lstrip("+").split(".")[-1] in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")


def test_a_damaged_checkpoint_names_the_remedy(finished: Path, tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "checkpoints" / "last.ckpt").resolve().write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"is damaged .*set checkpoint to one of step_000002.ckpt"):
        resume(tmp_path)
    before = metrics(finished)
    config = (tmp_path / "config.yaml").read_text()
    resume(tmp_path, "checkpoint=step_000002.ckpt")
    assert (tmp_path / "config.yaml").read_text() == config  # a sweep that is repeated knows its job again
    pd.testing.assert_frame_equal(metrics(tmp_path), before, check_exact=True)


def test_a_group_cannot_be_chosen_anew_on_resume(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match="trainer is a group of settings; give plain keys"):
        resume(tmp_path, "trainer=gpu")


def test_resuming_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="set resume to the folder of a run"):
        resume(tmp_path / "nothing")


def test_mixed_precision_holds_in_rollouts_and_evaluation_alike_and_keeps_float32_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = TorchEngine.generate, []

    def generate(self: TorchEngine, *args: Any) -> Any:
        seen.append((len(args[0]), torch.is_autocast_enabled("cpu")))
        return original(self, *args)

    monkeypatch.setattr(TorchEngine, "generate", generate)
    run(tmp_path, "trainer.precision=bf16-mixed", "callbacks.aime_evaluation.k=3")
    sizes = {size for size, _ in seen}
    assert {16, 6 * 3} <= sizes and all(enabled for _, enabled in seen)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert {weight.dtype for weight in state["state_dict"].values()} == {torch.float32}
    assert metrics(tmp_path)["engine/logprob_gap_mean"].dropna().max() < 0.1
