"""Is a checkpoint as it was written? A digest of each of its files lies beside it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

DIGESTS = ".sha256"  # ending of the file beside a checkpoint


def digest_files(path: Path, share: Callable[[int], slice]) -> dict[str, str]:
    """SHA-256 of this rank's share of a checkpoint's files, by name within it; a checkpoint of one file has the name `.`."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file.relative_to(path)): sha256(file) for file in files[share(len(files))]}


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_intact(path: Path, share: Callable[[int], slice] = lambda size: slice(size)) -> None:
    """Raises ValueError if files of a checkpoint are gone or not as they were written, and names another checkpoint. Without a
    record of them, as in old runs, nothing is checked.

    Args:
        share: of so many files, those to look at: ranks divide them.
    """
    path = path.resolve()
    record = path.with_name(f"{path.name}{DIGESTS}")
    if not record.exists():
        return
    expected = sorted(json.loads(record.read_text()).items())
    files = [(path if name == "." else path / name, digest) for name, digest in expected[share(len(expected))]]
    changed = [file.name for file, digest in files if not file.is_file() or sha256(file) != digest]
    if changed:
        raise ValueError(
            f"the checkpoint {path} is damaged ({', '.join(changed[:3])} changed since it was written): {remedy(path)}"
        )


def other_checkpoints(path: Path) -> list[str]:
    """Names of those beside this one."""
    return sorted(p.name for p in path.parent.glob("step_*.ckpt") if p.resolve() != path.resolve())


def remedy(path: Path) -> str:
    """What to do about a bad checkpoint."""
    others = other_checkpoints(path)
    return f"set checkpoint to one of {', '.join(others)}" if others else "start the run anew"
