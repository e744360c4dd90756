"""Benchmarks in a tiny form: that they run and write their tables. What they measure is never tested."""

import subprocess
import sys
from pathlib import Path

from benchmarks.tables import machine, markdown, median_seconds, versions

ROOT = Path(__file__).resolve().parents[1]


def test_host(tmp_path: Path) -> None:
    words = ["benchmarks.host", "--rollouts", "32", "64", "--repeats", "1", "--figure", str(tmp_path / "host.png")]
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first = [line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines() if line.startswith("| ")]
    steps = ["gather", "collate", "annotate: value_R", "annotate: old_logprob_R", "credit", "select, 2 x 16 minibatches", "report"]
    assert first == ["operation", "---", *steps, "total", "rollouts", "---", "32", "64"]
    assert (tmp_path / "host.png").stat().st_size > 1000 and done.stdout.strip().endswith(versions())


def test_tables_and_medians() -> None:
    assert markdown(("a", "b"), [(1, "x")]) == "| a | b |\n| --- | --- |\n| 1 | x |"
    ticks = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    assert median_seconds(lambda: None, 3, lambda: next(ticks)) == 2.0
    assert "cores" in machine() and "torch" in versions()
