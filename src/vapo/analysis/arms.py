"""Which runs are seeds of the same arm, and what arms are called: both from the configuration that each run kept."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from vapo.analysis.curves import load_metrics

SAME_ARM = (  # settings that may differ within an arm: they change no number, but for the seed
    *(
        "seed",
        "run_name",
        "run_group",
        "tags",
        "paths",
        "task_name",
        "threads",
        "resume",
        "checkpoint",
        "optimized_metric",
        "logger",
    ),
    *("module.overlap", "callbacks.value_pretraining.critic_file", "callbacks.rl_checkpoint", "callbacks.rollout_log"),
    "callbacks.samples",
)
SHOWN = 3  # settings named in an arm's name


def load_arms(paths: Iterable[Path | str]) -> dict[str, list[pd.DataFrame]]:
    """The `metrics.csv` of all runs in these folders, by arm. Runs are of one arm if their configurations differ in nothing but the
    seed and where they ran; an arm is called by its experiment, ablation and scale, and by the settings that tell it from other
    arms of that name.

    Raises:
        FileNotFoundError: a folder has no run, or a run no configuration.
    """
    found: dict[str, tuple[str, dict[str, Any], list[pd.DataFrame]]] = {}
    for path in map(Path, paths):
        runs = sorted(file.parent for file in path.rglob("metrics.csv"))
        if not runs:
            raise FileNotFoundError(f"no metrics.csv under {path}: give folders of runs, such as logs/train/runs/<time>")
        for run in runs:
            config = yaml.safe_load((run / "config.yaml").read_text())  # unresolved: a setting that follows from another is none
            settings = {key: value for key, value in _leaves(config) if not within(key, SAME_ARM)}
            name = str(config.get("run_name") or "run").removesuffix(f"-seed{config['seed']}")
            key = json.dumps([name, settings], sort_keys=True)
            found.setdefault(key, (name, settings, []))[2].append(load_metrics(run))
    named: dict[str, list[pd.DataFrame]] = {}
    for name, settings, runs in found.values():
        label = _label(name, settings, [(n, s) for n, s, _ in found.values()])
        same = sum(known.partition(" #")[0] == label for known in named)  # alike in the settings that are shown
        named[f"{label} #{same + 1}" if same else label] = runs
    return named


def _label(name: str, settings: dict[str, Any], arms: list[tuple[str, dict[str, Any]]]) -> str:
    others = [other for other_name, other in arms if other_name == name]
    differ = [key for key in settings if any(other.get(key) != settings[key] for other in others)]
    words = [f"{key}={settings[key]}" for key in differ[:SHOWN]] + ["…"] * (len(differ) > SHOWN)
    return ", ".join([name, *words])


def _leaves(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def within(key: str, parts: Iterable[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)
