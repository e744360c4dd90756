"""Rollouts of the next step while the policy trains on those of this one: one policy old (docs/scaling.md says what that costs)."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch

from vapo.ranks import gather_lists, rank, together
from vapo.rollout.collect import join
from vapo.rollout.engine import Engine
from vapo.types import Completion, Prompt, Rollout, Status, Verdict
from vapo.verifiers.base import Verifier


class Ahead:
    """At most one batch of rollouts in the making."""

    def __init__(self) -> None:
        self._making: Future[list[Rollout]] | None = None
        self._saved: list[Rollout] | None = None  # all ranks', from a checkpoint

    def start(self, work: Callable[[], list[Rollout]]) -> None:
        """Runs `work`, which gives this rank's share and must not talk to other ranks, on a thread."""
        pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))
        self._making = pool.submit(work)
        pool.shutdown(wait=False)

    def wait(self) -> None:
        """Returns when the engine is free."""
        if self._making is not None:
            self._making.exception()

    def check(self) -> None:
        """Waits, and raises on all ranks if it failed on one."""
        with together():
            if self._making is not None:
                self._making.result()

    def take(self, engine: Engine, verifier: Verifier) -> list[Rollout] | None:
        """All ranks' rollouts, or None if none were started."""
        making, saved, self._making, self._saved = self._making, self._saved, None, None
        return saved if making is None else join(making.result, engine, verifier)

    def state_dict(self, engine: Engine) -> list[dict[str, Any]] | None:
        """Rollouts in the making, all ranks', as plain values; waits for them."""
        making = self._making
        rollouts = self._saved if making is None else gather_lists(making.result() if rank() % engine.ranks_together == 0 else [])
        return None if rollouts is None else [_plain(rollout) for rollout in rollouts]

    def load_state_dict(self, state: list[dict[str, Any]] | None) -> None:
        self._saved = None if state is None else [_rollout(**fields) for fields in state]


def _plain(rollout: Rollout) -> dict[str, Any]:
    fields = asdict(rollout)
    fields["verdict"]["status"] = rollout.verdict.status.value
    return fields


def _rollout(prompt: dict[str, Any], completion: dict[str, Any], verdict: dict[str, Any], group: int, text: str) -> Rollout:
    judged = Verdict(Status(verdict["status"]), verdict["answer"])
    return Rollout(Prompt(**prompt), group, Completion(**completion), text, judged)
