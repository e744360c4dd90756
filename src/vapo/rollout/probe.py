"""Does an engine with weights of its own sample from the policy that trains? Asked after every hand-over."""

import torch

from vapo.models.actor import Actor
from vapo.rollout.collate import collate, micro_batches
from vapo.rollout.engine import Engine
from vapo.types import Prompt, Request, Rollout, SamplingParams, Status, Verdict

PROBE_LENGTH, PROBE_TOKENS = 300, 4  # longer than a block of vLLM's prefix cache (128 tokens on CPU), so that a stale cache shows


@torch.no_grad()
def probe_gap(engine: Engine, actor: Actor, max_tokens: int) -> float:
    """Largest difference, in nats, between the engine's and the actor's log-probabilities on the continuation of a fixed prompt.

    Args:
        actor: may be sharded; all ranks ask together.
        max_tokens: longest prompt and response that the engine takes.
    """
    vocabulary = actor.language_model.config.get_text_config().vocab_size
    prompt_ids = tuple((7 * i * i + 3 * i) % vocabulary for i in range(min(PROBE_LENGTH, max_tokens - PROBE_TOKENS)))
    (completion,) = engine.generate([Request(prompt_ids, seed=0)], SamplingParams(max_new_tokens=PROBE_TOKENS))
    rollout = Rollout(Prompt(0, "", "", prompt_ids), 0, completion, "", Verdict(Status.WRONG))
    (micro,) = micro_batches(collate([rollout]), max_tokens, actor.language_model.device)
    was_training = actor.training
    logprob_R = actor.eval()(micro)[0]
    actor.train(was_training)
    return float((logprob_R.cpu() - torch.tensor(completion.logprobs)).abs().max())


def check_received(received: dict[str, int], expected: dict[str, int]) -> None:
    """Raises if an engine got other tensors than the actor has.

    Args:
        received, expected: checksum of each tensor by name.
    """
    stale = sorted(name for name in expected.keys() | received.keys() if expected.get(name) != received.get(name))
    if stale:
        raise ValueError(
            f"vLLM has other weights than the actor: {len(stale)} of {len(expected)} tensors are stale or missing, "
            f"{', '.join(stale[:3])}{' …' if len(stale) > 3 else ''}; the hand-over is at fault, set rollout=torch to go on"
        )


def check_gap(gap: float, bound: float) -> None:
    """Raises if a `probe_gap` is beyond `bound` nats."""
    if not gap <= bound:
        raise ValueError(
            f"vLLM's log-probabilities differ by {gap:.2g} nats from the actor's on a probe prompt although every tensor was "
            f"received: its prefix cache or a tied head is stale; set rollout=torch to go on, or raise "
            f"rollout.engine.max_probe_gap (now {bound:g}) if this is rounding"
        )
