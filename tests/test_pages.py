"""The pages of the site: their code runs, their commands parse, their reference is complete.

A block of Python is run, one after the other on each page, and prints what the block of text behind
it says. A command is read by its own parser. A block that is not run says why in a comment before
it: `<!-- not run: needs a GPU -->`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from each import each
from setflow.cli.arguments import parser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if "notebooks" not in path.relative_to(DOCS).parts
)
LANGUAGES = {"python", "bash", "text", "yaml"}
REASON = re.compile(r"<!-- not run: (\w.{9,}) -->$")


class Block(NamedTuple):
    """A block of code: its language, its text, why it is not run, and what follows it."""

    language: str
    code: str
    excuse: str | None
    printed: str


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of code of a page, without directives."""
    found = []
    pattern = re.compile(
        r"(?P<comment><!--.*?-->\n)?^```(?P<language>\w[\w-]*)\n(?P<code>.*?)^```$"
        r"(?:\n\n```text\n(?P<printed>.*?)^```$)?",
        flags=re.DOTALL | re.MULTILINE,
    )
    for match in pattern.finditer(text):
        comment = (match["comment"] or "").strip()
        reason = REASON.match(comment)
        assert bool(reason) == ("not run" in comment), f"no reason in {comment!r}"
        excuse = reason[1] if reason else None
        found.append(Block(match["language"], match["code"], excuse, match["printed"] or ""))
    return found


def page(name: str) -> list[Block]:
    return blocks_of((DOCS / name).read_text())


WITH_PYTHON = [name for name in PAGES if any(block.language == "python" for block in page(name))]


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A folder that has the data and the models of the repository, and takes what a page writes."""
    for folder in ("datasets", "models"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")  # whatever the terminal
    torch.set_default_dtype(torch.float32)
    return tmp_path


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_the_code_of_a_page_runs_and_prints_what_it_says(name, elsewhere):
    names: dict[str, object] = {}
    for block in page(name):
        if block.language != "python" or block.excuse:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.code, f"docs/{name}", "exec"), names)
        assert printed.getvalue() == block.printed, block.code
    if name == "fields.md":  # what it saves is what it loads
        assert names["DeepSets"](3).state_dict().keys() == names["again"].state_dict().keys()
        assert names["log_p"].isfinite().all()


@each("name", PAGES)
def test_a_block_of_code_is_run_or_says_why_not(name):
    """Nothing hides: a language that no test knows, an indented fence, an excuse without need."""
    text = (DOCS / name).read_text()
    fences = re.findall(r"^[ ]*(?:```|~~~|:::)+(?!\{)(\w[\w-]*)", text, flags=re.MULTILINE)
    assert set(fences) <= LANGUAGES, name
    ours = [block for block in page(name) if block.language in ("python", "bash")]
    assert len(ours) == sum(language in ("python", "bash") for language in fences), name


def test_an_excuse_needs_a_reason():
    block = "```python\nraise SystemExit\n```\n"
    (excused,) = blocks_of(f"<!-- not run: needs a GPU and time -->\n{block}")
    assert excused.excuse == "needs a GPU and time"
    for comment in ("<!-- not run -->", "<!-- not run: -->", "<!-- not run: no -->"):
        with pytest.raises(AssertionError, match="no reason"):
            blocks_of(f"{comment}\n{block}")


# --- commands ---


def commands_of(code: str) -> list[list[str]]:
    """Return the commands of a block, without comments, continued lines joined."""
    return [words for line in code.replace("\\\n", " ").splitlines()
            if (words := shlex.split(line, comments=True))]  # fmt: skip


COMMANDS = [
    (name, words)
    for name in PAGES
    for block in page(name)
    if block.language == "bash" and not block.excuse
    for words in commands_of(block.code)
]


class ParsedError(Exception):
    """Raised instead of building what a command line describes."""


@pytest.mark.parametrize(
    "words", [words for _, words in COMMANDS], ids=lambda words: " ".join(words)[:60]
)
def test_a_command_of_a_page_is_one(words, elsewhere, monkeypatch):
    tool, *arguments = words
    if tool == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{arguments[0]}:", makefile, flags=re.MULTILINE)
    elif tool == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        action, target = arguments
        assert action == "install"
        for extra in re.fullmatch(r"\.\[([\w,]+)\]", target)[1].split(","):
            assert extra in extras["optional-dependencies"]
    else:
        assert tool == "setflow"
        parsed(arguments, monkeypatch)


def parsed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the parser of a command read its arguments, without running it.

    Raises:
        SystemExit, ValueError: if it refuses them.
    """
    if arguments[0] == "fit":
        fit = importlib.import_module("setflow.cli.fit")

        def stop(cli: object) -> None:
            raise ParsedError

        monkeypatch.setattr(fit.FitCLI, "instantiate_classes", stop)
        with pytest.raises(ParsedError):
            fit.fit(arguments[1:])
    else:
        parser().parse_args(arguments)


@each("line", ["sample models/top30", "sample models/top30 --out a.h5 --pace 3", "fit --pace 3"])
def test_a_command_that_is_none_is_found(line, monkeypatch, capsys):
    with pytest.raises((SystemExit, ValueError)):
        parsed(line.split(), monkeypatch)


@each("command", [words for _, words in COMMANDS if words[0] == "setflow"])
def test_a_command_names_files_that_are_there_or_made_on_the_page(command):
    for path in re.findall(r"(?:datasets|models)/[\w./-]+\w", " ".join(command)):
        assert (ROOT / path).exists(), path


# --- the site ---

PACKAGES = (
    "setflow", "setflow.data", "setflow.diagnostics", "setflow.diffusion", "setflow.distributions",
    "setflow.divergence", "setflow.fields", "setflow.losses", "setflow.masking", "setflow.model",
    "setflow.paths", "setflow.physics", "setflow.rectified", "setflow.schema", "setflow.sets",
    "setflow.solvers", "setflow.timesteps", "setflow.training",
)  # fmt: skip
ELSEWHERE = {"cli", "compat", "jobs", "report"}  # no names of their own; pages list what they do


def test_the_public_packages_are_all_there_are():
    packages = {path.parent.name for path in (ROOT / "setflow").glob("*/__init__.py")}
    assert packages - ELSEWHERE <= {name.rpartition(".")[2] for name in PACKAGES}


def documented() -> list[str]:
    """Return the names that the pages of the reference document."""
    listed = [
        re.findall(r"^```\{api\}\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for path in (DOCS / "reference/api").glob("*.md")
    ]
    return [name for blocks in listed for block in blocks for name in block.split()]


def load_sources():
    """Return `docs/sources.py`, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("docs_sources", DOCS / "sources.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_reference_once():
    sources = load_sources()
    names = documented()
    assert len(names) == len(set(names))
    things = {id(sources.resolve(name)) for name in names}
    assert len(things) == len(names)
    missing = [
        f"{package}.{name}"
        for package in PACKAGES
        for name in importlib.import_module(package).__all__
        if id(getattr(importlib.import_module(package), name)) not in things
    ]
    assert missing == []


def test_what_a_page_takes_from_elsewhere_is_there_or_refused():
    """A column, a row, a printout or a command that has gone is an error of the build."""
    sources = load_sources()
    table = sources.results("quality.md", "field; w1m", "field; mass", "^(epic|graph)$")
    ((head, rows),) = sources.tables_of(table)
    assert head == ["field", "mass"]
    assert [row[0] for row in rows] == ["epic", "graph"]
    assert all("±" in row[1] for row in rows)
    assert "processor: " in table
    shown = sources.printed("02_masked_sets.ipynb", "mean over slots").splitlines()
    assert len(shown) == 7  # two of the block, the head, and four rows: down to the blank line
    for call, message in (
        (lambda: sources.results("quality.md", "field; speed"), "no column 'speed'"),
        (lambda: sources.results("quality.md", rows="nobody"), "no row"),
        (lambda: sources.results("quality.md", "field; w1m", "field"), "1 titles for 2"),
        (lambda: sources.printed("03_likelihood.ipynb", "nobody printed"), "expected one"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_model_zoo_says_what_is_not_known():
    sources = load_sources()
    ((head, trained),) = sources.tables_of(sources.model_table("trained"))
    known, staged, typed, events = (dict(zip(head, row, strict=True)) for row in trained)
    assert events["evaluations"] == "32<br>midpoint, 16 steps"
    assert events["W1M jet mass"] == "—"
    assert staged["evaluations"] == "16<br>midpoint, 8 steps"
    assert staged["ms a jet"] == "17"
    assert typed["evaluations"] == "50<br>midpoint, 25 steps"
    assert typed["W1M jet mass"].startswith("3.06")
    assert known["evaluations"] == "50<br>midpoint, 25 steps"
    assert known["parameters"] == "248,070<br>TransformerField"
    assert known["ms a jet"] == "18"
    ((head, rows),) = sources.tables_of(sources.model_table("untrained"))
    folders = {path.parent.name for path in (ROOT / "models").glob("*/config.yaml")}
    assert {re.search(r"`([\w-]+)`", row[0])[1] for row in rows} == folders - {
        "top30",
        "top30-two-stages",
        "top30-types",
        "ttbar-events",
    }


def test_every_page_is_in_a_table_of_contents():
    """Sphinx warns of a page that is in none; this says so in a second."""
    listed = set()
    for name in PAGES:
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / name).read_text(), re.DOTALL):
            for entry in tree.splitlines():
                if entry and not entry.startswith(":"):
                    listed.add((DOCS / name).parent.joinpath(entry).relative_to(DOCS).as_posix())
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert listed == {name.removesuffix(".md") for name in PAGES} - {"index"} | notebooks


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("sphinx", reason="the site needs `pip install 'setflow[docs]'`")
    options = ["-W", "--keep-going", "-n", "-q", "-b", "html", "-d", str(tmp_path / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    built = (tmp_path / "html/reference/models.html").read_text()
    manifest = json.loads((ROOT / "models/top30/manifest.json").read_text())
    assert manifest["files"]["weights.safetensors"][:32] in built
    assert (tmp_path / "html/searchindex.js").is_file()
    for place in (tmp_path / "html").rglob("*.html"):  # what a reader without a network misses
        scripts = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"',
                             place.read_text())  # fmt: skip
        assert scripts == [], place.name
