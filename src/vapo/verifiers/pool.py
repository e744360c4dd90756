"""A pool of processes that judge answers: a timeout kills a process, a new one replaces it, and no verdict is lost."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from concurrent.futures import Future
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vapo.types import FAULTS, Status

START_SECONDS = 600.0  # timeout for a new process to import its libraries, on a busy machine
HANG = 60.0  # a judgment hangs after this many times its processor time, on the wall clock
CACHED = 100_000  # maximum verdicts in the cache
PACKAGE = str(Path(__file__).resolve().parents[2])

_Task = tuple[str, str, "Future[Status]"]


class JudgePool:
    """Judges (answer, reference) pairs in `workers` processes, which start with the first pair."""

    def __init__(self, judge: str, settings: dict[str, Any], workers: int, timeout: float, memory_gib: float) -> None:
        """
        Args:
            judge: `module:function` that makes the judge in the worker when called with `settings`.
            workers: processes, >= 1.
            timeout: processor time of one judgment, in seconds, > 0. The wall clock only ends one that hangs (`HANG`).
            memory_gib: address space of a worker, > 0; beyond it the judgment is an error. A worker that has grown half the way to
                it is replaced.
        """
        for name, value in (("workers", workers), ("timeout", timeout), ("memory_gib", memory_gib)):
            if value <= 0:
                raise ValueError(f"the verifier's {name} is {value}; set data.verifier.{name} above 0")
        options = json.dumps({"judge": settings, "timeout": timeout, "hang": HANG * timeout, "memory_gib": memory_gib})
        self.arguments, self.workers, self.timeout = (judge, options), workers, timeout
        self.last_fault = ""
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._cache: OrderedDict[tuple[str, str], Future[Status]] = OrderedDict()
        self._lock, self._started = threading.Lock(), False

    def submit(self, answer: str, reference: str) -> "Future[Status]":
        """CORRECT, WRONG, TIMEOUT, or ERROR. A pair is judged once; faults are not cached."""
        with self._lock:
            if not self._started:
                self._started = True
                for _ in range(self.workers):
                    threading.Thread(
                        target=_serve, args=(weakref.ref(self), self._tasks, self.arguments, self.timeout), daemon=True
                    ).start()
                weakref.finalize(self, _stop, self._tasks, self.workers)
            future = self._cache.get((answer, reference))
            if future is not None and not (future.done() and future.result() in FAULTS):
                return future
            future = self._cache[answer, reference] = Future()
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
            self._tasks.put((answer, reference, future))
            return future


def _stop(tasks: "queue.SimpleQueue[_Task | None]", workers: int) -> None:
    for _ in range(workers):
        tasks.put(None)


def _serve(
    pool: "weakref.ref[JudgePool]", tasks: "queue.SimpleQueue[_Task | None]", arguments: tuple[str, str], timeout: float
) -> None:
    """A thread with its worker process: the thread starts a new process whenever a judgment takes one down."""
    worker: _Worker | None = None
    while (task := tasks.get()) is not None:
        answer, reference, future = task
        for _ in range(2):  # retry once: the process may have died for an unrelated reason
            try:
                if worker is None or worker.process.poll() is not None:
                    worker = _Worker(*arguments)
                status, detail, full = worker.judge(answer, reference, timeout)
                if full:
                    worker.kill()
                    worker = None
            except Exception as error:  # any error: this thread must survive and set a verdict
                worker, status, detail = None, Status.ERROR, f"{DIED} ({error!r})"
            if not detail.startswith(DIED):
                break
        if status in FAULTS and (owner := pool()) is not None:
            owner.last_fault = f"{status} on answer {answer[:80]!r} with reference {reference[:80]!r}: {detail}"
            del owner
        future.set_result(status)
    if worker is not None:
        worker.kill()


DIED = "the worker process died"


class _Worker:
    def __init__(self, judge: str, options: str) -> None:
        self.connection, theirs = Pipe()
        assert isinstance(self.connection, Connection)
        path = os.pathsep.join([PACKAGE, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vapo.verifiers.worker", str(theirs.fileno()), judge, options],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self.ready = False

    def judge(self, answer: str, reference: str, timeout: float) -> tuple[Status, str, bool]:
        """The status, what went wrong, and whether the process is to be replaced."""
        try:
            if not self.ready and not (self.connection.poll(START_SECONDS) and self.connection.recv_bytes()):
                self.process.kill()
            self.ready = True
            self.connection.send_bytes(json.dumps([answer, reference]).encode())
            if not self.connection.poll(2 * HANG * timeout):  # the worker's own alarms come first
                self.process.kill()
            status, detail, full = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            ended = -self.process.wait()
            if ended in (signal.SIGPROF, signal.SIGALRM):
                clock = "of processor time" if ended == signal.SIGPROF else "on the wall clock: it hangs"
                seconds = timeout if ended == signal.SIGPROF else HANG * timeout
                return Status.TIMEOUT, f"no verdict within {seconds:g} s {clock}", False
            return Status.ERROR, DIED, False
        return Status(status), detail, full

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()
