"""The notebooks run from top to bottom on small runs, and keep outputs of real ones."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def figures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tiny_sweep, monkeypatch):
    monkeypatch.setenv("VAPO_SWEEP", str(tiny_sweep))
    monkeypatch.setenv("VAPO_RUN", str(tiny_sweep / "experiment=vapo_full,seed=0"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))  # the kernel's, should another checkout be installed
    notebook = nbformat.read(path, as_version=4)
    kept = figures(notebook)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs = []
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert kept > 0, "it is committed without its figures"
    assert figures(notebook) > 0, "no figure was drawn"


def test_there_are_notebooks():
    names = ["1_training_curves", "2_ablations", "3_credit", "4_critic_health", "5_techniques"]
    assert [path.stem for path in NOTEBOOKS] == names
