"""Checks of a run's settings before anything is built, the cheap ones before the imports that take seconds."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from inspect import isclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from vapo.run.launching import is_first_rank
from vapo.run.resolvers import PACKAGE

log = logging.getLogger(__name__)
SHOWN = ("experiment", "scale", "ablation", "debug", "data", "rollout", "trainer")  # groups in a run's first line
CONFIGS = PACKAGE.parents[1] / "configs"
WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "a group of settings",
    NoneType: "null",
}
Types = set[type]


# --- types -------------------------------------------------------------------------------------------------------------


def check_own(config: DictConfig) -> None:
    """Raises ValueError if one of the script's own settings has another type than its default in `configs/<script>.yaml`."""
    file = CONFIGS / f"{HydraConfig.get().job.config_name}.yaml"
    if file.exists():
        _compare(config, OmegaConf.to_container(OmegaConf.load(file), resolve=False), "")


def _compare(config: DictConfig, defaults: Any, prefix: str) -> None:
    for name, default in defaults.items():
        key = f"{prefix}{name}"
        if (
            name == "defaults"
            or name not in config
            or default is None
            or "${" in str(default)
            or OmegaConf.is_missing(config, name)
        ):
            continue
        if isinstance(default, dict):
            if isinstance(config[name], DictConfig) and "_target_" not in default:
                _compare(config[name], default, f"{key}.")
        else:
            _check(key, config[name], {type(default)})


def check_types(config: DictConfig, part: str = "") -> None:
    """Raises ValueError if the type of a setting does not fit the annotation of the argument that it becomes. The message names the
    key that a user sets. Arguments without annotation, or with one that plain values cannot meet, are not checked.

    Args:
        part: a key such as `rollout.sampling`, to check only what is below it; the whole configuration otherwise.
    """
    raw = OmegaConf.to_container(config, resolve=False)
    for path, node in _targets(OmegaConf.select(config, part) if part else config, f"{part}." if part else ""):
        target = get_object(node._target_)
        try:
            owner = target if isclass(target) else getattr(target, "__self__", None)  # `Actor.from_pretrained` passes options on
            hints = {} if owner is None else get_type_hints(owner.__init__)
            hints |= {} if isclass(target) else get_type_hints(target)
        except (NameError, TypeError):  # names that exist only for type checkers
            continue
        for name in map(str, node):
            if name in hints and not OmegaConf.is_missing(node, name):
                _check(_source(raw, f"{path}{name}"), node[name], plain_types(hints[name]))


def _targets(config: DictConfig, prefix: str) -> Iterator[tuple[str, DictConfig]]:
    """All parts of a configuration with a `_target_`, and the keys under which they are."""
    if "_target_" in config:
        yield prefix, config
    for name in map(str, config):
        if not OmegaConf.is_missing(config, name) and isinstance(config[name], DictConfig):
            yield from _targets(config[name], f"{prefix}{name}.")


def _source(raw: Any, key: str) -> str:
    """The key that `key` is copied from: `seed` for `module.seed: ${seed}`."""
    value, names = raw, key.split(".")
    for depth, name in enumerate(names, 1):
        value = value.get(name) if isinstance(value, dict) else None
        copied = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        if copied:
            return _source(raw, ".".join([copied[1], *names[depth:]]))
    return key


def plain_types(hint: Any) -> Types | None:
    """Types of YAML values that an annotation takes; None for any.

    >>> sorted(t.__name__ for t in plain_types(float | None))
    ['NoneType', 'float']
    """
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        parts = [plain_types(part) for part in get_args(hint)]
        return None if None in parts else set().union(*filter(None, parts))
    if origin is Literal:
        return {type(value) for value in get_args(hint)}
    if hint is not Any and (hint in WORDS or isclass(hint)):
        return {hint} if hint in WORDS else {str} if issubclass(hint, Path) else set()
    if isclass(origin):
        return {dict} if issubclass(origin, Mapping) else {list} if issubclass(origin, Sequence) else set()
    return None


def _check(key: str, value: Any, types: Types | None) -> None:
    found: type = list if isinstance(value, ListConfig) else dict if isinstance(value, DictConfig) else type(value)
    becomes_object = found is dict and "_target_" in value
    if becomes_object or not types or types == {NoneType} or found in types or (found is int and float in types):
        return
    shown = "null" if value is None else "true" if value is True else "false" if value is False else value
    raise ValueError(f"{key} is {shown}; set it to {' or '.join(words for kind, words in WORDS.items() if kind in types)}")


# --- ranges ------------------------------------------------------------------------------------------------------------


def check_training(config: DictConfig) -> None:
    """Raises ValueError if rollouts cannot be sampled or grouped as the settings say, or there is no GPU where they want one; warns
    of a run that would do nothing. Imports torch, but none of the other libraries."""
    from vapo.rollout.checks import check_groups, check_minibatches, check_sampling

    check_device("trainer.accelerator", config.trainer.get("accelerator"), "trainer=cpu")
    if config.resume is not None:
        return  # its settings are the saved ones, which `train` checks
    check_algorithm(config.algorithm)
    for part in ("algorithm", "rollout.sampling"):
        check_types(config, part)
    check_sampling(instantiate(config.rollout.sampling), instantiate(config.algorithm), config.rollout.prefetch)
    with suppress(TypeError):  # a wrong type, which `check_types` will name
        check_groups(config.data.rollouts_per_step, config.data.group_size)
        check_minibatches(config.module.minibatch_rollouts, config.data.rollouts_per_step)
        warn_of_idle(config)


def check_evaluation(config: DictConfig) -> None:
    """Raises ValueError if an evaluation's sampling is impossible, or there is no GPU where it wants one. Imports only torch."""
    from vapo.types import SamplingParams

    check_device("device", config.device, "device=cpu")
    SamplingParams(**{name: value for name, value in config.sampling.items() if value is not None})


def check_algorithm(algorithm: DictConfig) -> None:
    """Raises if a switch is set that the algorithm does not have, as an ablation of VAPO's critic does to GRPO."""
    family = get_class(algorithm._target_)
    unknown = sorted(str(name) for name in algorithm if name != "_target_" and name not in {f.name for f in fields(family)})
    if unknown:
        raise ValueError(
            f"algorithm.{', algorithm.'.join(unknown)} has no meaning for {family.__name__}: choose an experiment that has it, "
            "such as vapo_full, or another ablation"
        )


def check_device(key: str, device: str | None, remedy: str) -> None:
    """Raises ValueError if `device` is a GPU and torch sees none."""
    import torch

    if str(device).startswith(("gpu", "cuda")) and not torch.cuda.is_available():
        raise ValueError(f"{key} is {device}, but torch sees no GPU here: set {remedy}, or install torch for this machine's GPU")


def warn_of_idle(config: DictConfig) -> None:
    """Warns if the run would end before its networks train, or before they train at their learning rate."""
    pretraining = OmegaConf.select(config, "callbacks.value_pretraining.steps") or 0
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
