"""Notebooks: read, shortened for tests, and run.

`make notebooks` runs them in full, writes the outputs in place and prints how long each took;
`tests/test_notebooks.py` runs their short forms.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
MOST_CELLS = 25
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""All that a kept notebook says about the machine that ran it."""


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shorten(notebook: NotebookNode, constants: Mapping[str, str]) -> None:
    """Give constants, each assigned once and at the start of a line, other values, as Python.

    Raises:
        ValueError: if one is not assigned, or more than once.
    """
    for constant, value in constants.items():
        line = re.compile(rf"^{constant} = .*?(?=  #|$)", flags=re.MULTILINE)
        found = sum(len(line.findall(cell.source)) for cell in code(notebook))
        if found != 1:
            raise ValueError(f"{constant} is assigned {found} times, expected once")
        for cell in code(notebook):
            cell.source = line.sub(lambda _, new=f"{constant} = {value}": new, cell.source)


def execute(notebook: NotebookNode, *, timeout: float) -> float:
    """Run all cells with the setflow of this source tree; return the seconds that it took.

    What was kept before is replaced: outputs, and metadata down to `METADATA`.

    Raises:
        CellExecutionError: if a cell raises.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JUPYTER_PLATFORM_DIRS": "1"}
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(FOLDER)}},
    )
    start = time.perf_counter()
    client.execute(env=environment)
    seconds = time.perf_counter() - start
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    for cell in code(notebook):
        cell.outputs = _joined(cell.outputs)
    return seconds


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return outputs with what was printed in one go as one text, however it arrived."""
    joined: list[NotebookNode] = []
    for output in outputs:
        stream = output.get("name")
        if joined and stream is not None and stream == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def main() -> int:
    """Run notebooks in full and keep their outputs; return 1 if one fails or is too long."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is named")
    failed = False
    os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
    for name in parser.parse_args().names or names():
        notebook = read(name)
        try:
            seconds = execute(notebook, timeout=1800)
        except CellExecutionError as error:
            plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
            sys.stderr.write(f"{name}: {plain}\n")
            failed = True
            continue
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        cells = len(notebook.cells)
        sys.stdout.write(f"{name:<24} {cells:>3} cells  {seconds:>5.0f} s\n")
        sys.stdout.flush()
        if cells > MOST_CELLS:
            sys.stderr.write(f"{name}: {cells} cells, expected at most {MOST_CELLS}\n")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
