"""What a run leaves behind so that it can be understood and repeated: configuration, commit, versions, command."""

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

CONFIG = "config.yaml"  # interpolations kept, so that a moved folder can be resumed
RESOLVED = "resolved.yaml"  # every value as it was
PACKAGES = ("torch", "lightning", "transformers", "hydra-core", "torchmetrics")


def git_commit(folder: Path) -> str | None:
    """The checkout's commit, `-dirty` if files differ from it; None outside of git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def circumstances(root: str) -> dict[str, object]:
    """Command, commit and versions of this process."""
    return {
        "command": sys.argv,
        "commit": git_commit(Path(root)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def record_texts(config: DictConfig) -> dict[str, str]:
    """The two forms of a run's configuration, by file name; how a run was resumed is no part of it."""
    return {CONFIG: OmegaConf.to_yaml(config), RESOLVED: OmegaConf.to_yaml(config, resolve=True)}


def save_record(texts: dict[str, str], root: str, folder: Path) -> None:
    """Writes `config.yaml`, `resolved.yaml` and `record.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    record = folder / "record.json"
    starts = json.loads(record.read_text()) if record.exists() else []  # one entry per start: the first, then each resume
    record.write_text(json.dumps([*starts, circumstances(root)], indent=2))
