"""OmegaConf resolvers: functions that configs can call, as in `${project_root:}`."""

import hashlib
import socket
from pathlib import Path

from omegaconf import OmegaConf

PACKAGE = Path(__file__).resolve().parents[1]


def _offline() -> bool:
    """True when the wandb server's name cannot be looked up."""
    try:
        socket.getaddrinfo("api.wandb.ai", 443)
    except OSError:
        return True
    return False


def register() -> None:
    """Registers all resolvers; doing so twice is harmless."""
    OmegaConf.register_new_resolver("project_root", lambda: str(PACKAGE.parents[1]), replace=True)
    OmegaConf.register_new_resolver("assets", lambda: str(PACKAGE / "assets"), replace=True)
    OmegaConf.register_new_resolver("offline", _offline, replace=True)
    OmegaConf.register_new_resolver("run_id", lambda folder: hashlib.sha256(folder.encode()).hexdigest()[:12], replace=True)
    OmegaConf.register_new_resolver("run_folder", lambda resume, fresh: fresh if resume is None else resume, replace=True)
