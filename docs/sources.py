"""What the pages take from elsewhere when the site is built, as Markdown, so that nobody copies it.

Kept benchmarks and what cells of notebooks printed, models and their cards, tables of the schema,
the classes that a file may name, and the help of the commands. `extension.py` makes a directive of
each function. What a page asks for and is not there raises.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

import setflow
import setflow.cli
from setflow import schema
from setflow.training.conditions import complete

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests/bench/results"
_HEAD = ("processor", "versions", "commit", "date")

Table = tuple[list[str], list[list[str]]]


# --- tables of Markdown ---


def tables_of(text: str) -> list[Table]:
    """Return the tables of a Markdown text, each as its head and its rows."""
    tables: list[Table] = []
    for block in re.findall(r"(?:^\|.*\|[ ]*\n)+", text + "\n", flags=re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in block.splitlines()
        )
        tables.append((head, rows))
    return tables


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def results(
    name: str,
    columns: str = "",
    titles: str = "",
    rows: str = "",
) -> str:
    """Return the tables of a kept result as one, and what they were measured on.

    Arguments:
        name: the file in `tests/bench/results`.
        columns: the columns that are shown, separated by `;`; empty for all.
        titles: what they are called, as many.
        rows: a regular expression that the first cell of a row has; empty for all.

    Raises:
        ValueError: if the file has no such column or row.
    """
    text = (RESULTS / name).read_text()
    tables = tables_of(text)
    head = tables[0][0]
    wanted = [part.strip() for part in columns.split(";")] if columns else head
    missing = [column for column in wanted if column not in head]
    if missing:
        raise ValueError(f"{name} has no column {missing[0]!r}, expected {'; '.join(head)}")
    body = [
        [row[head.index(column)] for column in wanted]
        for table_head, table in tables
        for row in table
        if table_head == head and re.search(rows, row[0])
    ]
    if not body:
        raise ValueError(f"no row of {name} has {rows!r}")
    shown = [part.strip() for part in titles.split(";")] if titles else wanted
    if len(shown) != len(wanted):
        raise ValueError(f"{len(shown)} titles for {len(wanted)} columns")
    places = dict.fromkeys(  # a file may hold several runs on one machine
        "; ".join(
            re.sub(r"^- ", "", line)
            for line in part.splitlines()
            if line.removeprefix("- ").startswith(_HEAD)
        )
        for part in re.split(r"^(?=- processor|processor)", text, flags=re.MULTILINE)
    )
    where = " / ".join(place for place in places if place.startswith("processor"))
    return (
        f"```{{container}} numbers\n\n{markdown_table(shown, body)}\n```\n"
        + f"\n```{{container}} measured-on\n`tests/bench/results/{name}`: {where}\n```\n"
    )


def kept() -> str:
    """Return all kept results, the headings of each a level lower, and what each of them is."""
    text = [_lower((RESULTS / "README.md").read_text())]
    for path in sorted(RESULTS.glob("*.md")):
        if path.name != "README.md":
            body = path.read_text()
            body = body if body.startswith("#") else f"# Quality of the families\n\n{body}"
            text.append(f"{_lower(body)}\n\n`tests/bench/results/{path.name}`\n")
    return "\n\n".join(text)


def _lower(text: str, levels: int = 1) -> str:
    return re.sub(r"^(?=#+ )", "#" * levels, text, flags=re.MULTILINE)


def printed(notebook: str, line: str) -> str:
    """Return what a cell of a notebook printed, from the line with these words to a blank one.

    Raises:
        ValueError: if no cell printed it, or several did.
    """
    cells = json.loads((ROOT / "notebooks" / notebook).read_text())["cells"]
    texts = [
        "".join(output["text"])
        for cell in cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream"
    ]
    found = [text[text.rfind("\n", 0, text.index(line)) + 1 :] for text in texts if line in text]
    found = [text.partition("\n\n")[0] for text in found]
    if len(found) != 1:
        raise ValueError(f"{len(found)} cells of {notebook} printed {line!r}, expected one")
    return f"```text\n{found[0].rstrip()}\n```\n"


# --- models ---

_SHOWN = ("W1M jet mass", "W1P mean", "W1 jet pT", "W1 tau21")


def _flow_of(config: dict[str, Any]) -> setflow.SetFlow:
    """Return the model of a configuration, completed by its training file where that is shipped."""
    node = config["model"]["flow"]
    train = ROOT / config["data"]["train"]
    if train.is_file():
        complete(node["init_args"], str(train))
    return setflow.SetFlow.from_node(node)


def model_table(which: str) -> str:
    """Return the model zoo: a row for each model with weights (`trained`) or without (`untrained`).

    Raises:
        ValueError: if weights are not those of their manifest.
    """
    rows = []
    for folder in sorted(path.parent for path in (ROOT / "models").glob("*/config.yaml")):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        flow = _flow_of(config)
        trained = (folder / "manifest.json").is_file()
        if trained is (which == "trained"):
            parameters = sum(p.numel() for p in flow.field.parameters())
            row = {
                "model": f"[`{folder.name}`](#{folder.name})",
                "task": _task(flow, config["data"]),
                "parameters": f"{parameters:,}<br>{type(flow.field).__name__}",
            }
            rows.append(row | (_measured(folder) if trained else {}))
    table = markdown_table(list(rows[0]), [list(row.values()) for row in rows])
    return f"```{{container}} numbers\n\n{table}\n```\n"


def _task(flow: setflow.SetFlow, data: dict[str, Any]) -> str:
    source = Path(data["train"]).parent.name or "jets"
    objects = schema.words_of(flow.features).objects
    given = f"<br>given {', '.join(flow.conditions)}" if flow.conditions else ""
    return f"{source}<br>at most {data['max_objects']} {objects}{given}"


def _measured(folder: Path) -> dict[str, str]:
    """Return what the card and the manifest of a trained model say of it."""
    card = (folder / "README.md").read_text()
    row = {"evaluations": "—"}
    solver = re.search(r"\((\w+), (\d+) steps", card)
    if solver:
        stages = len(getattr(setflow, solver[1].capitalize())(steps=1).weights)
        row["evaluations"] = f"{stages * int(solver[2])}<br>{solver[1]}, {solver[2]} steps"
    distances = [
        body for head, body in tables_of(card) if head[:3] == ["distance", "value", "floor"]
    ]
    values = {line[0]: f"{line[1]}<br>({line[2]})" for body in distances for line in body}
    row |= {name: values.get(name, "—") for name in _SHOWN}
    time = re.search(r"([\d.]+) ms (?:a|per) jet", card)
    row["ms a jet"] = time[1] if time else "not measured"
    sha256 = json.loads((folder / "manifest.json").read_text())["files"]["weights.safetensors"]
    if hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{folder}: the weights are not those of manifest.json")
    return row | {"sha256 of the weights": f"`{sha256[:32]}`<br>`{sha256[32:]}`"}


def model_cards() -> str:
    """Return the cards of all models, one behind the other."""
    folders = sorted(path.parent for path in (ROOT / "models").glob("*/config.yaml"))
    return "\n".join(card(f"models/{folder.name}/README.md", 2) for folder in folders)


def card(path: str, levels: int = 1) -> str:
    """Return a card of a model or a data set, its headings some levels lower."""
    return _lower((ROOT / path).read_text(), levels)


def distances_of(model: str) -> str:
    """Return the table of distances that stands on the card of a model."""
    text = (ROOT / "models" / model / "README.md").read_text()
    (table,) = (table for table in tables_of(text) if table[0][:2] == ["distance", "value"])
    return markdown_table(*table)


# --- files and commands ---


def schema_table(name: str) -> str:
    """Return a table of `setflow.schema` by its name, with the columns of its rows."""
    rows = getattr(schema, name)
    assert all(map(is_dataclass, rows)), f"{name} holds no rows"
    keys = [field.name for field in fields(rows[0]) if field.name != "label"]
    return markdown_table(keys, [[_cell(getattr(row, key), key) for key in keys] for row in rows])


def _cell(value: object, key: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value}`" if key in ("name", "key", "shape", "dtype") else str(value)


def allowed_classes(which: str) -> str:
    """Return the classes that a model folder (`model`) or a training (`training`) may name."""
    if which == "model":
        names = importlib.import_module("setflow.model.folder").CLASSES
    else:
        names = importlib.import_module("setflow.cli.fit").ALLOWED_CLASSES
    return "\n".join(f"- `{name}`" for name in names) + "\n"


def help_of(command: str) -> str:
    """Return what `setflow COMMAND --help` prints, 84 columns wide."""
    printed, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "84"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            setflow.cli.main([*command.split(), "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue()).strip()
    if not text.startswith("usage:"):
        raise ValueError(f"setflow {command} --help printed {text[:80]!r}")
    return f"```text\n{text}\n```\n"


def folded_help_of(command: str) -> str:
    """Return the help of a command, folded up until a reader asks for it."""
    return (
        f"<details><summary><code>setflow {command} --help</code></summary>\n\n"
        f"{help_of(command)}\n</details>\n"
    )


def picture(script: str, alt: str) -> str:
    """Return a picture that a script of matplotlib draws."""
    return f"```{{eval-rst}}\n.. plot:: {script}\n   :alt: {alt}\n```\n"


def resolve(name: str) -> Any:
    """Return the object of a dotted name, submodules included."""
    parts = name.split(".")
    thing: Any = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], start=2):
        if not hasattr(thing, part):
            importlib.import_module(".".join(parts[:depth]))
        thing = getattr(thing, part)
    return thing
