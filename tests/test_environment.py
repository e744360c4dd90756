"""pyproject.toml (ranges), requirements.lock (tested pins) and environment.yaml (GPU machines) tell one story."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def by_name(lines: list[str]) -> dict[str, SpecifierSet]:
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in map(Requirement, lines)}


RUNTIME = by_name(PROJECT["dependencies"])
LOCKED = RUNTIME | by_name(EXTRAS["dev"])  # what requirements.lock covers
DECLARED = LOCKED | by_name(EXTRAS["vllm"]) | by_name(EXTRAS["notebooks"])
LOCK_LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
LOCK = by_name(LOCK_LINES)
CONDA = yaml.safe_load((ROOT / "environment.yaml").read_text())
CONDA_PIP = next(entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))


def pin(name: str) -> Version:
    (specifier,) = LOCK[name]
    assert specifier.operator == "==", f"{name} in requirements.lock is not an exact pin: {specifier}"
    return Version(specifier.version)


def test_lock_is_exact_pins_each_once():
    assert len(LOCK) == len(LOCK_LINES)
    for name in LOCK:
        assert pin(name).local is None, f"{name}: a local version tag ties the lock to one build"
    assert "vapo" not in LOCK


@pytest.mark.parametrize("name", LOCKED)
def test_lock_holds_every_direct_dependency_inside_its_range(name):
    assert name in LOCK, f"{name} is in pyproject.toml but not in requirements.lock"
    assert LOCKED[name].contains(pin(name)), f"{name}: {pin(name)} is outside {LOCKED[name]}"


def test_conda_ranges_equal_pyproject():
    named = by_name([line for line in CONDA_PIP if not line.startswith("-")])
    assert named == {name: DECLARED.get(name) for name in named}
    assert named.keys() >= {
        *("lightning", "torch", "transformers", "vllm"),
        *("hydra-core", "torchmetrics", "wandb", "omegaconf"),
    }


def test_conda_ends_with_the_package_and_all_its_extras():
    last = CONDA_PIP[-1]
    assert last.startswith("-e .[")
    assert set(last.removeprefix("-e .[").removesuffix("]").split(",")) == set(EXTRAS)


def test_conda_python_is_one_the_package_accepts():
    (python,) = [entry for entry in CONDA["dependencies"] if isinstance(entry, str) and entry.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
