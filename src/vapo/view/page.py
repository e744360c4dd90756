"""One HTML file that holds everything: the page of this folder, and the steps of one run or two as base64."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vapo.view.steps import Log

FOLDER = Path(__file__).parent
SCRIPTS = ("data.js", "list.js", "chart.js", "response.js", "page.js")
MOST_BYTES = 60_000_000  # of a page: a browser still opens it in a second or two


def index(logs: Sequence[Log], live: bool, steps: Sequence[int] | None = None) -> dict[str, Any]:
    """What the page must know before it reads a step: each run's name, and its steps with the time that their file was written."""
    logged = [log.files() for log in logs]
    if unknown := set(steps or ()) - set(logged[0]):
        raise ValueError(
            f"no rollouts of step {min(unknown)} in {logs[0].name}: set --steps to some of {', '.join(map(str, logged[0]))}"
        )
    runs = [
        {
            "name": log.name,
            "steps": [[step, file.stat().st_mtime_ns // 1000] for step, file in files.items() if steps is None or step in steps],
        }
        for log, files in zip(logs, logged, strict=True)
    ]
    return {"live": live, "runs": runs}


def html(listed: dict[str, Any], data: Sequence[str] = ()) -> str:
    """The page. Its policy lets only its own script run, and lets it fetch from nowhere but the server that it came from.

    Args:
        listed: see `index`.
        data: elements that hold steps.
    """
    script = "".join((FOLDER / name).read_text() for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "digest": digest,
        "style": (FOLDER / "page.css").read_text(),
        "data": "".join(data),
        "index": json.dumps(listed).replace("<", "\\u003c"),  # a name cannot end the element
        "script": script,
    }
    return re.sub(r"@(digest|style|data|index|script)@", lambda mark: parts[mark[1]], (FOLDER / "page.html").read_text())


def write_page(logs: Sequence[Log], out: Path, steps: Sequence[int] | None = None) -> Path:
    """Writes one run, or two to compare, into one file.

    Args:
        steps: RL steps; None for all.

    Raises:
        ValueError: there are no such steps, or they are too large for a page.
    """
    listed = index(logs, False, steps)
    elements = list(_elements(logs, listed))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html(listed, elements), encoding="utf-8")
    return out


def _elements(logs: Sequence[Log], listed: dict[str, Any]) -> Iterator[str]:
    size = 0
    for number, (log, run) in enumerate(zip(logs, listed["runs"], strict=True)):
        for step, _ in run["steps"]:
            text = base64.b64encode(log.pack(step)).decode()
            size += len(text)
            if size > MOST_BYTES:
                raise ValueError(
                    f"the page would be larger than {MOST_BYTES // 1_000_000} MB at step {step} of {log.name}: choose some with "
                    "--steps, or read them on demand with --serve"
                )
            yield f'<script type="text/plain" id="step-{number}-{step}">{text}</script>\n'
