"""Group sampling (technique 7): G responses per prompt, numbered by group and verified."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any

from transformers import PreTrainedTokenizerBase

from vapo.distributed.ranks import raise_on_all_ranks, rank, rank_slice
from vapo.rollout.checks import check_completions
from vapo.rollout.engine import Engine
from vapo.rollout.gather import gather_rollouts
from vapo.rollout.prefetch import Prefetch, Work
from vapo.types import FAULTS, Completion, Int32, Prompt, Request, Rollout, SamplingParams, Status, Verdict
from vapo.verifiers.base import Verifier


def sampling_seed(seed: int, rl_step: int, prompt_index: int, sample: int) -> int:
    """A 63-bit seed for one response. It depends on these arguments only, so it is the same on every rank."""
    digest = hashlib.blake2b(f"{seed}/{rl_step}/{prompt_index}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Sampler:
    """Turns prompts into verified rollouts with the engine's current weights; `RLModule.sync` loads the actor's."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        verifier: Verifier,
        context: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """
        Args:
            context: a context manager to enter around generation, such as the trainer's precision.
        """
        self.engine, self.tokenizer, self.verifier, self.context = engine, tokenizer, verifier, context
        self.prefetched = Prefetch()
        self.watch: Callable[[int, int], None] = lambda done, total: None  # called after each of this rank's responses, for display

    def needs_weights(self, version: int) -> bool:
        """Whether the engine's weights are not the actor's `version`. Waits for a running prefetch."""
        self.prefetched.wait()
        return self.engine.weights_version != version

    def sample(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: SamplingParams,
        seed: int,
        rl_step: int,
        check_faults: bool = True,
    ) -> list[Rollout]:
        """Samples `group_size` responses to each prompt and verifies them. Each rank generates its share of the responses and gets
        all of them, so all ranks must call this with the same arguments.

        Args:
            prompts: the P prompts of a step; the i-th makes group i, and its responses stay next to each other.
            group_size: G >= 1.
            seed, rl_step: with prompt and sample number, they determine each response.
            check_faults: raise if the verifier failed on too many.

        Returns:
            B = P * G rollouts, prompt after prompt. Of a response cut at the length limit `Verifier.judged` says what is verified.
        """
        rollouts = self._gather(lambda: self._generate(prompts, group_size, sampling, seed, rl_step))
        if check_faults:
            self._check_faults(rollouts)
        return rollouts

    def prefetch(self, prompts: Sequence[Prompt], group_size: int, sampling: SamplingParams, seed: int, rl_step: int) -> None:
        """Starts generating this rank's rollouts on a thread; `take_prefetched` gathers them."""
        self.prefetched.start(lambda: self._generate(prompts, group_size, sampling, seed, rl_step))

    def take_prefetched(self) -> list[Rollout] | None:
        """Waits for the rollouts of `prefetch`; None if it was not called."""
        rollouts = self.prefetched.take(self._gather)
        self._check_faults(rollouts or [])
        return rollouts

    def _generate(
        self, prompts: Sequence[Prompt], group_size: int, sampling: SamplingParams, seed: int, rl_step: int
    ) -> list[Rollout]:
        """This rank's rollouts, without communication; early responses are verified while later ones are generated."""
        assignments = [(group, sample) for group in range(len(prompts)) for sample in range(group_size)]
        assignments = assignments[rank_slice(len(assignments), self.engine.ranks_per_engine)]
        requests = [
            Request(prompts[group].token_ids, sampling_seed(seed, rl_step, prompts[group].index, sample))
            for group, sample in assignments
        ]
        verdicts: dict[int, Future[Verdict]] = {}
        done, leads = count(1), self._leads()

        def verify(i: int, completion: Completion) -> None:
            self.watch(next(done), len(requests))
            if not leads:
                return
            text = self.verifier.judged(self.decode(completion.token_ids), completion.finished)
            if completion.finished or text:
                verdicts[i] = self.verifier.submit(text, prompts[assignments[i][0]].reference)

        with self.context():
            completions = self.engine.generate(requests, sampling, verify)
        check_completions(completions, len(requests), sampling.max_new_tokens)
        rollouts = []
        for i, completion in enumerate(completions):
            verdict = verdicts[i].result() if i in verdicts else Verdict(Status.NO_ANSWER)
            group = assignments[i][0]
            rollouts.append(Rollout(prompts[group], group, completion, verdict))
        return rollouts

    def decode(self, token_ids: Int32) -> str:
        """A response's text, without special tokens: what the verifier reads and logs show. Training reads its token ids."""
        return str(self.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))

    def _gather(self, work: Work) -> list[Rollout]:
        """All ranks' rollouts on every rank. Ranks that share an engine have the same rollouts, which are gathered once."""
        with raise_on_all_ranks():
            part = work()
        return gather_rollouts(part if self._leads() else [])

    def _leads(self) -> bool:
        """Whether this rank's rollouts are those of its engine that count, of the ranks that share it."""
        return rank() % self.engine.ranks_per_engine == 0

    def _check_faults(self, rollouts: Sequence[Rollout]) -> None:
        """Raises if the verifier failed on more than its `max_fault_share` of the rollouts: something is wrong with it."""
        faults = sum(rollout.verdict.status in FAULTS for rollout in rollouts)
        if faults > self.verifier.max_fault_share * len(rollouts):
            raise ValueError(
                f"the verifier failed on {faults} of {len(rollouts)} responses (last: {self.verifier.last_fault()}); look at the "
                "problem set's answers, raise data.verifier.timeout, or data.verifier.max_fault_share if this is expected"
            )

    def state_dict(self) -> dict[str, Any] | None:
        """Prefetched rollouts as plain values and tensors. They cannot be sampled again on resume: their weights are gone."""
        return self.prefetched.state_dict(self._gather)

    def load_state_dict(self, state: dict[str, Any] | list[dict[str, Any]] | None) -> None:
        self.prefetched.load_state_dict(state)
