"""Notebooks run from their first cell to the last, and are kept with the outputs of a full run."""

from __future__ import annotations

import ast
import json
import re

import pytest
from nbformat import v4

import notebooks

SHORT = {  # what the short form of each sets its constants to
    "quickstart": {"STEPS": 5, "EVENTS": 64},
    "01_flow_matching": {
        "STEPS": 40, "BATCH": 256, "SAMPLES": 100, "FINE": 20, "GRID": 40, "FRAMES": 2,
    },
    "02_masked_sets": {"STEPS": 20, "EVENTS": 20},
    "03_likelihood": {
        "STEPS": 20, "JETS": 100, "HELD": 30, "SCORED": 30, "JOBS": 1, "SOLVE": 2, "SAMPLES": 200,
        "GROUPS": 3, "REPEATS": 1,
    },
    "04_conditional_jets": {"STEPS": 5, "JETS": 100, "HELD": 60, "EVENTS": 60, "JOBS": 1},
    "05_collider_events": {"SIMULATED": 20, "EVENTS": 60, "SCORED": 6, "JOBS": 1},
}  # fmt: skip
SIMULATES = ("03_likelihood", "04_conditional_jets", "05_collider_events")


def test_every_notebook_has_a_short_form():
    assert sorted(SHORT) == notebooks.names()


@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_runs(name, tmp_path):
    """Every cell as it is, with smaller constants; an assertion at the end is the same."""
    constants = {constant: str(value) for constant, value in SHORT[name].items()}
    if name in SIMULATES:
        for package in ("pythia8mc", "fastjet"):
            pytest.importorskip(package, reason="jets need `pip install 'setflow[pythia]'`")
        constants["CACHE"] = f"Path({str(tmp_path)!r})"
    notebook = notebooks.read(name)
    notebooks.shorten(notebook, constants)
    notebooks.execute(notebook, timeout=300)
    assert any("image/png" in data for data in _data(notebook))


@pytest.mark.parametrize("name", sorted(set(SHORT) - {"quickstart"}))
def test_a_notebook_ends_in_something_that_must_hold(name):
    last = ast.parse(notebooks.code(notebooks.read(name))[-1].source).body
    assert any(isinstance(statement, ast.Assert) for statement in last)


@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_is_kept_with_the_outputs_of_a_run(name):
    notebook = notebooks.read(name)
    assert len(notebook.cells) <= notebooks.MOST_CELLS
    assert notebook.metadata == notebooks.METADATA
    assert all(cell.metadata == {} for cell in notebook.cells)
    code = notebooks.code(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        if re.search(r"^(print|table|plt\.show|animate)\(", cell.source, flags=re.MULTILINE):
            assert cell.outputs, cell.source
        assert all(output.output_type != "error" for output in cell.outputs), cell.source
        assert all(output.get("name") != "stderr" for output in cell.outputs), cell.source
    assert any("image/png" in data for data in _data(notebook))
    words = [output.text for cell in code for output in cell.outputs if "text" in output]
    words += [str(data.get("text/plain")) for data in _data(notebook)]
    assert not re.search(r"/(home|root|tmp|work|Users)/", "\n".join(words))
    assert (notebooks.FOLDER / f"{name}.ipynb").stat().st_size < 4_000_000


def test_a_constant_is_replaced_and_its_comment_stays():
    notebook = v4.new_notebook(cells=[v4.new_code_cell("STEPS = 10  # a\nprint(STEPS)\nA = 1")])
    notebooks.shorten(notebook, {"STEPS": "2", "A": r"'\1'"})
    assert notebook.cells[0].source == "STEPS = 2  # a\nprint(STEPS)\nA = '\\1'"
    with pytest.raises(ValueError, match="OTHER is assigned 0 times, expected once"):
        notebooks.shorten(notebook, {"OTHER": "3"})


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["print(1, flush=True)\nprint(2)"], ""),
        (["1 / 0"], "division by zero"),
        (["pass"] * 26, "26 cells, expected at most 25"),
    ],
    ids=["sound", "error", "long"],
)
def test_the_runner_keeps_outputs_and_fails(cells, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["notebooks"])
    path = tmp_path / "one.ipynb"
    book = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells])
    path.write_text(json.dumps(book))
    assert notebooks.main() == bool(told)
    out, err = capsys.readouterr()
    assert told in err
    if not told:
        assert re.fullmatch(r"one +1 cells +\d+ s\n", out)
        assert notebooks.code(notebooks.read("one"))[0].outputs[0].text == "1\n2\n"


def _data(notebook):
    outputs = (output for cell in notebooks.code(notebook) for output in cell.outputs)
    return [output.data for output in outputs if "data" in output]
