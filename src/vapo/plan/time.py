"""Estimated seconds of each phase of an RL step, from data sheet rates and assumed utilizations; on GPUs never measured."""

from dataclasses import dataclass

from transformers import PretrainedConfig


@dataclass(frozen=True)
class Machines:
    """Rates of one GPU after utilization, in bytes or FLOP per second."""

    gpus: int
    flops: float
    memory: float  # rate at which decoding reads weights, keys and values
    network: float  # rate of collectives over all ranks; infinite where there is one


@dataclass(frozen=True)
class Work:
    """The amount of work in one RL step."""

    rollouts: int
    prompt: float  # tokens, mean
    response: float  # tokens, mean
    longest_response: int  # tokens
    microbatch_tokens: int
    minibatches: int  # updates of each network in an epoch

    @property
    def tokens(self) -> float:
        return self.rollouts * (self.prompt + self.response)


def forward_flops(config: PretrainedConfig, parameters: int, tokens: float, length: float) -> float:
    """FLOP of a forward pass: 2 per parameter and token, and 2 * layers * width * length per token for causal attention."""
    return tokens * (2.0 * parameters + 2.0 * config.num_hidden_layers * config.hidden_size * length)


def pass_seconds(machines: Machines, flops: float, traffic: float) -> float:
    """Computation and FSDP's traffic overlap: the longer one counts."""
    return max(flops / machines.gpus / machines.flops, traffic / machines.network)


def annotate_seconds(machines: Machines, work: Work, config: PretrainedConfig, parameters: int, compute_bytes: int) -> float:
    """One forward pass over every token; each micro-batch gathers the weights once."""
    flops = forward_flops(config, parameters, work.tokens, work.prompt + work.response)
    micro_batches = max(1.0, work.tokens / work.microbatch_tokens / machines.gpus)
    return pass_seconds(machines, flops, micro_batches * parameters * compute_bytes)


def update_seconds(
    machines: Machines, work: Work, config: PretrainedConfig, parameters: int, compute_bytes: int, checkpointing: bool
) -> float:
    """Forward and backward over every token, as much work as 3 forwards, 4 with recomputed activations; each micro-batch gathers
    weights twice and sums float32 gradients once."""
    flops = (4 if checkpointing else 3) * forward_flops(config, parameters, work.tokens, work.prompt + work.response)
    micro_batches = max(float(work.minibatches), work.tokens / work.microbatch_tokens / machines.gpus)
    return pass_seconds(machines, flops, micro_batches * parameters * (2 * compute_bytes + 4))


def generate_seconds(
    machines: Machines, work: Work, parameters: int, weight_bytes: int, kv_token_bytes: float, at_once: float, engine_gpus: int
) -> float:
    """Decoding steps of one engine times seconds per step: the time to read weights and cache once, or the arithmetic.

    Args:
        at_once: responses one engine decodes together, on average.
        kv_token_bytes: bytes of one token's keys and values, over all of the engine's GPUs.
        engine_gpus: GPUs that share one engine.
    """
    responses = work.rollouts * engine_gpus / machines.gpus
    at_once = max(1.0, min(at_once, responses))

    def step(rows: float) -> float:
        read = parameters * weight_bytes + rows * (work.prompt + work.response / 2) * kv_token_bytes
        return max(read / machines.memory, 2.0 * parameters * rows / machines.flops) / engine_gpus

    alone = work.longest_response * step(1.0)  # the longest response takes at least this
    return max(work.response * responses / at_once * step(at_once), alone)


def host_seconds(work: Work, ns_per_token: float) -> float:
    """Everything between the GPUs' phases: every rank gathers, collates, credits and reports all response tokens on one core."""
    return work.rollouts * work.response * ns_per_token * 1e-9


def sync_seconds(machines: Machines, parameters: int, weight_bytes: int) -> float:
    """Weight sync: every engine gets the whole weights, gathered in its own dtype."""
    return parameters * weight_bytes / machines.network
