"""One process that judges answers, started by `vapo.verifiers.pool`: `python -m vapo.verifiers.worker <fd> <judge> <settings>`.

It has its own limits, alarms that kill it even in the middle of a library's C code and even if the training process is gone: one
on the processor time of a judgment, so that a busy machine changes no verdict, and a generous one on the wall clock for a hang.
It imports nothing heavy before the judge does (so not `vapo.types`, which imports torch).
"""

import importlib
import json
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

FULL = 0.5  # share of the memory between its size at the start and its limit, at which a worker asks to be replaced
DOUBTFUL = 0.9  # share of it that, if it was ever reached, makes any verdict but "correct" an error: libraries hide a MemoryError


def main(descriptor: int, judge: str, settings: str) -> None:
    """Says that it is ready, then answers `[answer, reference]` with `["correct" | "wrong" | "error", detail, full]`, until the
    other end is closed; `full` asks for a new process."""
    options = json.loads(settings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # control-C is for the training process, which closes the pipe
    connection = Connection(descriptor)
    module, name = judge.split(":")
    is_correct = getattr(importlib.import_module(module), name)(**options["judge"])
    limit = int(options["memory_gib"] * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    start, most = address_space()
    full, doubtful = start + FULL * (limit - start), max(most, DOUBTFUL * limit)
    connection.send_bytes(b"ready")
    while True:
        try:
            answer, reference = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, options["timeout"])  # the default action of both signals ends the process
        signal.setitimer(signal.ITIMER_REAL, options["hang"])
        try:
            verdict = ["correct" if is_correct(answer, reference) else "wrong", ""]
        except (Exception, RecursionError, MemoryError) as error:
            verdict = ["error", f"{type(error).__name__}: {error}"[:500]]
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        size, peak = address_space()
        if verdict[0] == "wrong" and peak > doubtful:
            verdict = ["error", f"MemoryError: the verdict was made at the limit of {options['memory_gib']:g} GiB"]
        connection.send_bytes(json.dumps([*verdict, size > full or peak > doubtful]).encode())


def address_space() -> tuple[int, int]:
    """Bytes of address space that this process has, and the most it has had; 0 where the system does not say."""
    file = Path("/proc/self/status")
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines()) if file.exists() else {}
    size, peak = (int(lines.get(name, "0 kB").split()[0]) * 1024 for name in ("VmSize", "VmPeak"))
    return size, peak


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
