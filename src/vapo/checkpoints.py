"""Checkpoints on disk: their names, digests and random states; publishing, pruning, finding and discarding them.

A checkpoint is one file `step_000010.ckpt`, or with sharded networks a folder of that name, in torch's distributed format and with
`rest.pt`. `last.ckpt` links to the newest. A file `step_000010.ckpt.sha256` next to it holds a digest of each of its files.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from vapo.whole_file import replacing

LAST = "last.ckpt"  # a link to the newest checkpoint
REST = "rest.pt"  # everything in a sharded checkpoint that is not a tensor of a network or an optimizer
DIGESTS = ".sha256"  # suffix of the file with a checkpoint's digests


def checkpoint_name(rl_step: int) -> str:
    return f"step_{rl_step:06d}.ckpt"


def saved_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step_*.ckpt"))


def publish(folder: Path, name: str, partial: Path, digests: dict[str, str], keep: int) -> None:
    """Gives a completely written checkpoint its name, makes it the newest, and removes all but the newest `keep`."""
    remove(folder / name)
    (folder / f"{name}{DIGESTS}").write_text(json.dumps(digests, indent=1))
    partial.replace(folder / name)
    with replacing(folder / LAST) as link:
        link.unlink(missing_ok=True)
        link.symlink_to(name)
    for old in saved_checkpoints(folder)[:-keep]:
        remove(old)


def remove(path: Path) -> None:
    """Removes a checkpoint and its digests; a missing one is not an error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.with_name(f"{path.name}{DIGESTS}").unlink(missing_ok=True)


def find_checkpoint(folder: Path, name: str) -> tuple[Path | None, int]:
    """The checkpoint to resume from and its RL step; None and -1 if the run was killed before its first checkpoint.

    Raises:
        FileNotFoundError, ValueError: it is missing or damaged; the message names the other checkpoints.
    """
    path = folder / name
    others = other_checkpoints(path)
    if not path.exists():
        if not others and name == LAST:
            return None, -1
        raise FileNotFoundError(f"no checkpoint {path}: set checkpoint to one of {', '.join(others) or '(none exist)'}")
    if not path.is_dir():  # a sharded one is checked on loading, where each rank checks its share of the files
        check_intact(path)
    try:
        file = path / REST if path.is_dir() else path
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # tensors stay on disk: one number is read
        return path.resolve(), int(state["vapo"]["rl_step"])
    except Exception as error:
        raise ValueError(f"the checkpoint {path} is damaged ({type(error).__name__}): {remedy(path)}") from error


def discard_after(run: Path, rl_step: int) -> None:
    """Removes checkpoints and rollouts that a run wrote after `rl_step`: the resumed run writes them again."""
    for path in [*saved_checkpoints(run / "checkpoints"), *(run / "rollouts").glob("step_*.parquet")]:
        if int(path.stem.removeprefix("step_")) > rl_step:
            remove(path)


# --- digests -----------------------------------------------------------------------------------------------------------


def digest_files(path: Path, share: Callable[[int], slice]) -> dict[str, str]:
    """SHA-256 of this rank's share of a checkpoint's files, by path inside it; the path of a single-file checkpoint is `.`."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file.relative_to(path)): sha256(file) for file in files[share(len(files))]}


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_intact(path: Path, share: Callable[[int], slice] = lambda size: slice(size)) -> None:
    """Raises ValueError if files of a checkpoint are missing or changed, and names another checkpoint. Without recorded digests
    (in runs of older versions) nothing is checked.

    Args:
        share: maps the number of files to the slice to check, so that ranks divide the work.
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


def shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    """The shapes of a state dict's tensors."""
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(saved: dict[str, list[int]], here: dict[str, list[int]]) -> None:
    """Raises ValueError if the networks in a checkpoint, as shapes by name, are not those of this run; names the first difference.
    A checkpoint without networks fits: sharded ones are checked when they are read."""
    differ = [name for name in sorted(saved.keys() | here.keys()) if saved.get(name) != here.get(name)]
    if saved and differ:
        name = differ[0]
        raise ValueError(
            f"the checkpoint has other networks than this configuration: {name} is {saved.get(name, 'missing')} in the checkpoint "
            f"and {here.get(name, 'missing')} here ({len(differ)} tensors differ): set model.path, model.lora and algorithm as the "
            "run was started with, or start a new run"
        )


def tensors_in(path: Path) -> dict[str, TensorStorageMetadata]:
    """Size and dtype of each tensor in a sharded checkpoint, by name, without reading it."""
    entries = FileSystemReader(path).read_metadata().state_dict_metadata
    return {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def other_checkpoints(path: Path) -> list[str]:
    """Names of the other checkpoints in the same folder."""
    return [p.name for p in saved_checkpoints(path.parent) if p.resolve() != path.resolve()]


def remedy(path: Path) -> str:
    """Advice on a damaged checkpoint, for error messages."""
    others = other_checkpoints(path)
    return f"set checkpoint to one of {', '.join(others)}" if others else "start the run again from scratch"


# --- random states -----------------------------------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """Random states of Python, NumPy, torch and this process's GPU, as plain values and tensors: a resumed run draws what the
    uninterrupted run would have drawn. The generators of other GPUs are other ranks'."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    """The inverse of `random_state`; also takes states of before November 2026, which have every visible GPU's generator."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = dict(state["numpy"], state=dict(state["numpy"]["state"]))
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"].cpu())
    generators = state["cuda"]
    if generators and torch.cuda.is_available():
        torch.cuda.set_rng_state(generators[min(torch.cuda.current_device(), len(generators) - 1)].cpu())
