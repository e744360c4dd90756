"""Group sampling (technique 7): ask each prompt G times, number the groups, verify."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from transformers import PreTrainedTokenizerBase

from vapo.ranks import gather_lists, rank, share, together
from vapo.rollout.engine import Engine
from vapo.types import FAULTS, Completion, Prompt, Request, Rollout, SamplingParams, Status, Verdict
from vapo.verifiers.base import Verifier


def sampling_seed(seed: int, rl_step: int, prompt_index: int, sample: int) -> int:
    """A 63-bit seed for one response. Keyed by what is asked, not by when or where, so that it does not depend on ranks."""
    digest = hashlib.blake2b(f"{seed}/{rl_step}/{prompt_index}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def collect(
    prompts: Sequence[Prompt],
    group_size: int,
    engine: Engine,
    sampling: SamplingParams,
    tokenizer: PreTrainedTokenizerBase,
    verifier: Verifier,
    seed: int,
    rl_step: int,
) -> list[Rollout]:
    """Samples `group_size` responses to each prompt and verifies them. Each rank does its share of the responses and gets all of
    them, so all ranks must call this alike.

    Args:
        prompts: the P prompts of a step; the i-th makes group i, and its responses stay together.
        group_size: G >= 1.
        seed, rl_step: key the sampling together with prompt and sample.

    Returns:
        B = P * G rollouts, prompt after prompt. A response cut at the length limit has no end, so it is NO_ANSWER unverified.
    """
    return join(lambda: collect_share(prompts, group_size, engine, sampling, tokenizer, verifier, seed, rl_step), engine, verifier)


def join(work: Callable[[], list[Rollout]], engine: Engine, verifier: Verifier) -> list[Rollout]:
    """All ranks' rollouts on every rank; `work` gives this rank's, of `collect_share`."""
    with together():
        part = work()
    rollouts = gather_lists(part if rank() % engine.ranks_together == 0 else [])
    check_faults(rollouts, verifier)
    return rollouts


def collect_share(
    prompts: Sequence[Prompt],
    group_size: int,
    engine: Engine,
    sampling: SamplingParams,
    tokenizer: PreTrainedTokenizerBase,
    verifier: Verifier,
    seed: int,
    rl_step: int,
) -> list[Rollout]:
    """This rank's part of `collect`, without talking to the others; early responses are verified while others are generated."""
    asked = [(group, sample) for group in range(len(prompts)) for sample in range(group_size)]
    asked = asked[share(len(asked), engine.ranks_together)]
    requests = [
        Request(prompts[group].token_ids, sampling_seed(seed, rl_step, prompts[group].index, sample)) for group, sample in asked
    ]
    texts: dict[int, str] = {}
    verdicts: dict[int, Future[Verdict]] = {}

    def score(i: int, completion: Completion) -> None:
        texts[i] = str(tokenizer.decode(list(completion.token_ids), skip_special_tokens=True))
        if completion.finished:
            verdicts[i] = verifier.submit(texts[i], prompts[asked[i][0]].reference)

    rollouts = []
    for i, completion in enumerate(engine.generate(requests, sampling, score)):
        verdict = verdicts[i].result() if completion.finished else Verdict(Status.NO_ANSWER)
        group = asked[i][0]
        rollouts.append(Rollout(prompts[group], group, completion, texts[i], verdict))
    return rollouts


def check_faults(rollouts: Sequence[Rollout], verifier: Verifier) -> None:
    """Raises if the verifier failed on more than its `max_fault_share` of the rollouts: their rewards would be noise."""
    faults = sum(rollout.verdict.status in FAULTS for rollout in rollouts)
    if faults > verifier.max_fault_share * len(rollouts):
        raise ValueError(
            f"the verifier failed on {faults} of {len(rollouts)} responses (last: {verifier.last_fault()}); look at the problem "
            "set's answers, raise data.verifier.timeout, or data.verifier.max_fault_share if this is to be expected"
        )
