"""Types of settings: a value that does not fit what it is passed to is refused by its key, before anything is built."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter, isclass, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from vapo.run.resolvers import PACKAGE

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
RANGES = {  # of numbers: the lowest, and the one above the highest
    "threads": (1, math.inf),
    "seed": (0, 2**32),
    "trainer.max_steps": (-1, math.inf),
    "model.logits_chunk_tokens": (1, math.inf),
    "callbacks.value_pretraining.steps": (0, math.inf),
    **{f"module.{name}_optimizer.{value}": (0, math.inf) for name in ("actor", "critic") for value in ("lr", "weight_decay")},
    **{f"module.{name}_schedule.warmup_steps": (0, math.inf) for name in ("actor", "critic")},
}


def check_defaults(config: DictConfig) -> None:
    """Raises ValueError if a setting that no `_target_` takes, such as `threads`, has another type than its default in the script's
    configuration file or in the file of its group."""
    hydra = HydraConfig.get()
    files = {"": CONFIGS / f"{hydra.job.config_name}.yaml"}
    files |= {f"{group}.": CONFIGS / group / f"{choice}.yaml" for group, choice in hydra.runtime.choices.items() if group in config}
    for prefix, file in files.items():
        part = config[prefix[:-1]] if prefix else config
        if file.exists() and isinstance(part, DictConfig):
            loose: dict[type, Types] = {int: {float}, str: {list}} if prefix else {}  # a rate of 450 may be 62.5 elsewhere
            _compare(part, OmegaConf.to_container(OmegaConf.load(file), resolve=False), prefix, loose)


def _compare(config: DictConfig, defaults: Any, prefix: str, loose: dict[type, Types]) -> None:
    for name, default in defaults.items():
        if "_target_" in config or name == "defaults" or name not in config or OmegaConf.is_missing(config, name):
            continue
        if isinstance(default, dict):
            if isinstance(config[name], DictConfig):
                _compare(config[name], default, f"{prefix}{name}.", loose)
        elif default is not None and "${" not in str(default):
            _check(f"{prefix}{name}", config[name], {type(default)} | loose.get(type(default), set()))


def check_types(config: DictConfig, part: str = "") -> None:
    """Raises ValueError if a setting is no argument of what it is passed to, or its type does not fit the argument's annotation.
    The message names the key that a user sets. Types of arguments without annotation, or with one that plain values cannot meet,
    are not checked.

    Args:
        part: a key such as `rollout.sampling`, to check only what is below it; the whole configuration otherwise.
    """
    raw = OmegaConf.to_container(config, resolve=False)
    for path, node in _targets(OmegaConf.select(config, part) if part else config, f"{part}." if part else ""):
        target = get_object(node._target_)
        _check_names(node, target, raw, path)
        try:
            owner = target if isclass(target) else getattr(target, "__self__", None)  # `Actor.from_pretrained` passes options on
            hints = {} if owner is None else get_type_hints(owner.__init__)
            hints |= {} if isclass(target) else get_type_hints(target)
        except (NameError, TypeError):  # names that exist only for type checkers
            continue
        for name in map(str, node):
            if name in hints and not OmegaConf.is_missing(node, name):
                _check(_source(raw, f"{path}{name}"), node[name], plain_types(hints[name]))


def _check_names(node: DictConfig, target: Any, raw: Any, path: str) -> None:
    """Raises ValueError if the target has no argument of a setting's name, as where a scale sets what another engine takes."""
    parameters = signature(target).parameters
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in map(str, node):
        if name not in parameters and not re.fullmatch(r"_\w+_", name):  # such as _target_
            key = _source(raw, f"{path}{name}")
            raise ValueError(
                f"{key} has no meaning for {target.__name__}: take it out with ~{key}, or choose another {key.split('.')[0]}="
            )


def check_ranges(config: DictConfig) -> None:
    """Raises ValueError if a number that a library takes is out of its range; our own classes check theirs."""
    for key, (low, high) in RANGES.items():
        value = OmegaConf.select(config, key)
        if isinstance(value, int | float) and not low <= value < high:
            limit = f"{low} or more" if high == math.inf else f"{low} to {high - 1}"
            raise ValueError(f"{key} is {value}; set it to {limit}")


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
    is_nan = found is float and math.isnan(value)
    if not is_nan and (becomes_object or not types or types == {NoneType} or found in types or (found is int and float in types)):
        return
    shown = "null" if value is None else "true" if value is True else "false" if value is False else value
    named = {float} if not types else types - {int} if float in types else types
    raise ValueError(f"{key} is {shown}; set it to {' or '.join(words for kind, words in WORDS.items() if kind in named)}")
