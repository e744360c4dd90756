"""Benchmarks in a tiny form: that they run and write their tables. What they measure is never tested."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from benchmarks import host
from benchmarks.models import TINY
from benchmarks.shifted_head import REWARD_MODEL
from benchmarks.tables import ROOT, machine, markdown, versions
from benchmarks.vs_trl import write_prompts
from tests.commands import run_python
from tests.ranks import finish, server

from vapo.data.sums import problem_at
from vapo.models.critic import Critic
from vapo.verifiers.sums import answer


def finished(*words: str) -> str:
    """What a benchmark prints."""
    done = run_python("-m", *words, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def spawn(function: Callable[..., None], arguments: tuple[object, ...], nprocs: int) -> None:
        processes = [server.Process(target=function, args=(rank, *arguments)) for rank in range(nprocs)]
        for process in processes:
            process.start()
        assert finish(processes) == [0] * nprocs

    figure = tmp_path / "host.png"
    monkeypatch.setattr(torch.multiprocessing, "spawn", spawn)  # of processes that have imported everything
    monkeypatch.setattr(sys, "argv", ["", "--rollouts", "32", "--repeats", "1", "--figure", str(figure)])
    host.main()
    printed = capsys.readouterr().out.strip()
    first = [line.split(" | ")[0].removeprefix("| ") for line in printed.splitlines() if line.startswith("| ")]
    steps = ["gather", "collate", "annotate: value_R", "annotate: old_logprob_R", "credit", "select, 2 x 16 minibatches", "report"]
    assert first == ["operation", "---", *steps, "total", "rollouts", "---", "32"]
    assert figure.stat().st_size > 1000 and printed.endswith(versions())


def test_step() -> None:
    printed = finished("benchmarks.step", "--size", "tiny", "--steps", "1", "--cores", "1")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows] == ["cores", "---", "1"]
    assert all(float(cell) >= 0 for cell in rows[2])
    assert float(rows[2][1]) >= sum(map(float, rows[2][2:6])) - 0.03  # on one core phases do not overlap; cells are rounded


def test_update() -> None:
    printed = finished("benchmarks.update", "--size", "tiny", "--repeats", "1")
    first = [line.split(" | ")[0].removeprefix("| ") for line in printed.splitlines() if line.startswith("| ")]
    assert first == ["pass over all rollouts", "---", "update", "no gradient"] and printed.endswith(versions())


def test_rollout() -> None:
    printed = finished("benchmarks.rollout", "--models", "mini", "--responses", "4", "--tokens", "4", "--repeats", "1")
    assert "| mini, 0.1 M |" in printed and versions() in printed


def test_scoring() -> None:
    printed = finished("benchmarks.scoring", "--answers", "20", "--repeats", "1")
    assert "| numbers |" in printed and "| math-verify |" in printed and versions() in printed


def test_reading() -> None:
    printed = finished("benchmarks.reading", "src/vapo/assets/mini/base", "--operands", "12", "60", "--problems", "8")
    row = printed.splitlines()[2].strip("| ").split(" | ")
    assert float(row[1]) == 0.0 and float(row[2]) == 1.0  # of a length that it learned, and far beyond


def test_the_prompts_for_trl_are_those_of_the_task(tmp_path: Path) -> None:
    """TRL itself is in an environment that the command makes: no part of CI."""
    write_prompts(tmp_path / "prompts.jsonl", TINY, 3)
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [f"{problem_at(index, 0, 4, 4)}:" for index in range(3)]
    assert all(row["reference"] == str(answer(row["prompt"][:-1])) for row in rows)


def test_tables() -> None:
    assert markdown(("a", "b"), [(1, "x")]) == "| a | b |\n| --- | --- |\n| 1 | x |"
    assert "cores" in machine() and "torch" in versions()


def test_answers(tmp_path: Path) -> None:
    rows = [("\\boxed{41}", "41", True, "number"), ("Answer: 14", "41", True, "number"), ("Answer: 41", "41", False, "number")]
    graded, sets = tmp_path / "graded.jsonl", tmp_path / "sets"
    sets.mkdir()
    columns = ("response", "gold", "correct", "kind")
    graded.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    (sets / "exam.jsonl").write_text(json.dumps({"question": "?", "answer": "6 times 7\n#### 42"}) + "\n")
    printed = finished("benchmarks.answers", str(graded), "--sets", str(sets))
    assert "| number | 2 | 1 | 1 | 1 | 0.500 | 0.500 |" in printed and "| exam | 10 | 0 | 12 | 0 | 1.000 | 1.000 |" in printed
    assert printed.endswith(versions())


def test_soak() -> None:
    printed = finished("benchmarks.soak", "--steps", "8", "--settle", "2")
    first = [line.split(" | ")[0].removeprefix("| ") for line in printed.splitlines() if line.startswith("| ")]
    assert first[2:] == ["memory", "file handles", "threads", "checkpoints", "logs", "CPU time of a step"]
    assert first[0].startswith("quantity") and printed.endswith(versions())


def test_shifted_head(tmp_path: Path) -> None:
    """A critic that starts from it values every state as one from the reward model does, by the shift lower."""
    finished("benchmarks.shifted_head", str(tmp_path / "shifted"), "-1")
    tokens = torch.randint(3, 19, (2, 40), generator=torch.Generator().manual_seed(0))
    shifted, original = (Critic.from_pretrained(str(path), "reward_model").eval() for path in (tmp_path / "shifted", REWARD_MODEL))
    value, expected = (critic.head(critic.backbone(tokens).last_hidden_state) for critic in (shifted, original))
    torch.testing.assert_close(value, expected - 1)
