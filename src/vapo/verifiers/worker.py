"""One process that judges answers, started by `vapo.verifiers.pool`: `python -m vapo.verifiers.worker <fd> <judge> <settings>`.

It has its own timeout: an alarm that kills it, even in the middle of a library's C code and even if the training process is gone.
It imports nothing heavy before the judge does (so not `vapo.types`, which imports torch).
"""

import importlib
import json
import resource
import signal
import sys
from multiprocessing.connection import Connection


def main(descriptor: int, judge: str, settings: str) -> None:
    """Answers `[answer, reference]` with `["correct" | "wrong" | "error", detail]`, until the other end is closed."""
    options = json.loads(settings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # control-C is for the training process, which closes the pipe
    connection = Connection(descriptor)
    module, name = judge.split(":")
    is_correct = getattr(importlib.import_module(module), name)(**options["judge"])
    limit = int(options["memory_gib"] * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        try:
            answer, reference = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, options["timeout"])  # its default action ends the process
        try:
            verdict = ["correct" if is_correct(answer, reference) else "wrong", ""]
        except (Exception, RecursionError, MemoryError) as error:
            verdict = ["error", f"{type(error).__name__}: {error}"[:500]]
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(json.dumps(verdict).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
