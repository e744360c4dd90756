"""The real problem sets of `../shared/data`, where a checkout has them beside it; tests over them are skipped elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_problem_sets = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no problem sets in {FOLDER}")


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def golds(name: str) -> list[str]:
    """The answers, as the problem sets' loader gives them to a verifier."""
    return [str(row["answer"]).rsplit("####", 1)[-1].strip() for row in read(name)]
