"""Parts that fail in the middle of a run: it stops with the cause, the last checkpoint is intact, and a run that is resumed from it
equals one in which nothing failed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.runs import CONFIGS, FAST, config_for, metrics, resume, run
from tests.test_real_task import SMALL, model_folder, problem_files  # noqa: F401 a fixture

from vapo.algorithms import PolicyGradient
from vapo.checkpoints import DIGESTS
from vapo.metrics_csv import MetricsCSV
from vapo.models.critic import Critic
from vapo.module import RLModule
from vapo.rollout.torch_engine import TorchEngine
from vapo.run.training import train
from vapo.types import Completion

Completions = list[Completion]


def stops_and_goes_on(folder: Path, fast_run: Path, patch: Any, error: type[Exception], cause: str, *settings: str) -> None:
    """With `patch` in the third step the run stops; without it, it goes on as if nothing had been."""
    with pytest.raises(error, match=cause):
        run(folder, *FAST, *settings)
    assert (folder / "checkpoints" / "last.ckpt").resolve().name == "step_000002.ckpt"
    patch.undo()
    resume(folder)
    assert metrics(folder).equals(metrics(fast_run))


def refuse(completions: Completions) -> Completions:
    raise ValueError("the engine is gone")


def with_first(completions: Completions, **changes: Any) -> Completions:
    return [replace(completions[0], **changes), *completions[1:]]


ENGINES: dict[str, Callable[[Completions], Completions]] = {
    "the engine is gone": refuse,
    "returned 15 completions for 16 requests": lambda found: found[:-1],
    "returned 17 completions for 16 requests": lambda found: [*found, found[0]],
    "the same completion for two requests": lambda found: [found[1], *found[1:]],
    r"completion 0 with \d+ tokens and \d+ log-probabilities": lambda found: with_first(found, logprobs=found[0].logprobs[:-1]),
    "completion 0 with 0 tokens and 0": lambda found: with_first(found, token_ids=np.array([], np.int32), logprobs=np.array([])),
    "completion 0 with 65 tokens": lambda found: with_first(found, token_ids=np.ones(65, np.int32), logprobs=np.zeros(65)),
    "not finite; the actor's weights": lambda found: with_first(found, logprobs=found[0].logprobs * np.nan),
}


@pytest.mark.parametrize("cause", ENGINES)
def test_an_engine_that_fails_or_returns_something_else(
    cause: str, fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = TorchEngine.generate, []

    def generate(self: TorchEngine, *arguments: Any) -> Completions:
        calls.append(len(arguments[0]))
        found = original(self, *arguments)
        return ENGINES[cause](found) if len(calls) == 4 else found  # the first is for the held-out rollouts

    monkeypatch.setattr(TorchEngine, "generate", generate)
    stops_and_goes_on(tmp_path, fast_run, monkeypatch, ValueError, cause)


def steps_seen(patch: pytest.MonkeyPatch) -> list[int]:
    """Gets each RL step's number, from 0, as it begins."""
    original, steps = RLModule.collect, []

    def collect(self: RLModule, *arguments: Any) -> Any:
        steps.append(self.rl_step)
        return original(self, *arguments)

    patch.setattr(RLModule, "collect", collect)
    return steps


@pytest.mark.parametrize(("owner", "method"), [(Critic, "forward"), (PolicyGradient, "reward")])
def test_values_and_rewards_that_are_not_finite(
    owner: type, method: str, fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No update is made from them, and the run stops when they stay."""
    original, steps = getattr(owner, method), steps_seen(monkeypatch)

    def poisoned(self: object, *arguments: Any, **options: Any) -> Any:
        return original(self, *arguments, **options) * (float("nan") if steps[-1:] == [2] else 1.0)

    monkeypatch.setattr(owner, method, poisoned)
    stops_and_goes_on(tmp_path, fast_run, monkeypatch, FloatingPointError, "gradient norm is nan", "module.max_skipped_updates=0")


def test_weights_that_are_not_finite(fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = RLModule.collect

    def collect(self: RLModule, *arguments: Any) -> Any:
        if self.rl_step == 2:
            with torch.no_grad():
                self.actor.language_model.get_input_embeddings().weight.fill_(float("nan"))
        return original(self, *arguments)

    monkeypatch.setattr(RLModule, "collect", collect)
    stops_and_goes_on(tmp_path, fast_run, monkeypatch, ValueError, "not finite")


def test_a_logger_that_fails(fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MetricsCSV.log_metrics

    def log_metrics(self: MetricsCSV, metrics: dict[str, float], step: int | None = None) -> None:
        if step == 3:
            raise OSError("the logger is gone")
        original(self, metrics, step)

    monkeypatch.setattr(MetricsCSV, "log_metrics", log_metrics)
    stops_and_goes_on(tmp_path, fast_run, monkeypatch, OSError, "the logger is gone")


def without_critic(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    state["state_dict"] = {name: x for name, x in state["state_dict"].items() if not name.startswith("critic.")}
    torch.save(state, file)


CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    r"is damaged \(step_000003.ckpt changed since it was written\): set checkpoint to one of step_000002": lambda file: (
        file.write_bytes(file.read_bytes()[:-100])
    ),
    r"critic\.\S+ is missing in the checkpoint and": lambda file: (without_critic(file), unrecorded(file)),
    r"is damaged \(KeyError\): set checkpoint to one of step_000002": lambda file: (torch.save({"a": 1}, file), unrecorded(file)),
    r"is damaged \(UnpicklingError\)": lambda file: (torch.save({"vapo": Foreign()}, file), unrecorded(file)),
    r"is damaged \(\w+\): set checkpoint to one of": lambda file: (file.write_bytes(b"foreign"), unrecorded(file)),
}


class Foreign:
    """Unpickling it would run what it says."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, ("raise SystemExit('code from a checkpoint ran')",)


def unrecorded(file: Path) -> None:
    file.with_name(f"{file.name}{DIGESTS}").unlink()


@pytest.mark.parametrize("cause", CHECKPOINTS)
def test_a_checkpoint_that_is_truncated_half_or_foreign(cause: str, tmp_path: Path) -> None:
    run(tmp_path, *FAST)
    CHECKPOINTS[cause](tmp_path / "checkpoints" / "step_000003.ckpt")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=cause):
        resume(tmp_path, "module.policy_steps=3")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    resume(tmp_path, "checkpoint=step_000002.ckpt")
    assert metrics(tmp_path)["rl_step"].tolist() == [1, 2, 3]


def test_problems_that_changed_under_a_run(model_folder: str, tmp_path: Path) -> None:  # noqa: F811 the fixture
    files = [*problem_files(tmp_path), f"data.source.template={tmp_path}/template.txt"]
    data, exam, template, folder = (tmp_path / name for name in ("train.jsonl", "exam.jsonl", "template.txt", "run"))
    template.write_text((Path(CONFIGS) / "templates/gsm8k.txt").read_text())
    small = [setting for setting in SMALL if "aime_evaluation" not in setting]
    model = ["scale=small_gpu", f"model.path={model_folder}", "model.critic.path=${model.path}"]
    train(config_for(folder, "experiment=vapo_full", *model, *files, *small, *FAST[:2], "algorithm.group_size=4"))
    text = data.read_text()
    lines = text.splitlines(keepends=True)
    changes = [
        (data, "".join(lines[:-1])),
        (data, text.replace("#### 118", "#### 117")),
        (data, "".join(lines[::-1])),
        (exam, exam.read_text().replace("006", "007")),
        (template, f"Now: {template.read_text()}"),
    ]
    for file, changed in changes:
        kept, before = file.read_text(), (folder / "record.json").read_bytes()
        assert changed != kept
        file.write_text(changed)
        with pytest.raises(
            ValueError, match=r"problems, their answers or the template have changed .* put the files of data\.path"
        ):
            resume(folder, "module.policy_steps=3")
        assert (folder / "record.json").read_bytes() == before
        file.write_text(kept)
    resume(folder, "module.policy_steps=3")
    assert metrics(folder)["clock/policy_step"].max() == 3
