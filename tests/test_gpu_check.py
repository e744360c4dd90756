"""`make gpu-check` in its tiny form on a CPU: every part runs, and one that fails is named."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks.gpu_check import PARTS, Failed, check, main
from tests.commands import run_python


def test_the_tiny_form_runs_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forked(words: list[str], cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
        return run_python(*words[1:], cwd=cwd)

    monkeypatch.setattr("benchmarks.gpu_check.subprocess", SimpleNamespace(run=forked))
    monkeypatch.setattr(sys, "argv", ["", "--tiny", "--out", str(tmp_path), "--only", *(part for part in PARTS if part != "1.5B")])
    with pytest.raises(SystemExit) as ended:  # 1.5B is as 0.5B
        main()
    assert ended.value.code == 0
    table = (tmp_path / "gpu_check.md").read_text()
    for words in (
        "tests with marker gpu",
        "mini in bf16-mixed",
        "qwen2_5_0_5b, actor_update",
        "qwen2_5_0_5b, rollout",
        "tokens/s, mini",
    ):
        assert words in table
    assert "FAILED" not in table and set(PARTS) == {"gpu_tests", "mini", "0.5B", "1.5B", "engines"}


def test_a_part_that_fails_is_named_and_the_others_run(tmp_path: Path) -> None:
    def fails(tiny: bool, out: Path) -> Iterator[tuple[str, str]]:
        yield "first", "fine"
        raise Failed("no | kernel\nfor this GPU")

    def works(tiny: bool, out: Path) -> Iterator[tuple[str, str]]:
        yield "second", "fine"

    table, passed = check(True, tmp_path, {"broken": fails, "sound": works})
    assert not passed and "| first | fine |" in table and "| second | fine |" in table
    assert "| **broken FAILED** | no / kernel for this GPU |" in table
