"""Kill -9 at random moments, then resume: does the run end as the uninterrupted one did, bit for bit?

python -m benchmarks.kills [--trials 50] [--folder logs/kills] [--seed 0]        (about 20 minutes on two cores)

What an earlier call left in the folder is removed. Each trial kills one rank, all ranks, or all ranks while a checkpoint is being
written; one plain process and two sharded ranks in turn. Writes a row per trial to <folder>/kills.csv.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import torch
from tests.ranks import SETTINGS, SHARDED, finish, output, start, train_on_ranks
from tests.runs import metrics

STEPS = ("scale_overrides.value_pretraining_steps=2", "module.policy_steps=3", "callbacks.rl_checkpoint.every_n_steps=1")
TRAINER = {1: ("trainer=cpu",), 2: SHARDED}
HOW = ("one rank", "all ranks", "all ranks while saving")


def kill(processes: list[BaseProcess], how: str, folder: Path, seconds: float, rng: random.Random) -> None:
    """Waits for the moment, then kills."""
    if how == "all ranks while saving":
        name = f"step_{rng.randint(1, 5):06d}.ckpt"
        while any(p.is_alive() for p in processes) and not list((folder / "checkpoints").glob(f"{name}.partial*")):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.05))
    else:
        while any(p.is_alive() for p in processes) and not (folder / "config.yaml").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds))
    chosen = [rng.choice(processes)] if how == "one rank" else processes
    for process in chosen:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    finish(processes, timeout=120)


def differences(folder: Path, whole: Path) -> list[str]:
    """Columns and tensors that are not equal."""
    mine, theirs = metrics(folder), metrics(whole)
    if list(mine) != list(theirs) or len(mine) != len(theirs):
        return ["rows or columns of metrics.csv"]
    a, b = torch.load(folder / "end.pt"), torch.load(whole / "end.pt")
    return [n for n in mine if not mine[n].equals(theirs[n])] + [n for n in a if n not in b or not torch.equal(a[n], b[n])]


def main(trials: int, root: Path, seed: int) -> None:
    rng, rows, seconds = random.Random(seed), [], {}
    if root.exists() and any(root.iterdir()) and not (root / "whole_1").exists():
        sys.exit(f"{root} holds something else: set --folder to a new one")
    shutil.rmtree(root, ignore_errors=True)
    for ranks, trainer in TRAINER.items():
        folder = root / f"whole_{ranks}"
        train_on_ranks(ranks, folder, *SETTINGS, *trainer, *STEPS, end=folder / "end.pt")
        seconds[ranks] = (folder / "end.pt").stat().st_mtime - (folder / "config.yaml").stat().st_mtime
    for trial in range(trials):
        ranks, how, folder = 1 + trial % 2, HOW[trial // 2 % 3], root / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        kill(start(ranks, folder, *SETTINGS, *TRAINER[ranks], *STEPS), how, folder, 0.9 * seconds[ranks], rng)
        saved = sorted(path.name for path in (folder / "checkpoints").glob("step_*.ckpt"))
        step = 0 if not (folder / "metrics.csv").exists() else int(metrics(folder)["rl_step"].max())
        train_on_ranks(ranks, folder, f"resume={folder}", end=folder / "end.pt")
        found = differences(folder, root / f"whole_{ranks}") if (folder / "end.pt").exists() else ["the run was over"]
        newest = saved[-1] if saved else "none"
        rows.append({"trial": trial, "ranks": ranks, "killed": how, "step": step, "newest": newest, "differs": " ".join(found)})
        pd.DataFrame(rows).to_csv(root / "kills.csv", index=False)
        print(rows[-1], flush=True)
        if found and found != ["the run was over"]:
            print(output(folder), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=Path("logs/kills"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.trials, arguments.folder.absolute(), arguments.seed)
