"""Two runs side by side: the first RL step, and in it the first value, in which they differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from vapo.analysis.curves import load_metrics
from vapo.checkpoints import REST, tensors_in
from vapo.metric_names import repeatable

KINDS = {"rollouts": "rollouts/step_{:06d}.parquet", "metrics": "metrics.csv", "checkpoint": "checkpoints/step_{:06d}.ckpt"}


@dataclass(frozen=True)
class Comparison:
    """What was found, in words: the first difference, None if there is none; what was compared; what one run alone has kept."""

    first: str | None
    compared: list[str]
    alone: list[str]

    def text(self) -> str:
        said = self.first or f"equal in {len(self.compared)} places: {', '.join(self.compared)}"
        return said + (f"\nonly one run has {', '.join(self.alone)}" if self.alone else "")


def compare(left: Path, right: Path) -> Comparison:
    """Compares two run folders step by step, and within a step in the order in which it comes about: rollouts, metrics, and the
    checkpoint after it.

    Raises:
        FileNotFoundError: a folder is none of a run.
    """
    for run in (left, right):
        if not (run / "metrics.csv").exists():
            raise FileNotFoundError(f"no metrics.csv in {run}: give the folders of two runs")
    tables = [load_metrics(run).set_index("rl_step") for run in (left, right)]
    compared: list[str] = []
    names = set(tables[0]) ^ set(tables[1])
    alone = [f"the metric {name}" for name in sorted(repeatable(dict.fromkeys(names, 0.0)))]
    tables = [table.drop(columns=list(names), errors="ignore") for table in tables]
    for step in sorted({int(step) for table in tables for step in table.index}):
        for kind in KINDS:
            place = f"{kind} of RL step {step}"
            mine, theirs = (_read(run, table, kind, step) for run, table in zip((left, right), tables, strict=True))
            if mine is not None and theirs is not None:
                if kind == "rollouts":
                    names = set(mine) ^ set(theirs)
                    alone += sorted({f"the rollouts' {name}" for name in names}.difference(alone))
                    mine, theirs = (_by_row(columns, names) for columns in (mine, theirs))
                compared.append(place)
                difference = next(differences(mine, theirs), None)
                if difference is not None:
                    return Comparison(f"first difference in the {place}: {difference}", compared, alone)
            elif mine is not None or theirs is not None:
                alone.append(place)
    return Comparison(None, compared, alone)


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[str]:
    """A line for each name whose value is not the same, bit for bit; NaN equals NaN.

    >>> list(differences({"a": 1.0, "b": torch.ones(3)}, {"a": 1.0, "b": torch.tensor([1.0, 1.0, 2.0])}))
    ['b, in 1 of 3 places, first [2]: 1.0 and 2.0']
    """
    for name in dict.fromkeys([*left, *right]):
        if name not in left or name not in right:
            yield f"{name}, which only the {'first' if name in left else 'second'} has"
            continue
        a, b = left[name], right[name]
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            if a != b and not (a != a and b != b):
                yield f"{name}: {str(a)[:200]} and {str(b)[:200]}"
        elif a.shape != b.shape or a.dtype != b.dtype:
            yield f"{name}: {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        else:
            unequal = ((a != b) & ~((a != a) & (b != b))).nonzero()
            if len(unequal):
                place = tuple(unequal[0].tolist())
                yield f"{name}, in {len(unequal)} of {a.numel()} places, first {list(place)}: {a[place]} and {b[place]}"


def _read(run: Path, table: pd.DataFrame, kind: str, step: int) -> dict[str, Any] | None:
    """All values of a kind by name, the rollouts' by column; None if the run has none of that step."""
    if kind == "metrics":
        row = table.loc[step].to_dict() if step in table.index else None
        return row and {name: value for name, value in repeatable(row).items() if value == value}
    file = run / KINDS[kind].format(step)
    if not file.exists():
        return None
    if kind == "checkpoint":
        return dict(_leaves(_sharded(file) if file.is_dir() else torch.load(file, map_location="cpu", weights_only=True)))
    return pd.read_parquet(file).to_dict("list")


def _by_row(columns: Mapping[str, list[Any]], without: set[str]) -> dict[str, Any]:
    kept = {name: values for name, values in columns.items() if name not in without}
    return dict(_leaves({f"row {i}": dict(zip(kept, row, strict=True)) for i, row in enumerate(zip(*kept.values(), strict=True))}))


def _sharded(path: Path) -> dict[str, Any]:
    """A sharded checkpoint, whole, in memory."""
    state = {name: torch.zeros(entry.size, dtype=entry.properties.dtype) for name, entry in tensors_in(path).items()}
    dcp.load(state, checkpoint_id=path, no_dist=True)
    return {**state, **torch.load(path / REST, map_location="cpu", weights_only=True)}


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping | list | tuple):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, torch.from_numpy(node.copy()) if isinstance(node, np.ndarray) and node.dtype != object else node
