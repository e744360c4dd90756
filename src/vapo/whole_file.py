"""A file is written whole or not at all: a full disk or a kill leaves the previous one, and a reader never meets half of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path`; what the block has written there takes the place of `path` when it ends without an error."""
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    partial.replace(path)
