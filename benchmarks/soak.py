"""Thousands of RL steps of a tiny setting: do memory, file handles, threads, disk and the time of a step stay as they were?

    python -m benchmarks.soak                     2,000 RL steps, a few minutes
    python -m benchmarks.soak --steps 30 --settle 10 --folder logs/soak

What grew from the first hundred steps after `--settle` to the last hundred is printed. Logs of each step grow by design: the folder
is measured without them, and their size is printed beside it. CPU seconds are of this process, so other jobs matter little.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.tables import machine, markdown, versions
from lightning import Callback
from tests.runs import FAST, config_for

from vapo.run import training
from vapo.run.training import train

SETTINGS = (
    *("experiment=vapo_full", "debug=fast", "threads=1", "module.overlap=false", "algorithm.group_size=2", *FAST),
    *("data.rollouts_per_step=4", "module.minibatch_rollouts=4", "data.source.max_operands=2", "rollout.sampling.max_new_tokens=8"),
    *("module.actor_optimizer.lr=0", "module.actor_schedule.decay_share=0", "module.critic_optimizer.lr=0"),  # steps stay alike
    *("callbacks.rl_checkpoint.every_n_steps=10", "callbacks.rollout_log.every_n_steps=10"),
)
LIMITS = {"memory": 0.01, "file handles": 0.0, "threads": 0.0, "checkpoints": 0.01, "CPU time of a step": 0.05}
LOGS = ("metrics.csv", "rollouts")


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


class Gauge(Callback):
    """Reads everything after each step."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows, self.last = folder, list[dict[str, float]](), time.process_time()

    def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
        now = time.process_time()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        logs = sum(size(path) if path.is_dir() else path.stat().st_size for name in LOGS if (path := self.folder / name).exists())
        row = {
            "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            "file handles": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "checkpoints": (size(self.folder) - logs) / 2**20,
            "logs": logs / 2**20,
            "CPU time of a step": now - self.last,
        }
        self.rows.append(row)
        self.last = time.process_time()


def soak(folder: Path, steps: int) -> list[dict[str, float]]:
    gauge, original = Gauge(folder), training.instantiate

    def instantiate(config: Any, *arguments: Any, **options: Any) -> Any:
        if "callbacks" in options:  # of the trainer
            options["callbacks"].insert(0, gauge)
        return original(config, *arguments, **options)

    training.instantiate = instantiate
    try:
        train(config_for(folder, *SETTINGS, f"module.policy_steps={steps}"))
    finally:
        training.instantiate = original
    return gauge.rows


def table(rows: list[dict[str, float]], settle: int, window: int) -> list[tuple[str, str, str, str, str]]:
    """Name, before, after, growth, and whether that is within its limit."""
    lines = []
    for name in rows[0]:
        before, after = (statistics.median(row[name] for row in part) for part in (rows[settle : settle + window], rows[-window:]))
        growth, limit = after / before - 1, LIMITS.get(name)
        verdict = "by design" if limit is None else "yes" if growth <= limit else "NO"
        lines.append((name, f"{before:.4g}", f"{after:.4g}", f"{growth:+.1%}", verdict))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--settle", type=int, default=500, help="steps before the first measurement")
    parser.add_argument("--folder", type=Path, help="keep the run here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = soak(arguments.folder or Path(temporary), arguments.steps)
    window = min(100, (len(rows) - arguments.settle) // 2)
    header = ("quantity (MiB, count, seconds)", f"after {arguments.settle} steps", f"after {len(rows)}", "growth", "within limit")
    print(markdown(header, table(rows, arguments.settle, window)))
    print(f"\n{machine()}; {versions()}")


if __name__ == "__main__":
    main()
