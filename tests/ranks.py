"""Runs on several gloo ranks of this machine, as torchrun would start them, but from a process that has imported everything."""

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SETTINGS = (
    "experiment=vapo_full",
    "debug=fast",
    "threads=1",
    "module.overlap=false",
    "algorithm.group_size=4",
    "callbacks.summary=null",
    "data.benchmark_limit=6",
)
SHARDED = ("trainer=fsdp", "trainer.accelerator=cpu", "module.sharding.compute_dtype=float32")
REPLICATED = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true")

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["tests.train_rank"])


def start(ranks: int, folder: Path, *overrides: str, **options: Any) -> list[BaseProcess]:
    """Ranks that run `tests.train_rank.main`; what each prints goes to `rank_<i>.log` in the folder."""
    given = {"folder": str(folder), "overrides": [*overrides, f"trainer.devices={ranks}"], **options}
    return start_function(ranks, folder, train_rank, json.dumps(given, default=str))


def start_function(ranks: int, folder: Path, function: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """Ranks that call a function of a module."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [server.Process(target=_run, args=(rank, ranks, port, folder, function, arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    return processes


def _run(rank: int, ranks: int, port: int, folder: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    log = os.open(folder / f"rank_{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        function(*arguments)
    finally:
        sys.stdout.flush()


def train_rank(given: str) -> None:
    from tests.train_rank import main

    main(json.loads(given))


def in_a_group(function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function with its process group made, for what does not train."""
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    function(*arguments)
    torch.distributed.destroy_process_group()


def run_on_ranks(ranks: int, folder: Path, function: Callable[..., None], *arguments: Any) -> None:
    """`function(folder, *arguments)` on each rank of a process group."""
    codes = finish(start_function(ranks, folder, in_a_group, function, folder, *arguments))
    assert not any(codes), output(folder)


def finish(processes: list[BaseProcess], timeout: float = 1800.0) -> list[int]:
    """Exit codes; ranks that do not stop by themselves are an error, not a wait."""
    end = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    hanging = [rank for rank, process in enumerate(processes) if process.exitcode is None]
    for process in processes:
        process.kill()
        process.join()
    assert not hanging, f"ranks {hanging} still run after {timeout} s"
    return [process.exitcode or 0 for process in processes]


def wait_until(condition: Callable[[], bool], processes: Sequence[BaseProcess] = (), seconds: float = 1800.0) -> None:
    """Polls; fails where every process of those given has ended before, or after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and (not processes or any(p.is_alive() for p in processes)), "it never came"
        time.sleep(0.005)


def output(folder: Path) -> str:
    """What the ranks printed."""
    return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(folder.glob("rank_*.log")))


def train_on_ranks(ranks: int, folder: Path, *overrides: str, fails: bool = False, **options: Any) -> str:
    """Trains with `tests.train_rank`; options are its."""
    codes = finish(start(ranks, folder, *overrides, **options))
    assert all(code != 0 for code in codes) if fails else not any(codes), output(folder)
    return output(folder)
