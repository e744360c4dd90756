"""The notebooks run from top to bottom on a small run and a small sweep."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tests.analysis.test_sweep import write_run

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    for name, scores in (("experiment=vapo_full,seed=0", [0.1, 0.9]), ("experiment=dapo,seed=0", [0.1, 0.5])):
        write_run(tmp_path / name, scores, [100.0, 80.0])
    run = tmp_path / "experiment=vapo_full,seed=0"
    monkeypatch.setenv("VAPO_RUN", str(run))
    monkeypatch.setenv("VAPO_SWEEP", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure was drawn"


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["1_training_curves", "2_ablations"]
