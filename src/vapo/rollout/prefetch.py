"""Prefetch (`rollout.prefetch=1`): generates the next step's rollouts during this step, so their staleness is one policy step."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch

from vapo.distributed.ranks import raise_on_all_ranks
from vapo.types import Completion, Prompt, Rollout, Status, Verdict

Work = Callable[[], list[Rollout]]  # this rank's share of a step's rollouts; it must not communicate with other ranks


class Prefetch:
    """Holds at most one batch of rollouts: being generated on a thread, or restored from a checkpoint."""

    def __init__(self) -> None:
        self._running: Future[list[Rollout]] | None = None
        self._restored: list[Rollout] | None = None  # all ranks' rollouts

    def start(self, work: Work) -> None:
        threads = torch.get_num_threads()
        gpu = torch.cuda.current_device() if torch.cuda.is_available() else None

        def like_this_thread() -> None:
            torch.set_num_threads(threads)
            if gpu is not None:
                torch.cuda.set_device(gpu)

        pool = ThreadPoolExecutor(1, initializer=like_this_thread)
        self._running = pool.submit(work)
        pool.shutdown(wait=False)

    def wait(self) -> None:
        """Waits until the engine is free."""
        if self._running is not None:
            self._running.exception()

    def check(self) -> None:
        """Waits, and raises on all ranks if generation failed on one."""
        with raise_on_all_ranks():
            if self._running is not None:
                self._running.result()

    def take(self, gather: Callable[[Work], list[Rollout]]) -> list[Rollout] | None:
        """Returns all ranks' rollouts, or None if there are none. `gather` joins the ranks' shares."""
        running, restored, self._running, self._restored = self._running, self._restored, None, None
        return restored if running is None else gather(running.result)

    def state_dict(self, gather: Callable[[Work], list[Rollout]]) -> list[dict[str, Any]] | None:
        """All ranks' rollouts as plain values, or None; waits for a running prefetch."""
        rollouts = self._restored if self._running is None else gather(self._running.result)
        return None if rollouts is None else [_plain(rollout) for rollout in rollouts]

    def load_state_dict(self, state: list[dict[str, Any]] | None) -> None:
        self._restored = None if state is None else [_rollout(**fields) for fields in state]


def _plain(rollout: Rollout) -> dict[str, Any]:
    fields = asdict(rollout)
    fields["verdict"]["status"] = rollout.verdict.status.value
    return fields


def _rollout(prompt: dict[str, Any], completion: dict[str, Any], verdict: dict[str, Any], group: int, text: str) -> Rollout:
    judged = Verdict(Status(verdict["status"]), verdict["answer"])
    return Rollout(Prompt(**prompt), group, Completion(**completion), text, judged)
