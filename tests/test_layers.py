"""The shape of the package: a module imports only from its own layer or below, without circles, and files stay small."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from lightning import LightningModule

from vapo.module import RLModule

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted((SOURCE / "vapo").rglob("*.py"))
LAYERS = [  # our modules and packages, then the libraries they may import
    [
        "vapo.types",
        "vapo.micro_batches",
        "vapo.algorithms",
        "vapo.distributed.ranks",
        "vapo.checkpoints",
        "vapo.whole_file",
        "vapo.metric_names",
        "torch",
    ],
    [
        *("vapo.models", "vapo.distributed.sharding", "vapo.verifiers"),
        *(
            "latex2sympy2_extended",
            "sympy",
            "reasoning_gym",
            "peft",
            "transformers",
            "tokenizers",
            "safetensors",
            "huggingface_hub",
        ),
    ],
    ["vapo.rollout", "vapo.data", "vllm", "aiohttp", "datasets", "packaging", "yaml"],
    [
        *(
            "vapo.datamodule",
            "vapo.metrics",
            "vapo.reporting",
            "vapo.learner",
            "vapo.side_by_side",
            "vapo.module",
            "vapo.distributed.strategy",
        ),
        *("lightning", "torchmetrics"),
    ],
    [
        *("vapo.callbacks", "vapo.analysis", "vapo.view", "vapo.metrics_csv"),
        *("wandb", "matplotlib", "pandas", "rich", "pyarrow", "scipy"),
    ],
    ["vapo.run", "vapo.plan", "vapo.wandb_logger", "hydra", "omegaconf"],
]
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
ANYWHERE = {"vapo", "numpy", *sys.stdlib_module_names}


def layer_of(module):
    """`vapo.models.actor` -> 1, by the longest name in the table above. A name without a layer fails: give it one there."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in LAYER:
            return LAYER[name]
        if name in ANYWHERE and (length == 1 == len(parts) or name != "vapo"):
            return -1
    raise KeyError(module)


def name_of(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def imports(source):
    """Every module imported, wherever in the source; `from vapo import data` counts as `vapo.data`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports from `vapo.` on"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_come_from_the_same_layer_or_below(path):
    module = name_of(path)
    layer = layer_of(module) if path.read_text() else 0
    assert [name for name in imports(path.read_text()) if layer_of(name) > layer] == []


def test_the_layer_of_every_kind_of_import_is_seen():
    source = "import torch.nn\nfrom vapo import data\ndef f():\n    from lightning.pytorch import Trainer\n    import os, hydra"
    assert {name: layer_of(name) for name in imports(source)} == {
        "torch.nn": 0,
        "vapo.data": 2,
        "lightning.pytorch.Trainer": 3,
        "os": -1,
        "hydra": 5,
    }
    assert layer_of("vapo.distributed.strategy.FSDP2") > layer_of("vapo.distributed.ranks.rank")
    for unknown in ("pytorch_lightning", "vapo.networks"):
        with pytest.raises(KeyError, match=unknown):
            layer_of(unknown)


def test_there_is_no_import_circle():
    modules = {name_of(path): path for path in FILES}
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports(path.read_text())} & modules.keys()
        for module, path in modules.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)  # raises CycleError


def test_files_are_short():
    assert {str(path.relative_to(SOURCE)): lines for path in FILES if (lines := len(path.read_text().splitlines())) > 300} == {}


def test_few_type_errors_are_ignored():
    assert sum(path.read_text().count("type: ignore") for path in FILES) <= 20


def test_the_module_is_one_class():
    assert RLModule.__bases__ == (LightningModule,)
