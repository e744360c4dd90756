"""Rollouts of several ranks joined, and prefetched rollouts through a checkpoint, against the rollouts themselves."""

import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.completions import completion_of
from tests.conftest import write_rollout
from tests.ranks import run_on_ranks

from vapo.distributed.ranks import rank
from vapo.rollout.gather import gather_rollouts
from vapo.rollout.prefetch import Prefetch
from vapo.rollout.sampler import Sampler, sampling_seed
from vapo.types import SamplingParams


def five():
    """Two groups of ragged rollouts: the same on every rank."""
    rng = random.Random(0)
    return [write_rollout(rng, 3, length, i % 2, i // 3, finished=i != 2) for i, length in enumerate([4, 1, 9, 2, 6])]


def values(rollouts):
    """Everything in rollouts, as values that compare."""
    for completion in (rollout.completion for rollout in rollouts):
        assert (completion.token_ids.dtype, completion.logprobs.dtype) == (np.int32, np.float32)
    return [
        (r.prompt, r.group, r.verdict, r.completion.finished, r.completion.token_ids.tolist(), r.completion.logprobs.tolist())
        for r in rollouts
    ]


def gather_shares(folder: Path) -> None:
    whole = five()
    for cut in (2, 0, 5):  # with cut 0 the first rank has none, with 5 the second
        found = gather_rollouts(whole[:cut] if rank() == 0 else whole[cut:])
        assert values(found) == values(whole), cut
    for engines, share in ((1, slice(rank() * 2, rank() * 3 + 2)), (2, slice(5))):  # two ranks of one engine have the same
        sampler = Sampler(SimpleNamespace(ranks_per_engine=engines), None, None)  # type: ignore[arg-type]
        assert values(sampler._gather(lambda share=share: whole[share])) == values(whole)
    prompts = [rollout.prompt for rollout in whole[::2]]
    sampler = Sampler(Echo(), None, SimpleNamespace(max_fault_share=0.0))  # type: ignore[arg-type]
    echoes = sampler.sample(prompts, 3, SamplingParams(), 5, 2)
    seeds = [sampling_seed(5, 2, prompt.index, sample) % 2**31 for prompt in prompts for sample in range(3)]
    assert [rollout.completion.token_ids.tolist() for rollout in echoes] == [[seed] for seed in seeds]
    assert [rollout.group for rollout in echoes] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match=r"no engine"):
        sampler._gather(fails_on_rank_1)


class Echo:
    """An engine whose responses are the seeds that it got."""

    ranks_per_engine = 1

    def generate(self, requests, sampling, on_finish):
        return [completion_of((request.seed % 2**31,), (-1.0,), True) for request in requests]


def fails_on_rank_1():
    if rank() == 1:
        raise ValueError("no engine")
    return five()


@pytest.mark.distributed
def test_every_rank_gets_all_rollouts_once_in_the_order_of_ranks(tmp_path):
    run_on_ranks(2, tmp_path, gather_shares)


def test_one_process_gets_its_own():
    assert values(gather_rollouts(five())) == values(five()) and gather_rollouts([]) == []


def restored(state, file):
    """Rollouts that `Prefetch` takes from a state which went through a checkpoint."""
    torch.save(state, file)
    prefetch = Prefetch()
    prefetch.load_state_dict(torch.load(file, weights_only=True))
    return prefetch.take(lambda work: pytest.fail("nothing runs"))


def test_prefetched_rollouts_come_back_from_a_checkpoint(tmp_path):
    prefetch = Prefetch()
    prefetch.start(five)
    state = prefetch.state_dict(lambda work: gather_rollouts(work()))
    assert values(restored(state, tmp_path / "state.pt")) == values(five())
    assert Prefetch().state_dict(lambda work: work()) is None


def test_a_checkpoint_with_a_tuple_of_tokens_for_each_rollout_can_still_be_read(tmp_path):
    rollouts = five()
    state = [
        {
            "prompt": asdict(r.prompt),
            "group": r.group,
            "completion": {
                "token_ids": tuple(r.completion.token_ids.tolist()),
                "logprobs": tuple(r.completion.logprobs.tolist()),
                "finished": r.completion.finished,
            },
            "text": "",
            "verdict": {"status": r.verdict.status.value, "answer": r.verdict.answer},
        }
        for r in rollouts
    ]
    assert values(restored(state, tmp_path / "state.pt")) == values(rollouts)


def test_a_process_that_ends_does_not_wait_for_what_is_being_prefetched():
    """As after a second Ctrl-C, or an error in training."""
    script = "import time; from vapo.rollout.prefetch import Prefetch; Prefetch().start(lambda: time.sleep(10**6)); exit(7)"
    assert subprocess.run([sys.executable, "-c", script], timeout=3000).returncode == 7


def test_an_error_while_prefetching_is_raised_where_it_is_waited_for():
    def fail():
        raise ValueError("no engine")

    prefetch = Prefetch()
    prefetch.start(fail)
    prefetch.wait()
    with pytest.raises(ValueError, match="no engine"):
        prefetch.take(lambda work: work())
