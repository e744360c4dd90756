"""What a run leaves behind so that it can be understood and repeated: configuration, commit, versions, command."""

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vapo.whole_file import replacing

CONFIG = "config.yaml"  # interpolations kept, so that a moved folder can be resumed
RESOLVED = "resolved.yaml"  # every value as it was
# Names in the configurations of older runs, and what they are called since: such runs can be resumed and evaluated.
RENAMED = {
    "vapo.models.loading.Loading": "vapo.models.loading.LoadOptions",
    "vapo.models.sharding.": "vapo.distributed.sharding.",
    "vapo.strategy.": "vapo.distributed.strategy.",
    "vapo.callbacks.metrics_csv.": "vapo.metrics_csv.",
    "vapo.rollout.vllm_engine.": "vapo.rollout.vllm.engine.",
    "vapo.rollout.server_engine.": "vapo.rollout.vllm.server_engine.",
    "\n  ahead: ": "\n  prefetch: ",
    "${rollout.ahead}": "${rollout.prefetch}",
}
TOKEN = "${oc.env:VAPO_SERVER_TOKEN,null}"  # as in configs/rollout/vllm_server.yaml
PACKAGES = ("torch", "lightning", "transformers", "hydra-core", "torchmetrics")


def git_commit(folder: Path) -> str | None:
    """The checkout's commit, `-dirty` if files differ from it; None outside of git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(root: str) -> dict[str, object]:
    """Command (paths relative to the checkout at `root`), commit and versions of this process."""
    return {
        "command": [public(word).replace(f"{Path(root).resolve()}/", "") for word in sys.argv],
        "overrides": [public(word) for word in HydraConfig.get().overrides.task] if HydraConfig.initialized() else [],
        "commit": git_commit(Path(root)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def public(word: str) -> str:
    """A word of the command line without a secret."""
    key, _, value = word.partition("=")
    return f"{key}=<secret>" if value and key.rpartition(".")[2] == "token" else word


def record_texts(config: DictConfig) -> dict[str, str]:
    """The two forms of a run's configuration, by file name. The token of generation servers is a secret: both forms leave it to the
    environment, so a run that got it on the command line is resumed with it in VAPO_SERVER_TOKEN."""
    public, resolved = config.copy(), config.copy()
    if "token" in (OmegaConf.select(config, "rollout.engine") or {}):
        public.rollout.engine.token = TOKEN
        resolved.rollout.engine.token = rf"\{TOKEN}"  # resolving removes the backslash, and nothing else
    return {CONFIG: OmegaConf.to_yaml(public), RESOLVED: OmegaConf.to_yaml(resolved, resolve=True)}


def load_config(file: Path) -> DictConfig:
    """A configuration that `save_record` wrote, by this version or an older one."""
    text = file.read_text()
    for old, new in RENAMED.items():
        text = text.replace(old, new)
    config = OmegaConf.create(text)
    assert isinstance(config, DictConfig)
    return config


def save_record(texts: dict[str, str], root: str, folder: Path) -> None:
    """Writes `config.yaml`, `resolved.yaml` and `record.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        _write(folder / name, text)
    record = folder / "record.json"
    try:
        starts = json.loads(record.read_text()) if record.exists() else []  # one entry per start: the first, then each resume
    except ValueError as error:
        raise ValueError(f"{record} is damaged ({error}): remove it and resume; training does not need it") from error
    _write(record, json.dumps([*starts, provenance(root)], indent=2))


def _write(file: Path, text: str) -> None:
    with replacing(file) as partial:
        partial.write_text(text)
