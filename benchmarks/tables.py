"""What benchmarks share: Markdown tables, the machine, commit and versions, and commands."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from vapo.run.record import git_commit

ROOT = Path(__file__).resolve().parents[1]


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are written as they are."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def machine() -> str:
    """Processor, cores that this process may use, memory, GPUs."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    parts = [names[0] if names else platform.processor(), f"{cores} cores", f"{memory:.0f} GiB of memory", *gpus]
    return ", ".join(parts)


def versions() -> str:
    """Commit and versions."""
    return f"commit {git_commit(ROOT)}, Python {platform.python_version()}, torch {torch.__version__}"


def output_of(words: Sequence[str], **environment: str) -> str:
    """What a command of this checkout prints. Idle OpenMP threads sleep, as with make.

    Raises:
        RuntimeError: it failed; the message is the end of what it said.
    """
    variables = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"} | environment
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    return done.stdout
