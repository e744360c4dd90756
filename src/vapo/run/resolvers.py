"""OmegaConf resolvers: functions that configs can call, as in `${project_root:}`."""

import hashlib
import json
import re
import socket
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

LONGEST_NAME = 180  # characters of a folder's name; file systems take 255 bytes, and a name has a digest behind it
PACKAGE = Path(__file__).resolve().parents[1]


def _offline() -> bool:
    """True when the wandb server's name cannot be looked up."""
    try:
        socket.getaddrinfo("api.wandb.ai", 443)
    except OSError:
        return True
    return False


def _engine_dtype(precision: str, strategy: str, sharded: str, weights: str) -> str:
    """The dtype that the trainer computes in, which the engine's weights should have: float32 in vLLM is slow on GPUs, and the two
    would differ by rounding."""
    if strategy.endswith("FSDP2"):
        return sharded
    return "bfloat16" if str(precision).startswith("bf16") else weights


def task_settings(source: DictConfig) -> dict[str, Any]:
    """The settings of running sums that a base model depends on."""
    return {name: source.get(name) for name in ("template", "min_operands", "max_operands", "hard_operations", "reveal")}


def _made_model(*, _root_: DictConfig) -> str:
    """The folder of the model that `model.recipe` makes for the task: equal folder for equal settings, an equal solver
    and equal weights to start from."""
    solver = [(PACKAGE / folder / "sums.py").read_text() for folder in ("data", "verifiers")]  # other solutions, another model
    weights = Path(start, "model.safetensors") if (start := _root_.model.recipe.base.get("start")) else None
    started = hashlib.sha256(weights.read_bytes()).hexdigest() if weights and weights.is_file() else None
    settings = [OmegaConf.to_container(_root_.model.recipe, resolve=True), task_settings(_root_.data.source), *solver, started]
    return f"{_root_.paths.root}/logs/models/{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]}"


def job_folder(overrides: str) -> str:
    """A folder name for a sweep's job: what it varies, without slashes and brackets, not too long, and different for each.

    >>> job_folder("experiment=dapo,seed=3"), job_folder("model.path=/models/A,seed=3")
    ('experiment=dapo,seed=3', 'model.path=_models_A,seed=3-b19a5995')
    """
    name = re.sub(r"[^\w.,=+~@-]", "_", overrides, flags=re.ASCII)[:LONGEST_NAME]
    return name if name == overrides else f"{name}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def register() -> None:
    """Registers all resolvers; doing so twice is harmless."""
    OmegaConf.register_new_resolver("project_root", lambda: str(PACKAGE.parents[1]), replace=True)
    OmegaConf.register_new_resolver("assets", lambda: str(PACKAGE / "assets"), replace=True)
    OmegaConf.register_new_resolver("offline", _offline, replace=True)
    OmegaConf.register_new_resolver("made_model", _made_model, replace=True)
    OmegaConf.register_new_resolver("sum", lambda *parts: None if None in parts else sum(parts), replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("least", min, replace=True)
    OmegaConf.register_new_resolver("engine_dtype", _engine_dtype, replace=True)
    OmegaConf.register_new_resolver("run_id", lambda folder: hashlib.sha256(folder.encode()).hexdigest()[:12], replace=True)
    OmegaConf.register_new_resolver("run_folder", lambda resume, fresh: fresh if resume is None else resume, replace=True)
