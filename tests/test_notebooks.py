"""Tutorials run from their first cell to the last, and are kept with the outputs of a full run."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SHORT = {  # what the short form of each sets its constants to
    "01_flow_matching": {
        "STEPS": 40, "BATCH": 256, "SAMPLES": 100, "FINE": 20, "GRID": 40, "FRAMES": 2,
    },
    "02_masked_sets": {"STEPS": 20, "EVENTS": 20, "SCORED": 10},
    "03_likelihood": {
        "STEPS": 20, "JETS": 100, "HELD": 30, "SOLVE": 2, "SAMPLES": 200, "GROUPS": 3, "REPEATS": 1,
    },
}  # fmt: skip
NEEDS = {"03_likelihood": ("pythia8mc", "fastjet")}  # to simulate its jets


DEFAULT = "02_masked_sets"  # the others run with --all


@pytest.fixture(params=SHORT)
def notebook(request):
    return request.param, nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(name, marks=() if name == DEFAULT else pytest.mark.wide) for name in SHORT],
    indirect=True,
)
def test_a_notebook_runs_and_ends_in_a_figure_of_merit(notebook, monkeypatch):
    """Every cell as it is, with smaller constants; the assertion at the end is the same."""
    name, notebook = notebook
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason="simulating jets needs `pip install 'setflow[pythia]'`")
    monkeypatch.setitem(os.environ, "JUPYTER_PLATFORM_DIRS", "1")
    for constant, value in SHORT[name].items():
        pattern = re.compile(rf"^{constant} = [\d_]+", flags=re.MULTILINE)
        assert sum(len(pattern.findall(cell.source)) for cell in _code(notebook)) == 1, constant
        for cell in _code(notebook):
            cell.source = pattern.sub(f"{constant} = {value}", cell.source)
    last = ast.parse(_code(notebook)[-1].source).body
    assert any(isinstance(statement, ast.Assert) for statement in last)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()


def test_a_notebook_is_kept_with_the_outputs_of_a_run(notebook):
    name, notebook = notebook
    code = _code(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        if re.search(r"^(print|plt\.show|animate)\(", cell.source, flags=re.MULTILINE):
            assert cell.outputs, cell.source
        assert all(output.output_type != "error" for output in cell.outputs), cell.source
        assert all(output.get("name") != "stderr" for output in cell.outputs), cell.source
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    words = [
        str(output.get("text", output.get("data", {}).get("text/plain"))) for output in outputs
    ]
    assert not re.search(r"/(home|root|tmp|work|Users)/", "\n".join(words))
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 4_000_000
