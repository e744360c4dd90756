"""Inputs of a plan in addition to the training step: cluster, model dimensions, rollout engine, batch in CPU memory."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, open_dict
from transformers import AutoConfig, PretrainedConfig

from vapo.algorithms import PolicyGradient
from vapo.models.loading import SIZES
from vapo.plan.live_memory import LiveMemory
from vapo.plan.step import full_batch

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# bytes per response token in the arrays of all `Rollout`s: the token and its log-probability
ROLLOUT_TOKEN_BYTES = 4 + 4
# bytes per response token in a `Batch`: the token, sampler's and actor's log-probability, and value; then advantage and target
ANNOTATED_TOKEN_BYTES, CREDIT_TOKEN_BYTES = 4 + 3 * 4, 2 * 4


def check_cluster(cluster: DictConfig) -> None:
    """Raises ValueError if the GPU type is unknown or a number of GPUs is below 1."""
    if cluster.gpu not in cluster.gpu_types:
        raise ValueError(
            f"cluster.gpu is {cluster.gpu}; set it to one of {', '.join(cluster.gpu_types)}, or describe it: "
            f"'+cluster.gpu_types.{cluster.gpu}={{memory_gib: …, tflops: …, memory_gb_s: …, node_gb_s: …, network_gb_s: …}}'"
        )
    for name in ("gpus", "gpus_per_node"):
        if cluster[name] < 1:
            raise ValueError(f"cluster.{name} is {cluster[name]}; set it to 1 or more")


def with_known_dimensions(config: DictConfig) -> DictConfig:
    """Replaces hub names by folders of `assets/sizes`; a critic that starts from a reward model has the shape of its backbone."""
    config = config.copy()
    with open_dict(config):
        for owner in (config.model, config.model.critic):
            owner.path = dimensions(owner.path)
    return config


def dimensions(path: str) -> str:
    """A folder with the model's config.json.

    Raises:
        ValueError: it is neither a folder nor a model whose dimensions we ship.
    """
    if (Path(path) / "config.json").exists():
        return path
    name = path.split("/")[-1].lower().replace(".", "_").replace("-", "_")
    if not (SIZES / name / "config.json").exists():
        known = ", ".join(sorted(folder.name for folder in SIZES.iterdir()))
        raise ValueError(f"no dimensions of {path}: set model.path to a folder with its config.json, or to one of {known}")
    return str(SIZES / name)


def kv_token_bytes(config: PretrainedConfig, element_bytes: int) -> int:
    """Bytes of one token's keys and values in all layers."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * kv_heads(config) * head * element_bytes


def kv_heads(config: PretrainedConfig) -> int:
    return getattr(config, "num_key_value_heads", None) or int(config.num_attention_heads)


@dataclass(frozen=True)
class Setting:
    """The settings that a remedy can change without recounting the training step."""

    cpu_offload: bool
    dtype: str  # dtype of the engine
    tensor_parallel: int  # GPUs that share one engine
    kv_cache_mib: int | None  # per GPU; None for an engine that allocates what its responses need
    sleeps: bool  # the engine frees its memory while networks train

    @classmethod
    def of(cls, config: DictConfig) -> "Setting":
        engine = config.rollout.engine
        dtype, gpus, sleeps = (
            engine.get("dtype", config.model.dtype),
            engine.get("tensor_parallel", 1),
            engine.get("sleep_level", 0) > 0,
        )
        heads = model_config(config.model.path).num_attention_heads
        for name, number in (("cluster.gpus", config.cluster.gpus), ("the model's attention heads", heads)):
            if number % gpus != 0:
                raise ValueError(f"rollout.engine.tensor_parallel is {gpus} and does not divide {name}, {number}")
        return cls(config.module.sharding.cpu_offload, dtype, gpus, engine.get("kv_cache_mib"), sleeps)


def cache_bytes(config: DictConfig, model: PretrainedConfig, setting: Setting, responses: int) -> int:
    """Bytes of the KV cache for `responses` responses of maximum length, on each GPU of one engine."""
    return responses * longest(config) * kv_token_bytes(model, BYTES[setting.dtype]) // cache_parts(model, setting)


def cache_parts(model: PretrainedConfig, setting: Setting) -> int:
    """GPUs that share one cache: with fewer heads of keys and values than GPUs, vLLM repeats the heads."""
    return min(setting.tensor_parallel, kv_heads(model))


def responses_at_once(config: DictConfig, setting: Setting) -> int:
    """Maximum responses that one engine decodes at once, if its cache can hold them."""
    return min(config.rollout.engine.max_batch, -(-config.data.rollouts_per_step * setting.tensor_parallel // config.cluster.gpus))


def engine_bytes(config: DictConfig, model: PretrainedConfig, parameters: int, setting: Setting) -> tuple[int, int]:
    """Bytes of the rollout engine's weights and cache on each GPU while it generates; none where servers do."""
    if served(config):
        return 0, 0
    if setting.kv_cache_mib is not None:
        cache = setting.kv_cache_mib * 2**20
    else:
        cache = cache_bytes(config, model, setting, responses_at_once(config, setting))
    return parameters * BYTES[setting.dtype] // setting.tensor_parallel, cache


def served(config: DictConfig) -> bool:
    """Whether servers on other GPUs generate."""
    return "urls" in config.rollout.engine


def longest(config: DictConfig) -> int:
    """Tokens of the longest prompt and response together."""
    prompt = config.data.source.get("max_prompt_tokens") or config.cluster.prompt_tokens
    return int(prompt + config.rollout.sampling.max_new_tokens)


def credit_token_bytes(algorithm: PolicyGradient) -> float:
    """Peak bytes per response token that `credit` adds, results included. Counted on a small batch, because it is linear."""
    memory = LiveMemory()
    with memory:
        batch = full_batch(2**20, 2**8, 1)
        before = memory.bytes
        with memory.phase("credit"):
            algorithm.credit(batch)
    return (memory.peak["credit"] - before) / len(batch.sampler_logprob_R)


def host_bytes_per_rank(config: DictConfig, algorithm: PolicyGradient) -> dict[str, float]:
    """CPU memory per rank: every rank holds all rollouts of a step (`vapo.distributed.ranks`)."""
    limit, rollouts = config.rollout.sampling.max_new_tokens, config.data.rollouts_per_step
    tokens = rollouts * limit * config.cluster.response_share
    return {
        "rollouts": tokens * ROLLOUT_TOKEN_BYTES,
        "batch": tokens * (ANNOTATED_TOKEN_BYTES + CREDIT_TOKEN_BYTES),
        "temporary, in credit": tokens * max(0.0, credit_token_bytes(algorithm) - CREDIT_TOKEN_BYTES),
    }


def model_config(path: str) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(path)
    return config
