"""The quick start runs as it stands, on a small dataset and a run trained by the command."""

import subprocess
import sys

import nbformat
import pytest
from factory import make_dataset
from nbclient import NotebookClient


@pytest.mark.slow
def test_quickstart_runs(tmp_path, repo, monkeypatch):
    data = make_dataset(tmp_path / "tiny", n=10, size=32)
    run = tmp_path / "run"
    words = ["experiment=debug", "trainer=cpu", "dataset=folder", f"dataset.root={data.root}", f"hydra.run.dir={run}"]
    subprocess.run([sys.executable, repo / "train.py", *words], check=True, cwd=tmp_path)
    monkeypatch.setenv("CROPSEG_DATASET", str(data.root))
    monkeypatch.setenv("CROPSEG_RUN", str(run))
    notebook = nbformat.read(repo / "notebooks" / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "miou_present" in str(outputs[-1])


def test_the_notebook_only_imports(repo):
    notebook = nbformat.read(repo / "notebooks" / "quickstart.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "def " not in code
    assert "class " not in code
    assert all(not cell.get("outputs") for cell in notebook.cells)
