"""Verifies a weight sync: checksums of the tensors that were sent, a probe on which engine and trainer must agree, and, once at the
start, that the probe would notice: it has to follow when the head or a layer is perturbed.

What this proves: the first sync delivers every tensor that the probe depends on, and a later sync that leaves the engine several
times further from the trainer than rounding does is caught. What it does not: in bfloat16, rounding hides an engine that is one
small update behind (docs/scaling.md has the numbers).
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from vapo.distributed.sharding import device_of, layers_of
from vapo.micro_batches import micro_batches
from vapo.models.actor import Actor
from vapo.models.export import ADAPTER
from vapo.models.rounding import rounding_of
from vapo.rollout.collate import collate
from vapo.types import Completion, Prompt, Request, Rollout, SamplingParams, Status, Verdict

PROBE_LENGTH = 300  # tokens of the prompt: more than a block of the prefix cache (128 on CPU), to detect a stale cache
PROBE_RESPONSES, PROBE_TOKENS = 4, 24  # 96 tokens: no EOS ends them
PROBE_SAMPLING = SamplingParams(max_new_tokens=PROBE_TOKENS)
FLOORS = 4  # a gap above so many times the first one is not rounding
FACTOR = 0.25  # of perturbed weights: a flat distribution, a layer that does next to nothing


class WeightCheck:
    """The limit on the gap between one engine and the trainer. The dtypes of both count: a trainer that computes in bfloat16 is as
    far from a float32 engine as a bfloat16 engine is from it."""

    def __init__(self, dtype: torch.dtype, max_gap: float | None, who: str) -> None:
        """
        Args:
            dtype: the engine's.
            max_gap: nats; None takes what rounding explains, and of later gaps FLOORS times the first.
        """
        self.dtype, self.max_gap, self.who = dtype, max_gap, who
        self.floor: float | None = None  # nats; the first gap, which is rounding

    def noise(self, actor: Actor) -> float:
        """What rounding may explain after the first sync."""
        assert self.floor is not None
        return FLOORS * max(self.floor, rounding_of(self.dtype, actor.compute_dtype).floor)

    def check(self, gap: float, actor: Actor) -> None:
        """Raises ValueError if `gap` (nats) is not rounding. The first one that is becomes the noise floor of later ones."""
        limit = rounding_of(self.dtype, actor.compute_dtype).limit if self.floor is None else self.noise(actor)
        limit = limit if self.max_gap is None else self.max_gap
        if not gap <= limit:
            raise ValueError(
                f"{self.who}'s log-probabilities differ by {gap:.2g} nats from the actor's on a probe prompt although the weight "
                f"sync delivered every tensor: its prefix cache or a tied head is stale; set rollout=torch to run without it, or "
                f"rollout.engine.max_probe_gap above that if this is rounding (the limit was {limit:.2g})"
            )
        self.floor = gap if self.floor is None else self.floor

    def check_power(self, gap: float, actor: Actor, what: str) -> None:
        """Raises ValueError if the engine, sent a perturbed `what`, is no further from the trainer than by rounding."""
        if not gap > self.noise(actor):
            raise ValueError(
                f"{self.who} does not use {what} that it was sent: with those weights perturbed its log-probabilities moved by "
                f"only {gap:.2g} nats on a probe prompt; set rollout=torch to run without it"
            )


def perturbations(actor: Actor) -> dict[str, set[str]]:
    """Names of the weights to perturb, as `merged_weights` has them: of the head, with the embedding if they are tied, and of the
    matrices of a layer in the middle."""
    model = actor.language_model
    head, embedding, layers = model.get_output_embeddings(), model.get_input_embeddings(), layers_of(model)
    names = {id(module): f"{name}." for name, module in model.named_modules()}
    middle = names[id(layers[len(layers) // 2])]
    ends = (head, embedding) if head.weight is embedding.weight else (head,)
    matrices = [name.replace(".base_layer.", ".") for name, x in model.state_dict().items() if x.dim() > 1 and ADAPTER not in name]
    return {
        "the head": {f"{names[id(module)]}weight" for module in ends},
        "a layer": {name for name in matrices if name.startswith(middle)},
    }


def perturbed(weights: Iterator[tuple[str, Tensor]], names: set[str]) -> Iterator[tuple[str, Tensor]]:
    """The same entries, those of `names` scaled."""
    for name, tensor in weights:
        yield name, tensor * FACTOR if name in names else tensor


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


def probe_requests(actor: Actor, max_tokens: int) -> list[Request]:
    """A fixed prompt over the whole vocabulary, short enough for an engine of `max_tokens` prompt and response tokens."""
    vocabulary = actor.language_model.config.get_text_config().vocab_size
    prompt = tuple((7 * i * i + 3 * i) % vocabulary for i in range(min(PROBE_LENGTH, max_tokens - PROBE_TOKENS)))
    return [Request(prompt, seed) for seed in range(PROBE_RESPONSES)]


@torch.no_grad()
def probe_gap(actor: Actor, requests: Sequence[Request], completions: Sequence[Completion]) -> float:
    """Mean difference, in nats, between the engine's and the actor's log-probabilities of the completions' tokens, outside of the
    caller's autocast. The actor may be sharded: all ranks must call this together."""
    pairs = zip(requests, completions, strict=True)
    rollouts = [Rollout(Prompt(0, "", "", r.prompt_ids), 0, c, Verdict(Status.WRONG)) for r, c in pairs]
    device, was_training = device_of(actor), actor.training
    (micro,) = micro_batches(collate(rollouts), 10**9, device)
    with torch.autocast(device.type, enabled=False):
        logprob_R = actor.eval()(micro)[0]
    actor.train(was_training)
    return float((logprob_R.cpu() - micro.part.sampler_logprob_R).abs().mean())
