"""Commands as a shell would run them, in a process that has imported everything already: that takes five seconds each time."""

import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.ranks import server

HANG_SECONDS = 1800  # generous: other processes may have the cores


def run_python(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What `python *words` does in `cwd`, and prints: a script, or -m and a module."""
    with TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = server.Process(target=_run, args=(words, cwd, dict(env or os.environ), outputs))
        process.start()
        process.join(HANG_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{' '.join(words)} has not ended in {HANG_SECONDS} s")
        out, err = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess(words, process.exitcode or 0, out, err)


def _run(words: tuple[str, ...], cwd: Path, env: dict[str, str], outputs: list[Path]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = list(words[1:]), str(cwd)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = list(words), str(Path(words[0]).resolve().parent)
            runpy.run_path(words[0], run_name="__main__")
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
