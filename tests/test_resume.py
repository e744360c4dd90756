"""A run that was killed and resumed equals the uninterrupted run bit for bit."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from tests.runs import metrics, resume, run

from vapo.callbacks import rl_checkpoint
from vapo.callbacks.aime_evaluation import AIMEEvaluation
from vapo.callbacks.rl_checkpoint import RLCheckpoint
from vapo.checkpoints import DIGESTS, saved_checkpoints
from vapo.module import RLModule

SETTINGS = (
    "module.actor_schedule.decay_share=0",  # a decaying rate depends on how long the run is to be
    "module.actor_schedule.steps=9",
    "scale_overrides.value_pretraining_steps=2",
    "module.policy_steps=3",
    "callbacks.rl_checkpoint.every_n_steps=2",
)


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, *SETTINGS)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two policy steps."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder, *SETTINGS, "module.policy_steps=2")
    return folder


@pytest.fixture
def two_steps(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to go on with."""
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def assert_equal_runs(folder: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(metrics(folder), metrics(other), check_exact=True)
    a, b = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (folder, other))
    for name, weight in a["state_dict"].items():
        assert torch.equal(weight, b["state_dict"][name]), name
    for mine, theirs in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        for key, state in mine["state"].items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(theirs["state"][key][n])) for n, v in state.items())
    assert a["vapo"].keys() == b["vapo"].keys() and a["lr_schedulers"] == b["lr_schedulers"]
    assert a["vapo"] == b["vapo"]
    assert torch.equal(a["random_states"][0]["torch"], b["random_states"][0]["torch"])
    assert a["PromptDataModule"] == b["PromptDataModule"] and a["callbacks"] == b["callbacks"]
    for path in sorted((folder / "rollouts").glob("*.parquet")):
        pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(other / "rollouts" / path.name), check_exact=True)


@pytest.mark.parametrize(
    ("owner", "method", "rl_step"),
    [
        (RLModule, "collect", 1),  # value pretraining, before the first checkpoint
        (RLModule, "improve", 2),  # first policy step, right after a checkpoint
        (RLModule, "actor_loss", 3),  # between the updates of one step
        (AIMEEvaluation, "_evaluate", 4),  # during evaluation: the step itself is logged, its scores are not
        (RLCheckpoint, "_save", 4),  # everything of the step is logged, its checkpoint is missing
    ],
)
def test_kill_and_resume(
    owner: type, method: str, rl_step: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(owner, method)

    def killing(self: object, *args: object, **options: object) -> object:
        module = next((a for a in (self, *args) if isinstance(a, RLModule)), None)
        assert module is not None
        if module.rl_step == rl_step:
            raise Killed
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, killing)
        with pytest.raises(Killed):
            run(tmp_path, *SETTINGS)
    resume(tmp_path)
    assert_equal_runs(uninterrupted, tmp_path)


@pytest.mark.parametrize(
    ("experiment", "method", "rl_step", "call"),
    [
        ("dapo", "sample", 1, 2),  # in the second draw of a step that starts behind what the one before drew in addition
        ("dapo", "actor_loss", 2, 2),  # between the updates of one step
        ("grpo", "annotate", 2, 1),  # the actor has moved; the reference must come back as it was before that
    ],
)
def test_kill_and_resume_without_a_critic(
    experiment: str, method: str, rl_step: int, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("module.policy_steps=3", "callbacks.rl_checkpoint.every_n_steps=1", "callbacks.aime_evaluation.every_n_steps=9")
    run(tmp_path / "whole", *settings, experiment=experiment)
    original, steps = getattr(RLModule, method), []

    def killing(self: RLModule, *args: object, **options: object) -> object:
        steps.append(self.rl_step)
        if steps.count(rl_step) == call:
            raise Killed
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RLModule, method, killing)
        with pytest.raises(Killed):
            run(tmp_path / "killed", *settings, experiment=experiment)
    assert torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)["vapo"]["rl_step"] == rl_step
    resume(tmp_path / "killed")
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


def test_dropout_goes_on_where_it_was(tmp_path: Path) -> None:
    """The one thing that draws from torch's global generator."""
    lora = (
        "model.lora.rank=4",
        "model.lora.dropout=0.3",
        "module.actor_optimizer.lr=1e-3",
        "callbacks.rl_checkpoint.every_n_steps=1",
    )
    run(tmp_path / "whole", *SETTINGS, *lora)
    again = Path(shutil.copytree(tmp_path / "whole", tmp_path / "again", symlinks=True))
    for path in (*again.glob("checkpoints/step_000005*"), again / "checkpoints" / "last.ckpt"):
        path.unlink()
    resume(again, "checkpoint=step_000004.ckpt")
    assert_equal_runs(tmp_path / "whole", again)


def test_resuming_a_finished_run_changes_nothing_and_more_steps_go_on(uninterrupted: Path, two_steps: Path) -> None:
    before = metrics(two_steps)
    card = (two_steps / "export" / "actor" / "README.md").read_text()
    assert (
        resume(two_steps)["response/accuracy"] == before["response/accuracy"].iloc[-1]
    )  # as optimized_metric, after the sweep's repeat
    pd.testing.assert_frame_equal(metrics(two_steps), before, check_exact=True)
    scores = [line for line in card.splitlines() if line.startswith(("| response/", "| mini_aime"))]
    assert len(scores) > 5 and set(scores) <= set((two_steps / "export" / "actor" / "README.md").read_text().splitlines())
    resume(two_steps, "module.policy_steps=3")
    assert_equal_runs(uninterrupted, two_steps)


@pytest.mark.parametrize("part", ["optimizer_states", "lr_schedulers", "PromptDataModule", "state_dict"])
def test_every_part_of_a_checkpoint_matters(part: str, uninterrupted: Path, two_steps: Path) -> None:
    """The comparison can fail: without any one part the resumed run differs."""
    path = (two_steps / "checkpoints" / "last.ckpt").resolve()
    state = torch.load(path, weights_only=True)
    if part == "optimizer_states":
        state[part] = [{"state": {}, "param_groups": s["param_groups"]} for s in state[part]]
    elif part == "lr_schedulers":
        state[part][0]["last_epoch"] = 0  # back to the warm-up
    elif part == "PromptDataModule":
        state[part] = {"cursor": 0}
    else:
        state[part] = {name: weight + 1e-3 for name, weight in state[part].items()}
    torch.save(state, path)
    path.with_name(f"{path.name}{DIGESTS}").unlink()  # or it would be refused, as damaged
    resume(two_steps, "module.policy_steps=3")
    assert not metrics(two_steps).equals(metrics(uninterrupted))


def test_a_learning_rate_changed_on_resume_takes_effect_and_is_recorded(uninterrupted: Path, two_steps: Path) -> None:
    resume(two_steps, "module.policy_steps=3", "module.actor_optimizer.lr=1e-5")
    rates = metrics(two_steps)["actor/learning_rate"].tolist()
    assert rates[-1] == 1e-5 and rates[-2] == metrics(uninterrupted)["actor/learning_rate"].tolist()[-2]
    assert "lr: 1.0e-05" in (two_steps / "config.yaml").read_text()


def test_a_resumed_run_takes_its_old_log_probabilities_where_it_took_them(
    finished: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """From the engine, which the self-test found equal at the start, also where the test is skipped or would find a gap."""
    for name, change in (("skipped", "callbacks.self_test=null"), ("stricter", "callbacks.self_test.equal_gap=1e-30")):
        shutil.copytree(finished, tmp_path / name, symlinks=True)
        resume(tmp_path / name, "module.policy_steps=3", change)
        pd.testing.assert_frame_equal(metrics(tmp_path / name), metrics(uninterrupted), check_exact=True)
    assert "engine/logprob_gap_mean" not in metrics(uninterrupted)
    resume(tmp_path / "skipped", "module.policy_steps=4", "callbacks.self_test=null")
    resume(tmp_path / "stricter", "module.policy_steps=4", "callbacks.self_test.equal_gap=null")  # never, from now on
    assert "engine/logprob_gap_mean" not in metrics(tmp_path / "skipped")
    assert metrics(tmp_path / "stricter")["engine/logprob_gap_mean"].notna().sum() == 1


def test_a_run_that_lightnings_timer_stops_has_saved_its_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage="train": 1e9 if self.start_time() else 0.0)  # with the first step
    run(tmp_path, *SETTINGS, "callbacks.rl_checkpoint.every_n_steps=100", "+trainer.max_time=00:01:00:00")
    assert [path.name for path in saved_checkpoints(tmp_path / "checkpoints")] == ["step_000001.ckpt"]


def test_a_run_resumed_in_another_precision_takes_them_from_the_actor(two_steps: Path) -> None:
    resume(two_steps, "module.policy_steps=3", "trainer.precision=bf16-mixed")
    gaps = metrics(two_steps)["engine/logprob_gap_mean"].dropna()
    assert len(gaps) == 1 and gaps.iloc[0] > 1e-4


def test_a_full_disk_leaves_the_configuration_as_it_was(two_steps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, write = (two_steps / "config.yaml").read_text(), Path.write_text

    def full(self: Path, text: str, *args: object) -> int:
        write(self, text[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "write_text", full)
        resume(two_steps, "module.policy_steps=3")
    assert (two_steps / "config.yaml").read_text() == whole
    assert resume(two_steps)["clock/policy_step"] == 2


def test_a_misspelt_checkpoint_touches_nothing(two_steps: Path) -> None:
    before = metrics(two_steps)
    with pytest.raises(FileNotFoundError, match=r"set checkpoint to one of step_000002\.ckpt, step_000004\.ckpt"):
        resume(two_steps, "checkpoint=step_3.ckpt")
    pd.testing.assert_frame_equal(metrics(two_steps), before, check_exact=True)


def test_a_fresh_run_does_not_overwrite_another(two_steps: Path) -> None:
    with pytest.raises(ValueError, match="holds a run already: set resume="):
        run(two_steps)


@pytest.mark.parametrize(("share", "gib", "warned"), [(0.0, 0.0, True), (1.0, 0.0, False), (0.0, 1.0, False)])
def test_large_checkpoints_that_take_much_of_the_time_are_said_to(
    share: float, gib: float, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(rl_checkpoint, "COSTLY_SHARE", share)
    monkeypatch.setattr(rl_checkpoint, "COSTLY_GIB", gib)
    run(tmp_path, "callbacks.rl_checkpoint.every_n_steps=1", "module.policy_steps=2")
    said = [str(warning.message) for warning in recwarn if "checkpoints take" in str(warning.message)]
    assert bool(said) == warned and all("raise callbacks.rl_checkpoint.every_n_steps, which is 1" in text for text in said)
    assert pd.read_csv(tmp_path / "metrics.csv")["time/checkpoint_seconds"].notna().any()
