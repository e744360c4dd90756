"""What a plan needs beside the training step: the machines, the model's dimensions, the engine, the batch in the CPU's memory."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, open_dict
from transformers import AutoConfig, PretrainedConfig

from vapo.algorithms import PolicyGradient
from vapo.models.loading import SIZES
from vapo.plan.live_memory import LiveMemory
from vapo.plan.step import full_batch

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# of one response token in a `Rollout`: an int and a float of Python, and a pointer to each
ROLLOUT_TOKEN_BYTES = 32 + 24 + 2 * 8
# in a `Batch`: the token, and sampler's and actor's log-probability, value, advantage and target
BATCH_TOKEN_BYTES = 8 + 5 * 4


def check_cluster(cluster: DictConfig) -> None:
    """Raises if there are no such machines."""
    if cluster.gpu not in cluster.gpu_types:
        raise ValueError(
            f"cluster.gpu is {cluster.gpu}; set it to one of {', '.join(cluster.gpu_types)}, or describe it: "
            f"'+cluster.gpu_types.{cluster.gpu}={{memory_gib: …, tflops: …, memory_gb_s: …, node_gb_s: …, network_gb_s: …}}'"
        )
    for name in ("gpus", "gpus_per_node"):
        if cluster[name] < 1:
            raise ValueError(f"cluster.{name} is {cluster[name]}; set it to 1 or more")


def with_known_dimensions(config: DictConfig) -> DictConfig:
    """Hub names become folders of `assets/sizes`; a critic that starts from a reward model has the shape of its backbone."""
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
    """Keys and values of one token in all layers."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * element_bytes


@dataclass(frozen=True)
class Setting:
    """What of a configuration remedies change without counting the training step anew."""

    cpu_offload: bool
    dtype: str  # of the engine
    tensor_parallel: int  # GPUs that share one engine
    kv_cache_mib: int | None  # per GPU; None for an engine that takes what its responses need
    sleeps: bool  # the engine frees its memory while networks train

    @classmethod
    def of(cls, config: DictConfig) -> "Setting":
        engine = config.rollout.engine
        dtype, gpus, sleeps = (
            engine.get("dtype", config.model.dtype),
            engine.get("tensor_parallel", 1),
            engine.get("sleep_level", 0) > 0,
        )
        if config.cluster.gpus % gpus != 0:
            raise ValueError(f"rollout.engine.tensor_parallel is {gpus} and does not divide cluster.gpus {config.cluster.gpus}")
        return cls(config.module.sharding.cpu_offload, dtype, gpus, engine.get("kv_cache_mib"), sleeps)


def cache_bytes(config: DictConfig, model: PretrainedConfig, setting: Setting, responses: int) -> int:
    """Keys and values of so many longest responses of one engine, on each of its GPUs."""
    return responses * longest(config) * kv_token_bytes(model, BYTES[setting.dtype]) // setting.tensor_parallel


def responses_at_once(config: DictConfig, setting: Setting) -> int:
    """Most that one engine decodes together, if its cache holds them."""
    return min(config.rollout.engine.max_batch, -(-config.data.rollouts_per_step * setting.tensor_parallel // config.cluster.gpus))


def engine_bytes(config: DictConfig, model: PretrainedConfig, parameters: int, setting: Setting) -> tuple[int, int]:
    """Weights and cache of the rollout engine on each GPU while it generates."""
    if setting.kv_cache_mib is not None:
        cache = setting.kv_cache_mib * 2**20
    else:
        cache = cache_bytes(config, model, setting, responses_at_once(config, setting))
    return parameters * BYTES[setting.dtype] // setting.tensor_parallel, cache


def longest(config: DictConfig) -> int:
    """Tokens of the longest prompt and response together."""
    prompt = config.data.source.get("max_prompt_tokens") or config.cluster.prompt_tokens
    return int(prompt + config.rollout.sampling.max_new_tokens)


def credit_slot_bytes(algorithm: PolicyGradient) -> float:
    """Most bytes per padded response token while advantages are computed: counted on a small batch, it is linear."""
    batch = full_batch(4096, 64, 1)
    memory = LiveMemory()
    with memory, memory.phase("credit"):
        algorithm.credit(batch)
    return memory.peak["credit"] / batch.mask_BT.numel()


def host_bytes_per_rank(config: DictConfig, algorithm: PolicyGradient) -> dict[str, float]:
    """Every rank holds all rollouts of a step (`vapo.distributed.ranks`)."""
    limit, rollouts = config.rollout.sampling.max_new_tokens, config.data.rollouts_per_step
    tokens = rollouts * limit * config.cluster.response_share
    return {
        "rollouts as Python objects": tokens * ROLLOUT_TOKEN_BYTES,
        "batch, flat": tokens * BATCH_TOKEN_BYTES,
        "credit, padded to the longest": rollouts * limit * credit_slot_bytes(algorithm),
    }


def model_config(path: str) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(path)
    return config
