"""CPU seconds and memory of everything an RL step does outside of networks, engine and verifier, on a rank of 128.

python -m benchmarks.host                           the paper's batch (8,192 rollouts), and smaller ones to see that cost is linear
python -m benchmarks.host --rollouts 64 --repeats 1 --figure host.png

Rollouts are made up: lognormal lengths, mean 7,646 and maximum 20,480 tokens. Two gloo processes gather them, each from its half;
one of them does the rest of a step, with the code of training, one thread, and the shares that a rank of 128 has.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
from benchmarks.tables import ROOT, machine, markdown, versions
from torch import Tensor

from vapo.algorithms import ActorCritic
from vapo.metrics import StepMetrics
from vapo.micro_batches import micro_batches
from vapo.reporting import report_step
from vapo.rollout.collate import collate
from vapo.rollout.gather import gather_rollouts
from vapo.types import Batch, Completion, Prompt, Rollout, Status, Verdict

GROUP, LIMIT, RANKS, MINIBATCHES = 16, 20_480, 128, 16
GIB = 2**30
T = TypeVar("T")


class Meter:
    """CPU seconds of operations, and how far the process's resident memory rose: after each one, and at its peak."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[float, float, float]] = {}
        gc.collect()
        self.base = resident("VmRSS")

    def __call__(self, name: str, run: Callable[[], T]) -> T:
        gc.collect()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the peak, starts again
        started = time.process_time()
        result = run()
        seconds = time.process_time() - started
        self.rows[name] = (seconds, (resident("VmRSS") - before) / GIB, (resident("VmHWM") - self.base) / GIB)
        return result


def resident(key: str) -> int:
    """Bytes of resident memory, now (VmRSS) or at its peak (VmHWM)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def lengths(rollouts: int) -> Tensor:
    """length_B as in a long run of the paper's: lognormal, cut at the limit."""
    normal_B = torch.randn(rollouts, generator=torch.Generator().manual_seed(0))
    return (8.75 + 0.7 * normal_B).exp().clamp(100, LIMIT).long()


def made_up(length_B: Tensor, first: int) -> list[Rollout]:
    """Rollouts of these lengths; the first is number `first` of the batch."""
    rng = np.random.default_rng(first)
    prompts: dict[int, Prompt] = {}
    rollouts = []
    for i, length in enumerate(length_B.tolist(), first):
        prompt = prompts.setdefault(i // GROUP, Prompt(i // GROUP, "", "1", tuple(rng.integers(0, 150_000, 200).tolist())))
        tokens, logprobs = rng.integers(0, 150_000, length, dtype=np.int32), -rng.random(length, dtype=np.float32)
        verdict = Verdict(Status.CORRECT if rng.random() < 0.3 else Status.WRONG, "1")
        rollouts.append(Rollout(prompt, i // GROUP, Completion(tokens, logprobs, length < LIMIT), verdict))
    return rollouts


def annotate(batch: Batch) -> Tensor:
    """What `Learner.per_token` does besides the forward pass: cuts and pads this rank's share, writes it where it belongs."""
    end_B, x_R = batch.response_length_B.cumsum(0), torch.zeros(len(batch.sampler_logprob_R))
    for micro in micro_batches(batch, 2**15, "cpu", 0, RANKS):
        for row, x_T in zip(micro.index_B, micro.part.sampler_logprob_R.split(micro.part.response_length_B.tolist()), strict=False):
            x_R[int(end_B[row]) - len(x_T) : int(end_B[row])] = x_T
    return x_R


def select(batch: Batch) -> None:
    """A rank's share of each minibatch of both networks."""
    for _ in range(2):
        for index_B in torch.randperm(len(batch)).tensor_split(MINIBATCHES):
            batch.select(index_B[::RANKS])


def step(rank: int, rollouts: int, folder: str) -> None:
    """Both ranks gather; rank 0 goes on, and writes what it measured to `folder`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    half, length_B = rollouts // 2, lengths(rollouts)
    share = made_up(length_B[half:], half) if rank else made_up(length_B[:half], 0)  # held to the end, so it is no growth
    dist.barrier()
    measured = Meter()
    gathered = measured("gather", lambda: gather_rollouts(share))
    dist.barrier()
    dist.destroy_process_group()
    if rank == 1:
        return
    algorithm = ActorCritic(critic_lambda=1.0, length_adaptive_alpha=0.05, whiten_advantages=True, group_size=GROUP)
    batch = measured("collate", lambda: collate(gathered))
    fields = {name: measured(f"annotate: {name}", lambda: annotate(batch)) for name in ("value_R", "old_logprob_R")}
    batch = batch.replace(value_R=fields["value_R"].normal_(std=0.3), old_logprob_R=fields["old_logprob_R"].uniform_(-1, 0))
    del fields
    batch = measured("credit", lambda: algorithm.credit(batch))
    measured(f"select, 2 x {MINIBATCHES} minibatches", lambda: select(batch))
    metrics = StepMetrics()
    measured("report", lambda: report_step(metrics, algorithm, gathered, batch))
    found = {"tokens": int(length_B.sum()), "rows": measured.rows}
    (Path(folder) / "measured.json").write_text(json.dumps(found))


def measure(rollouts: int) -> dict[str, tuple[float, float, float]]:
    """One step in processes of its own: seconds, growth and peak of each operation."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(step, (rollouts, folder), nprocs=2)
        return json.loads((Path(folder) / "measured.json").read_text())["rows"]  # type: ignore[no-any-return]


def medians(rollouts: int, repeats: int) -> dict[str, list[float]]:
    """Medians of several steps."""
    runs = [measure(rollouts) for _ in range(repeats)]
    return {name: [statistics.median(run[name][i] for run in runs) for i in range(3)] for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="*", default=[512, 1024, 2048, 4096, 8192], help="the last one in detail")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each size, whose medians count")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "host_cost.png")
    arguments = parser.parse_args()
    found = {size: medians(size, arguments.repeats) for size in arguments.rollouts}
    tokens = {size: int(lengths(size).sum()) for size in found}
    seconds = {size: sum(row[0] for row in rows.values()) for size, rows in found.items()}
    peak = {size: max(row[2] for row in rows.values()) for size, rows in found.items()}
    size, rows = list(found.items())[-1]
    print(f"{size:,} rollouts, {tokens[size] / 1e6:.1f} M response tokens\n")
    lines = [(name, f"{s:.2f}", f"{growth:.2f}", f"{top:.2f}") for name, (s, growth, top) in rows.items()]
    total = ("total", f"{seconds[size]:.2f}", f"{sum(row[1] for row in rows.values()):.2f}", f"{peak[size]:.2f}")
    print(markdown(("operation", "CPU seconds", "memory growth, GiB", "peak since the start, GiB"), [*lines, total]), end="\n\n")
    lines = [
        (
            f"{n:,}",
            f"{tokens[n] / 1e6:.1f}",
            f"{seconds[n]:.2f}",
            f"{seconds[n] / tokens[n] * 1e9:.0f}",
            f"{peak[n] / tokens[n] * GIB:.0f}",
        )
        for n in found
    ]
    print(markdown(("rollouts", "M tokens", "CPU seconds", "ns per token", "peak bytes per token"), lines), end="\n\n")
    print(f"{machine()}; {versions()}")
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, y, label in zip(axes, (seconds, peak), ("CPU seconds", "peak growth, GiB"), strict=True):
        axis.plot([tokens[n] / 1e6 for n in found], [y[n] for n in found], "o-")
        axis.set(xlabel="response tokens of a step, millions", ylabel=label, xlim=(0, None), ylim=(0, None))
    figure.savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()
