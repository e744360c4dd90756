"""A module imports only from its own floor or below, and a library only from the floor it is let in at."""

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FLOORS = [  # our packages, then the libraries let in
    ["vapo.types", "vapo.ranks", "vapo.algorithms", "torch"],
    [
        "vapo.models",
        "vapo.verifiers",
        "math_verify",
        "reasoning_gym",
        "peft",
        "transformers",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
    ],
    ["vapo.rollout", "vapo.data", "vllm", "aiohttp", "datasets", "packaging"],
    [
        "vapo.datamodule",
        "vapo.module",
        "vapo.metrics",
        "vapo.reporting",
        "vapo.run_state",
        "vapo.networks",
        "vapo.strategy",
        "vapo.experience",
        "vapo.digests",
        "lightning",
        "torchmetrics",
    ],
    ["vapo.callbacks", "vapo.analysis", "wandb", "matplotlib", "pandas", "rich", "pyarrow", "scipy"],
    ["vapo.run", "hydra", "omegaconf"],
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
ANYWHERE = {"numpy", *sys.stdlib_module_names}


def floor_of(module):
    """`vapo.models.actor` -> 1. A name without a floor fails: give it one in the table above."""
    key = ".".join(module.split(".")[: 2 if module.startswith("vapo.") else 1])
    return -1 if key in ANYWHERE else FLOOR[key]


def imports(source):
    """Every module imported, wherever in the source; `from vapo import data` counts as `vapo.data`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports from `vapo.` on"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted((SOURCE / "vapo").rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_come_from_the_same_floor_or_below(path):
    module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    floor = 0 if module == "vapo" else floor_of(module)
    assert [name for name in imports(path.read_text()) if floor_of(name) > floor] == []


def test_the_floor_of_every_kind_of_import_is_seen():
    source = "import torch.nn\nfrom vapo import data\ndef f():\n    from lightning.pytorch import Trainer\n    import os, hydra"
    assert {name: floor_of(name) for name in imports(source)} == {
        "torch.nn": 0,
        "vapo.data": 2,
        "lightning.pytorch.Trainer": 3,
        "os": -1,
        "hydra": 5,
    }
    with pytest.raises(KeyError, match="pytorch_lightning"):
        floor_of("pytorch_lightning")
