"""Verifies a weight sync: checksums of the tensors the engine received, and a probe on which engine and trainer must agree."""

from collections.abc import Mapping

import torch

from vapo.distributed.sharding import device_of
from vapo.models.actor import Actor
from vapo.rollout.collate import collate, micro_batches
from vapo.types import Completion, Prompt, Request, Rollout, SamplingParams, Status, Verdict

PROBE_LENGTH, PROBE_TOKENS = 300, 4  # longer than a block of the prefix cache (128 tokens on CPU), to detect a stale cache
PROBE_SAMPLING = SamplingParams(max_new_tokens=PROBE_TOKENS)
MAX_PROBE_GAP = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}  # nats; measured: 2e-5 in float32, 0.09 in bfloat16


def check_received(expected: Mapping[str, int], received: Mapping[str, int], who: str) -> None:
    """Compares checksums by tensor.

    Raises:
        ValueError: some differ or are missing; the message names them.
    """
    stale = sorted(name for name in expected.keys() | received.keys() if expected.get(name) != received.get(name))
    if stale:
        raise ValueError(
            f"{who} has other weights than the actor: {len(stale)} of {len(expected)} tensors are stale or missing, "
            f"{', '.join(stale[:3])}{' …' if len(stale) > 3 else ''}; the weight sync failed, set rollout=torch to run without it"
        )


def probe_request(actor: Actor, max_tokens: int) -> Request:
    """A fixed prompt over the whole vocabulary, short enough for an engine of `max_tokens` prompt and response tokens."""
    vocabulary = actor.language_model.config.get_text_config().vocab_size
    return Request(tuple((7 * i * i + 3 * i) % vocabulary for i in range(min(PROBE_LENGTH, max_tokens - PROBE_TOKENS))), seed=0)


@torch.no_grad()
def probe_gap(actor: Actor, request: Request, completion: Completion) -> float:
    """Largest difference, in nats, between the engine's and the actor's log-probabilities of the completion's tokens. The actor may
    be sharded: all ranks must call this together."""
    rollout = Rollout(Prompt(0, "", "", request.prompt_ids), 0, completion, "", Verdict(Status.WRONG))
    (micro,) = micro_batches(collate([rollout]), 1, device_of(actor))
    was_training = actor.training
    logprob_R = actor.eval()(micro)[0]
    actor.train(was_training)
    return float((logprob_R.cpu() - torch.tensor(completion.logprobs)).abs().max())


def check_gap(gap: float, limit: float, who: str) -> None:
    """Raises ValueError if `gap` (nats) is above `limit`, or not a number."""
    if not gap <= limit:
        raise ValueError(
            f"{who}'s log-probabilities differ by {gap:.2g} nats from the actor's on a probe prompt although the weight sync "
            f"delivered every tensor: its prefix cache or a tied head is stale; set rollout=torch to run without it, or raise "
            f"rollout.engine.max_probe_gap (now {limit:g}) if this is rounding"
        )
