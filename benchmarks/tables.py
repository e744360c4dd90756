"""What every benchmark prints: Markdown tables, the machine, commit and versions, and medians."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
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


def median_seconds(run: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of `run` by `clock`, which may be `time.process_time` for CPU seconds."""
    seconds = []
    for _ in range(repeats):
        started = clock()
        run()
        seconds.append(clock() - started)
    return statistics.median(seconds)
