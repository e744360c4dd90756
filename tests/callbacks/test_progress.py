"""What a run without a terminal prints: what is loaded, the base policy's score, then a line for each RL step."""

import io
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.runs import run

import vapo.callbacks.progress
from vapo.callbacks.progress import Progress
from vapo.callbacks.rl_checkpoint import RLCheckpoint


def test_the_lines_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "data.benchmark_limit=3")
    lines = capsys.readouterr().out.splitlines()
    score, number = r"mini_aime avg@2 0\.\d{3}", r"\d+"
    best = rf"{score} \(best 0\.\d{{3}}\)"
    expected = [
        r"loaded Qwen2ForCausalLM \(parameters: actor 0\.1 M, critic 0\.1 M\); benchmark mini_aime, 3 problems",
        "held-out rollouts: 1 of 8",
        "scoring the base policy: 1 of 6",
        rf"base policy: {score}  tokens/s {number}",
        rf"value pretraining 1/3  accuracy .*tokens/s {number}  {best}",
        rf"policy training 2/3  .*{best}",
        rf"policy training 3/3  .*{best}  ALARM zero_loss",
    ]
    said = [line for line in lines if not line.startswith("ALARM")]
    assert len(said) > len(lines) - 2 and len(said) >= len(expected)
    for line, pattern in zip(said, expected, strict=False):
        assert re.fullmatch(pattern, line), line


def test_the_live_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(vapo.callbacks.progress, "Console", lambda: Console(file=screen, force_terminal=True, width=140, height=40))
    run(tmp_path, "data.benchmark_limit=3", "rollout.sampling.max_new_tokens=3")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    last = text[text.rindex("policy training") :]
    number = r"[+-]?\d+(?:\.\d+)?"
    labels = ("accuracy", "reward", "length", "entropy", "explained variance", "tokens/s", "mini_aime avg@2")
    numbers = r"\s+".join(f"{label} {number}" for label in labels)
    bar = r"policy training \S+ 3/3 \d:\d\d:\d\d left \d:\d\d:\d\d\s+"
    assert re.match(rf"{bar}{numbers} \(best {number}\)\s+ALARM truncation, zero_loss", last), last


def module_at(rl_step: int, phase: str) -> Any:
    return SimpleNamespace(rl_step=rl_step, clock=SimpleNamespace(current=phase))


def test_a_long_phase_says_so_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, said, clock = Progress(), [], [0.0]
    monkeypatch.setattr("vapo.callbacks.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(progress.console, "print", lambda text, **_: said.append(text))
    progress._say("start")
    for phase, step in (("evaluation", 0), ("rollout", 0), ("rollout", 1), ("evaluation", 4), ("actor_update", 4)):
        for done in range(1, 4):
            clock[0] += 6.0
            progress._generated(module_at(step, phase), done, 3)
    assert said[1:] == [
        *("scoring the base policy: 1 of 3", "scoring the base policy: 3 of 3"),
        *("rollouts: 2 of 3", "rollouts: 1 of 3", "rollouts: 3 of 3", "scoring the policy: 2 of 3"),
    ]


@pytest.mark.parametrize(("millions", "expected"), [(100, "checkpoints take 2 x 1.1 GiB in"), (10, None)])
def test_large_checkpoints_are_said_beforehand(
    millions: int, expected: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weight = torch.nn.Parameter(torch.empty(millions, 10**6, device="meta"))
    module: Any = SimpleNamespace(parameters=lambda: [weight])
    with caplog.at_level(logging.INFO):
        RLCheckpoint(str(tmp_path / "not" / "yet"), 1, keep=2).on_fit_start(None, module)  # type: ignore[arg-type]
    said = [record.message for record in caplog.records]
    assert len(said) == bool(expected) and all(str(expected) in line and "GiB are free there" in line for line in said)
