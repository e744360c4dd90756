"""A plan as text and tables."""

from typing import Any

from omegaconf import DictConfig

ASSUMED = (
    "reserved_gib",
    "fragmentation",
    "utilization",
    "bandwidth_utilization",
    "network_utilization",
    "response_share",
    "prompt_tokens",
    "host_ns_per_token",
)


def text(config: DictConfig, found: dict[str, Any]) -> str:
    """Renders a plan as Markdown."""
    table, cluster = found["gpu_gib"], config.cluster
    parts = list(next(iter(table.values())))
    limit = cluster.gpu_types[cluster.gpu].memory_gib
    lines = [
        f"# Plan: {cluster.gpus} {cluster.gpu}, {config.model.path.rstrip('/').split('/')[-1]}",
        "",
        f"**{found['verdict']}**",
        "",
        *(f"- remedy, on top of those before it: {remedy}" for remedy in found["remedies"]),
        "",
        f"GiB on each GPU at the peak of each phase; it has {limit}. Counted on the training code with trainer=fsdp, whatever "
        "trainer says; engine, reserve and fragmentation are arithmetic.",
        "",
        "| phase | " + " | ".join(parts) + " |",
        "|---" * (len(parts) + 1) + "|",
        *(f"| {phase} | " + " | ".join(f"{row[part]:.1f}" for part in parts) + " |" for phase, row in table.items()),
        "",
        "GiB in the CPU's memory for the rollouts of a step (the mean length is assumed); every rank holds all of them:",
        "",
        "| what | per rank | per node |",
        "|---|---|---|",
    ]
    ranks = min(cluster.gpus, cluster.gpus_per_node)
    host = found["host_gib_per_rank"] | {"total": sum(found["host_gib_per_rank"].values())}
    lines += [f"| {name} | {size:.1f} | {size * ranks:.1f} |" for name, size in host.items()]
    remedied = ", with the remedies above" if found["remedies"] else ""
    where = "" if "generate" in found["seconds_per_step"] else ", without the generation servers', which have GPUs of their own,"
    lines += [
        "",
        f"Estimated seconds of one RL step{where}{remedied}, from data sheets and assumed utilizations, not measured:",
        "",
    ]
    lines += ["| phase | seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds:.0f} |" for name, seconds in found["seconds_per_step"].items()]
    lines += [
        f"| total | {sum(found['seconds_per_step'].values()):.0f} |",
        "",
        f"{found['policy_steps']} policy steps after {found['value_pretraining_steps']} of value pretraining: about "
        f"{found['hours']:.0f} hours, {found['gpu_hours']:.0f} GPU-hours (estimated).",
        "",
        "Assumed: " + ", ".join(f"cluster.{name}={cluster[name]}" for name in ASSUMED) + ".",
        "",
        f"Command `{' '.join(['python', *found['command']])}`, commit {found['commit']}, torch {found['versions']['torch']}.",
    ]
    return "\n".join(lines) + "\n"
