"""Checks of a run's settings in the first seconds, before the slow imports, and the run's first line."""

import logging
from contextlib import suppress
from dataclasses import fields

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from vapo.run.launching import is_first_rank
from vapo.run.value_types import check_ranges, check_types

log = logging.getLogger(__name__)
SHOWN = ("experiment", "scale", "ablation", "debug", "data", "rollout", "trainer")  # groups in a run's first line


def check_training(config: DictConfig) -> None:
    """Raises ValueError if rollouts cannot be sampled or grouped as the settings say, or there is no GPU where they want one; warns
    of a run that would do nothing. Imports torch, but none of the other libraries."""
    from vapo.rollout.checks import check_counts, check_groups, check_minibatches, check_sampling

    check_device("trainer.accelerator", config.trainer.get("accelerator"), "trainer=cpu")
    if config.resume is not None:
        return  # its settings are the saved ones, which `train` checks
    check_combinations(config)
    check_ranges(config)
    for part in ("algorithm", "rollout.sampling"):
        check_types(config, part)
    check_sampling(instantiate(config.rollout.sampling), instantiate(config.algorithm), config.rollout.prefetch)
    evaluation = OmegaConf.select(config, "callbacks.aime_evaluation.sampling")
    if evaluation is not None and "_target_" in evaluation:
        check_types(config, "callbacks.aime_evaluation.sampling")
        instantiate(evaluation)
    sizes = (config.data.rollouts_per_step, config.data.group_size, config.module.minibatch_rollouts, config.module.policy_steps)
    if all(type(size) is int for size in sizes):  # others `check_types` will name
        check_counts(config.module, ("minibatch_rollouts",))
        check_groups(config.data.rollouts_per_step, config.data.group_size)
        data, module = config.data, config.module
        check_minibatches(module.minibatch_rollouts, data.rollouts_per_step, data.group_size, module.keep_groups)
        with suppress(TypeError):  # the same
            warn_of_unused(config)


def check_evaluation(config: DictConfig) -> None:
    """Raises ValueError if an evaluation's sampling is impossible, or there is no GPU where it wants one. Imports only torch."""
    from vapo.types import SamplingParams

    check_device("device", config.device, "device=cpu")
    SamplingParams(**{name: value for name, value in config.sampling.items() if value is not None})


def check_combinations(config: DictConfig) -> None:
    """Raises ValueError if settings do not go together."""
    check_algorithm(config.algorithm)
    check_dtype(config.model)
    check_offload(config.module)


def check_algorithm(algorithm: DictConfig) -> None:
    """Raises if a switch is set that the algorithm does not have, as an ablation of VAPO's critic does to GRPO."""
    family = get_class(algorithm._target_)
    unknown = sorted(str(name) for name in algorithm if name != "_target_" and name not in {f.name for f in fields(family)})
    if unknown:
        raise ValueError(
            f"algorithm.{', algorithm.'.join(unknown)} has no meaning for {family.__name__}: choose an experiment that has it, "
            "such as vapo_full, or another ablation"
        )


def check_dtype(model: DictConfig) -> None:
    """Raises ValueError if weights would train in bfloat16."""
    if model.dtype != "float32" and model.lora.rank is None:
        raise ValueError(
            f"model.dtype is {model.dtype}, which rounds AdamW's small steps away: set it to float32 (trainer.precision=bf16-mixed "
            "is as fast), or set model.lora.rank, whose adapters are float32"
        )


def check_offload(module: DictConfig) -> None:
    """Raises ValueError if weights would be kept on the CPU in two ways."""
    if module.offload is True and module.sharding.cpu_offload is True:
        raise ValueError(
            "module.offload=true moves a network to its GPU as a whole, and module.sharding.cpu_offload=true keeps it on the CPU: "
            "set one of them to false"
        )


def check_device(key: str, device: str | None, remedy: str) -> None:
    """Raises ValueError if `device` is a GPU and torch sees none."""
    import torch

    if str(device).startswith(("gpu", "cuda")) and not torch.cuda.is_available():
        raise ValueError(f"{key} is {device}, but torch sees no GPU here: set {remedy}, or install torch for this machine's GPU")


def warn_of_unused(config: DictConfig) -> None:
    """Warns if nothing does value pretraining, or the run ends before its networks train, or before they train at their rate."""
    pretraining = OmegaConf.select(config, "callbacks.value_pretraining.steps") or 0
    asked = config.algorithm.get("value_pretraining_steps", 0)
    if asked > 0 and OmegaConf.select(config, "callbacks.value_pretraining._target_") is None:
        log.warning(
            f"there is no value pretraining without callbacks.value_pretraining, but algorithm.value_pretraining_steps={asked}: "
            "keep that callback, or set the steps to 0"
        )
    steps, limit = config.module.policy_steps, config.trainer.max_steps
    if 0 <= limit <= pretraining:
        log.warning(
            f"trainer.max_steps={limit} ends the run within {pretraining} steps of value pretraining: the policy will not train"
        )
    for name, trained in (("actor", steps), ("critic", steps + pretraining)):
        warmup = config.module[f"{name}_schedule"].get("warmup_steps", 0)
        if warmup > trained:
            log.warning(
                f"module.{name}_schedule.warmup_steps={warmup} is longer than the {trained} RL steps in which the {name} trains: "
                "it never reaches its learning rate"
            )


def announce(config: DictConfig) -> None:
    """Prints a run's first line: what was chosen, what is loaded, and where results go."""
    if config.get("resume") is not None:
        what = f"resuming {config.resume}"
    elif config.get("run") is not None:
        what = f"run {config.run}, results in {config.paths.output_dir}"
    else:
        choices = HydraConfig.get().runtime.choices
        shown = [f"{name}={choices[name]}" for name in SHOWN if choices.get(name) not in (None, "none", "null")]
        model = "missing" if OmegaConf.is_missing(config.model, "path") else config.model.path
        what = f"{' '.join(shown)}, model.path {model}, results in {config.paths.output_dir}"
    if is_first_rank():
        print(f"{config.task_name}: {what}; loading libraries …", flush=True)
