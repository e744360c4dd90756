"""Plans a run from a configuration and a cluster: memory per phase, whether it fits, remedies, and time."""

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.markdown import Markdown
from transformers import PretrainedConfig

from vapo.plan.sizes import (
    BYTES,
    Setting,
    cache_bytes,
    cache_parts,
    check_cluster,
    engine_bytes,
    host_bytes_per_rank,
    kv_token_bytes,
    longest,
    model_config,
    responses_at_once,
    served,
    with_known_dimensions,
)
from vapo.plan.step import StepMemory, fake_ranks, step_memory
from vapo.plan.text import text
from vapo.plan.time import Machines, Work, annotate_seconds, generate_seconds, host_seconds, sync_seconds, update_seconds
from vapo.run.record import provenance
from vapo.run.settings import check_algorithm
from vapo.run.training import quiet_libraries
from vapo.run.value_types import check_types

GIB = 2**30
PARTS = ("weights", "optimizer", "gradients", "temporary", "engine weights", "KV cache", "reserved")


def plan(config: DictConfig) -> dict[str, object]:
    """Prints the plan and writes `plan.json` and `plan.md` into the run's folder.

    Raises:
        ValueError: a setting is wrong; the message says what to set.
    """
    quiet_libraries()
    check_cluster(config.cluster)
    check_algorithm(config.algorithm)
    check_types(config, "rollout")
    config = with_known_dimensions(config)
    model, memory = model_config(config.model.path), count(config)
    now = Setting.of(config)
    table = gpu_table(config, model, memory, now)
    verdict, tried = judge(config, model, memory, now, table)
    remedied, setting = (tried[-1].config, tried[-1].setting) if tried else (config, now)
    seconds = step_seconds(remedied, setting, model, memory)
    host = host_bytes_per_rank(config, instantiate(config.algorithm))
    if setting.cpu_offload or config.module.offload:
        host["weights, gradients, optimizer (offloaded)"] = sum(memory.persistent("actor_optimizer").values())
    if setting.sleeps and config.rollout.engine.get("sleep_level", 1) == 1:  # vLLM keeps them there while networks train
        host["engine weights (asleep)"] = engine_bytes(config, model, memory.parameters["actor"], setting)[0]
    found: dict[str, object] = {
        "verdict": verdict,
        "remedies": [f"{remedy.name}: {remedy.gib:.1f} GiB" for remedy in tried],
        "gpu_gib": {phase: {part: size / GIB for part, size in row.items()} for phase, row in table.items()},
        "host_gib_per_rank": {name: size / GIB for name, size in host.items()},
        "seconds_per_step": seconds,
        **run_hours(config, seconds),
        "cluster": {name: value for name, value in config.cluster.items() if name != "gpu_types"} | dict(rates(config)),
        **provenance(config.paths.root),
    }
    written = text(config, found)
    folder = Path(config.paths.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(found, indent=2))
    (folder / "plan.md").write_text(written)
    Console(width=130).print(Markdown(written))
    print(f"{verdict}\nwritten to {folder}/plan.md")
    return found


def count(config: DictConfig) -> StepMemory:
    """The training step's memory per rank, on fake tensors."""
    settings = config.module.copy()
    settings._set_parent(config)
    with open_dict(settings):
        settings.sharding.cpu_offload = False  # counted as if on the GPU; `gpu_table` takes offloaded memory out
    warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # torchmetrics copies its states
    with fake_ranks(config.cluster.gpus):
        return step_memory(settings, longest(config), fake=True)


def rates(config: DictConfig) -> DictConfig:
    chosen: DictConfig = config.cluster.gpu_types[config.cluster.gpu]
    return chosen


def gpu_table(config: DictConfig, model: PretrainedConfig, memory: StepMemory, setting: Setting) -> dict[str, dict[str, float]]:
    """Bytes on each GPU at the peak of every phase, by part, with their `total`."""
    weights, cache = engine_bytes(config, model, memory.parameters["actor"], setting)
    stays = setting.kv_cache_mib is not None and not setting.sleeps  # the torch engine has a cache only while it generates
    table = {}
    for phase in ("generate", *memory.peak):
        persistent = memory.persistent(phase, config.module.offload)
        temporary = 0 if phase == "generate" else memory.temporary(phase)
        if setting.cpu_offload:
            persistent = dict.fromkeys(persistent, 0)
            temporary = 0 if phase.endswith("optimizer") else temporary  # the optimizer runs on the CPU
        row: dict[str, float] = {
            **persistent,
            "temporary": temporary * (1 + config.cluster.fragmentation),
            "engine weights": weights if phase == "generate" or not setting.sleeps else 0,
            "KV cache": cache if stays or phase == "generate" else 0,
            "reserved": config.cluster.reserved_gib * GIB,
        }
        table[phase] = row | {"total": sum(row.values())}
    return table


@dataclass(frozen=True)
class Remedy:
    """A change of settings on top of the earlier ones, and the highest peak with it."""

    name: str
    gib: float
    setting: Setting
    config: DictConfig


def judge(
    config: DictConfig, model: PretrainedConfig, memory: StepMemory, now: Setting, table: dict[str, dict[str, float]]
) -> tuple[str, list[Remedy]]:
    """`fits` or `does not fit`, with the reason, and the remedies."""
    limit = rates(config).memory_gib
    need, phase, part = peak_of(table)
    where = f"{need:.1f} GiB in {phase} of {limit:.1f} GiB per {config.cluster.gpu}"
    one = cache_bytes(config, model, now, 1) / 2**20
    if need <= limit and (now.kv_cache_mib is None or one <= now.kv_cache_mib):
        return f"fits: at most {where}", []
    if need <= limit:
        short = f"rollout.engine.kv_cache_mib is below one longest response: set it to {int(one) + 1} or more"
        return f"does not fit: {short}", []
    return f"does not fit: {where}, most of it {part}", list(effects(config, model, memory, now, limit))


def peak_of(table: dict[str, dict[str, float]]) -> tuple[float, str, str]:
    """GiB of the highest phase, its name, and its largest part."""
    phase = max(table, key=lambda name: table[name]["total"])
    return table[phase]["total"] / GIB, phase, max(PARTS, key=lambda part: table[phase][part])


def effects(config: DictConfig, model: PretrainedConfig, memory: StepMemory, now: Setting, limit: float) -> Iterator[Remedy]:
    """Yields remedies until the run fits. Remedies for the engine and offload are arithmetic; the others count the step again."""

    def tried(name: str, setting: Setting) -> Remedy:
        return Remedy(name, peak_of(gpu_table(config, model, memory, setting))[0], setting, config)

    def engine(tensor_parallel: int) -> Setting:
        """vLLM in bfloat16 with sleep, and the remaining memory as cache: enough for one response, and not more than for all."""
        setting = Setting(now.cpu_offload, "bfloat16", tensor_parallel, 0, sleeps=True)
        spare = limit * GIB - gpu_table(config, model, memory, setting)["generate"]["total"]
        wanted = min(int(spare), cache_bytes(config, model, setting, responses_at_once(config, setting)))
        return replace(setting, kv_cache_mib=max(wanted, cache_bytes(config, model, setting, 1)) // 2**20)

    common = math.gcd(config.cluster.gpus, model.num_attention_heads)  # vLLM shares whole heads
    shared = max(now.tensor_parallel, *(n for n in range(1, config.cluster.gpus_per_node + 1) if common % n == 0))
    if served(config):
        best, last = now, tried("", now)
    else:
        best = engine(now.tensor_parallel)
        keys = "rollout=vllm rollout.engine.dtype=bfloat16 rollout.engine.sleep_level=1"
        yield (last := tried(f"{keys} rollout.engine.kv_cache_mib={best.kv_cache_mib}", best))
    if last.gib > limit and shared > now.tensor_parallel and not served(config):
        best = engine(shared)
        keys = f"rollout.engine.tensor_parallel={shared} rollout.engine.kv_cache_mib={best.kv_cache_mib}"
        yield (last := tried(keys, best))
    if last.gib > limit and not config.model.activation_checkpointing and config.remedies:
        config = config.copy()
        config.model.activation_checkpointing = True
        memory = count(config)
        yield (last := tried("model.activation_checkpointing=true", best))
    if last.gib > limit and not best.cpu_offload and not config.module.offload:
        best = replace(best, cpu_offload=True)
        yield (last := tried("module.sharding.cpu_offload=true (more CPU memory, slow optimizer steps)", best))
    if last.gib > limit and config.module.microbatch_tokens > longest(config) and config.remedies:
        tokens, config = max(config.module.microbatch_tokens // 4, longest(config)), config.copy()
        config.module.microbatch_tokens = tokens
        memory = count(config)
        yield tried(f"module.microbatch_tokens={tokens}", best)


def step_seconds(config: DictConfig, now: Setting, model: PretrainedConfig, memory: StepMemory) -> dict[str, float]:
    """Estimates for each phase of an RL step in which both networks train, without generation where servers do it."""
    cluster, rate, compute = config.cluster, rates(config), BYTES[config.module.sharding.compute_dtype]
    wire = rate.node_gb_s if cluster.gpus <= cluster.gpus_per_node else rate.network_gb_s
    machines = Machines(
        cluster.gpus,
        rate.tflops * 1e12 * cluster.utilization,
        rate.memory_gb_s * 1e9 * cluster.bandwidth_utilization,
        wire * 1e9 * cluster.network_utilization if cluster.gpus > 1 else math.inf,
    )
    limit, rollouts = config.rollout.sampling.max_new_tokens, config.data.rollouts_per_step
    mean = limit * cluster.response_share
    updates = round(rollouts / config.module.minibatch_rollouts)
    work = Work(rollouts, cluster.prompt_tokens, mean, limit, config.module.microbatch_tokens, updates)
    actor, kv = memory.parameters["actor"], kv_token_bytes(model, BYTES[now.dtype])
    cache = engine_bytes(config, model, actor, now)[1] * cache_parts(model, now)
    at_once = min(responses_at_once(config, now), cache / kv / (cluster.prompt_tokens + mean / 2))
    seconds = {
        "generate": generate_seconds(machines, work, actor, BYTES[now.dtype], kv, at_once, now.tensor_parallel),
        "weight sync": sync_seconds(machines, actor, BYTES[now.dtype]),
        "host": host_seconds(work, cluster.host_ns_per_token),
    }
    if served(config):
        del seconds["generate"]
    for name, parameters in memory.parameters.items():
        seconds[f"annotate {name}"] = annotate_seconds(machines, work, model, parameters, compute)
    for name in memory.gradients:
        checkpointing = config.model.activation_checkpointing
        once = update_seconds(machines, work, model, memory.parameters[name], compute, checkpointing)
        seconds[f"update {name}"] = config.module.epochs * once
    return seconds


def run_hours(config: DictConfig, seconds: dict[str, float]) -> dict[str, float]:
    """Hours of the whole run. A step of value pretraining has only generation, the host's work and the critic's phases."""
    policy_steps, pretraining = config.module.policy_steps, config.algorithm.get("value_pretraining_steps", 0)
    step = sum(seconds.values())
    more = config.module.value_pretraining_epochs / config.module.epochs
    frozen = sum(seconds.get(name, 0.0) for name in ("generate", "host", "annotate critic"))
    frozen += seconds.get("update critic", 0.0) * more
    hours = (policy_steps * step + pretraining * frozen) / 3600
    return {
        "policy_steps": policy_steps,
        "value_pretraining_steps": pretraining,
        "hours": hours,
        "gpu_hours": hours * config.cluster.gpus,
    }
