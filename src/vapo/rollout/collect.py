"""Group sampling (technique 7): ask each prompt G times, number the groups, verify."""

import hashlib
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from vapo.rollout.engine import Engine
from vapo.types import Prompt, Request, Rollout, SamplingParams, Status, Verdict
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
    """Samples `group_size` responses to each prompt and verifies them.

    Args:
        prompts: the P prompts of a step; the i-th makes group i, and its responses stay together.
        group_size: G >= 1.
        seed, rl_step: key the sampling together with prompt and sample.

    Returns:
        B = P * G rollouts, prompt after prompt. A response cut at the length limit has no end, so it is NO_ANSWER unverified.
    """
    requests = [
        Request(prompt.token_ids, sampling_seed(seed, rl_step, prompt.index, sample))
        for prompt in prompts
        for sample in range(group_size)
    ]
    rollouts = []
    for i, completion in enumerate(engine.generate(requests, sampling)):
        prompt = prompts[i // group_size]
        text = str(tokenizer.decode(list(completion.token_ids), skip_special_tokens=True))
        verdict = verifier(text, prompt.reference) if completion.finished else Verdict(Status.NO_ANSWER)
        rollouts.append(Rollout(prompt, i // group_size, completion, text, verdict))
    return rollouts
