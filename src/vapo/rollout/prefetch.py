"""Prefetch (`rollout.prefetch=1`): generates the next step's rollouts during this step, so their staleness is one policy step."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from threading import Thread
from typing import Any

import numpy as np
import torch

from vapo.distributed.ranks import raise_on_all_ranks
from vapo.rollout.gather import Outline, flat, rollouts_of
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

        running: Future[list[Rollout]] = Future()

        def like_this_thread() -> None:
            torch.set_num_threads(threads)
            if gpu is not None:
                torch.cuda.set_device(gpu)
            try:
                running.set_result(work())
            except BaseException as error:
                running.set_exception(error)

        self._running = running
        Thread(target=like_this_thread, name="prefetch", daemon=True).start()  # a run that fails does not wait for it

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

    def state_dict(self, gather: Callable[[Work], list[Rollout]]) -> dict[str, Any] | None:
        """All ranks' rollouts as plain values and tensors, or None; waits for a running prefetch."""
        rollouts = self._restored if self._running is None else gather(self._running.result)
        return None if rollouts is None else _plain(rollouts)

    def load_state_dict(self, state: dict[str, Any] | list[dict[str, Any]] | None) -> None:
        self._restored = None if state is None else _rollouts(state)


def _plain(rollouts: list[Rollout]) -> dict[str, Any]:
    outlines = [Outline.of(rollout) for rollout in rollouts]
    token_R, logprob_R = flat(rollouts, 0, sum(outline.length for outline in outlines))
    number = {prompt: i for i, prompt in enumerate(dict.fromkeys(outline.prompt for outline in outlines))}
    return {
        "prompts": [asdict(prompt) for prompt in number],
        "outlines": [(number[o.prompt], o.group, o.verdict.status.value, o.verdict.answer, o.finished, o.length) for o in outlines],
        "token_R": token_R,
        "logprob_R": logprob_R,
    }


def _rollouts(state: dict[str, Any] | list[dict[str, Any]]) -> list[Rollout]:
    if isinstance(state, list):  # of an older checkpoint: one tuple of tokens for each
        return [_old_rollout(**fields) for fields in state]
    prompts = [Prompt(**prompt) for prompt in state["prompts"]]
    outlines = [
        Outline(prompts[number], group, Verdict(Status(status), answer), finished, length)
        for number, group, status, answer, finished, length in state["outlines"]
    ]
    return rollouts_of(outlines, state["token_R"], state["logprob_R"])


def _old_rollout(prompt: dict[str, Any], completion: dict[str, Any], verdict: dict[str, Any], group: int, text: str) -> Rollout:
    token_ids, logprobs = np.array(completion["token_ids"], np.int32), np.array(completion["logprobs"], np.float32)
    judged = Verdict(Status(verdict["status"]), verdict["answer"])
    return Rollout(Prompt(**prompt), group, Completion(token_ids, logprobs, completion["finished"]), judged)
