"""Dispatches a batch of requests to several servers. Each request gets exactly one completion, or the batch fails with a reason.

A request carries its seed, so it gives the same tokens on any server, and a retry on another one changes nothing.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from vapo.rollout.vllm.server import Server, ServerFault
from vapo.types import Completion, Request

TICK = 0.5  # seconds between timeout checks
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 10.0  # seconds until a server is checked again after a fault: doubled each time

Task = asyncio.Task[Any]
log = logging.getLogger(__name__)


class Fleet:
    """Tracks which servers may generate, and why the others may not."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = list(servers)
        self.reset([])

    def reset(self, live: Sequence[Server], faults: dict[str, str] | None = None) -> None:
        """Called after a weight sync: `live` servers have the weights; `faults`, by url, says why the others do not."""
        self.live, self.synced = set(live), set(live)  # of the others a label alone proves nothing: their sync broke off
        self.faults = dict(faults or {})
        self.backoff = {server: FIRST_BACKOFF for server in self.servers}
        self.due = {server: time.monotonic() for server in self.servers}  # when an excluded server is checked again

    def exclude(self, server: Server, fault: str) -> None:
        """Stops sending requests to a server until it passes a health check."""
        if server in self.live:
            log.warning("%s gets no requests for now: %s", server.url, fault)
        self.live.discard(server)
        self.faults[server.url] = fault
        self.due[server] = time.monotonic() + self.backoff[server]
        self.backoff[server] = min(2 * self.backoff[server], LONGEST_BACKOFF)

    def due_for_check(self) -> list[Server]:
        """The excluded servers whose backoff is over."""
        return [server for server in self.servers if server not in self.live and time.monotonic() >= self.due[server]]

    def __str__(self) -> str:
        return "; ".join(self.faults.get(server.url, server.url) for server in self.servers)


class Dispatch:
    """One batch of requests: `run` is called once, and leaves no task behind however it ends."""

    def __init__(
        self,
        fleet: Fleet,
        requests: Sequence[Request],
        ask: Callable[[Server, Request], Coroutine[Any, Any, Completion]],
        revive: Callable[[Server], Coroutine[Any, Any, None]],
        on_finish: Callable[[int, Completion], None],
        max_batch: int,
        retries: int,
        start_seconds: float,
    ) -> None:
        """
        Args:
            ask: gets one completion from one server.
            revive: health check that makes an excluded server ready to generate with the current weights. Both raise ServerFault.
            max_batch: maximum concurrent requests per server.
            retries: maximum retries per request.
            start_seconds: timeout in seconds while no server is available.
        """
        self.fleet, self.requests, self.ask, self.revive, self.on_finish = fleet, requests, ask, revive, on_finish
        self.max_batch, self.retries, self.start_seconds = max_batch, retries, start_seconds
        groups: dict[tuple[int, ...], deque[int]] = {}  # by prompt: one server has it in its prefix cache
        for index, request in enumerate(requests):
            groups.setdefault(request.prompt_ids, deque()).append(index)
        self.waiting = deque(groups.values())  # groups not assigned to a server yet
        self.own: dict[Server, deque[int]] = {server: deque() for server in fleet.servers}  # requests left of its current group
        self.asking: dict[Task, tuple[Server, int]] = {}
        self.busy: Counter[Server] = Counter()  # number of running requests per server
        self.reviving: dict[Task, Server] = {}
        self.ending: set[Task] = set()  # cancelled tasks that are still running
        self.done: deque[Task] = deque()  # finished tasks that are not handled yet
        self.some_done = asyncio.Event()
        self.failures: Counter[int] = Counter()  # failures per request
        self.completions: dict[int, Completion] = {}

    async def run(self) -> list[Completion]:
        """Returns the completions, in order of the requests.

        Raises:
            TimeoutError: no server is left; ValueError: a request failed too often, or a server refuses it.
        """
        alive = time.monotonic()  # when a server was last available
        try:
            while len(self.completions) < len(self.requests):
                self._start()
                assert self.asking or not self.fleet.live, "a request was lost"
                if self.fleet.live:
                    alive = time.monotonic()
                elif time.monotonic() - alive > self.start_seconds:
                    raise TimeoutError(
                        f"no generation server is left, and none came back within {self.start_seconds:g} s: {self.fleet}. "
                        "Start one with python src/serve.py, correct rollout.engine.urls, or raise rollout.engine.start_seconds"
                    )
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.some_done.wait(), TICK)
                self.some_done.clear()
                while self.done:
                    self._handle(self.done.popleft())
        finally:
            left = [*self.asking, *self.reviving, *self.ending]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        return [self.completions[index] for index in range(len(self.requests))]

    def _start(self) -> None:
        """Starts as many requests as allowed, on the least busy servers first, and the health checks that are due."""
        for server in set(self.fleet.due_for_check()) - set(self.reviving.values()):
            self.reviving[self._task(self.revive(server))] = server
        while free := [s for s in self.fleet.servers if s in self.fleet.live and self.busy[s] < self.max_batch]:
            server = min(free, key=self.busy.__getitem__)
            index = self._next(server)
            if index is None:
                return
            self.asking[self._task(self.ask(server, self.requests[index]))] = server, index
            self.busy[server] += 1

    def _task(self, work: Coroutine[Any, Any, Any]) -> Task:
        def note(task: Task) -> None:
            self.done.append(task)
            self.some_done.set()

        task = asyncio.create_task(work)
        task.add_done_callback(note)
        return task

    def _next(self, server: Server) -> int | None:
        """The next request for this server: from its current group, a new group, or another server's group."""
        if not self.own[server] and self.waiting:
            self.own[server] = self.waiting.popleft()
        fullest = max(self.own.values(), key=len)
        return self.own[server].popleft() if self.own[server] else fullest.pop() if fullest else None

    def _handle(self, task: Task) -> None:
        """Handles the result of a finished task."""
        if task in self.ending:
            self.ending.remove(task)
        elif task in self.reviving:
            server = self.reviving.pop(task)
            try:
                task.result()
                self.fleet.live.add(server)
            except ServerFault as fault:
                self.fleet.exclude(server, str(fault))
        else:
            server, index = self.asking.pop(task)
            self.busy[server] -= 1
            try:
                completion: Completion = task.result()
            except ServerFault as fault:
                self._retry(server, index, str(fault))
            else:
                assert index not in self.completions
                self.completions[index] = completion
                self.on_finish(index, completion)

    def _retry(self, server: Server, index: int, fault: str) -> None:
        """Excludes the server, and returns the failed request and the server's other requests to the queue."""
        self.failures[index] += 1
        if self.failures[index] > self.retries:
            raise ValueError(
                f"a request failed {self.failures[index]} times, the last time {fault}; the servers' logs may say why. Raise "
                "rollout.engine.deadline_seconds if they are only slow, or rollout.engine.retries"
            )
        self.waiting.appendleft(deque([index]))
        if server in self.fleet.live:
            self.fleet.exclude(server, fault)
        for task, (at, other) in list(self.asking.items()):
            if at is server and not task.done():  # finished ones still count
                del self.asking[task]
                self.busy[server] -= 1
                self.ending.add(task)
                task.cancel()
                self.waiting.appendleft(deque([other]))
        if self.own[server]:
            self.waiting.appendleft(self.own[server])
            self.own[server] = deque()
