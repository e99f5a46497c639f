"""What a reader copies works: the README's example, the cards.

The pages of the site are in `tests/test_pages.py`, the notebooks in `tests/test_notebooks.py`.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

import setflow
from each import each
from setflow.cli import main
from setflow.training.conditions import complete

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
FIELDS = (ROOT / "docs/fields.md").read_text()


@pytest.fixture
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    torch.set_default_dtype(torch.float32)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_readme_example_runs(in_repository):
    (example,) = _blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 11
    names: dict[str, object] = {}
    exec(example, names)
    new = names["new"]
    assert new.x.shape == (100, 30, 3)
    assert new.mask.shape == (100, 30)
    assert new.x.isfinite().all()
    assert (new.x[..., 2][new.mask] > 0).all()


def test_the_readme_fits_on_a_screen():
    assert len(README.splitlines()) <= 72


def test_the_links_and_the_picture_of_the_readme_are_there():
    """Also that its measured numbers are those of the places that it names."""
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 20
    for link in links:
        assert (ROOT / link).is_file(), link
    for words, model, mass, prongs in (
        ("a model of top jets", "top30-two-stages", "0.57e-3", "5.9e-3"),
        ("another with a density", "top30", "1.5e-3", "10.8e-3"),
    ):
        cell = next(line for line in README.splitlines() if words in line)
        card = (ROOT / "models" / model / "README.md").read_text()
        for name, shown in (("W1M jet mass", mass), ("W1 tau21", prongs)):
            cells = rf"^\| {name} \| (\S+)(?: ± \S+)? \| (\S+)"  # with an error or not; floor
            ((value, floor),) = re.findall(cells, card, re.MULTILINE)
            assert shown in cell
            assert float(shown) == pytest.approx(float(value), rel=0.02)
            in_thousandths = f"{float(floor) * 1e3:.1f}"
            assert f"({in_thousandths} ±" in cell


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == setflow.__version__
    assert citation["license"] == "MIT"
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def _pages() -> list[Path]:
    places = ("*.md", ".github/*.md", "datasets/*/*.md", "models/*/*.md", "Makefile")
    return [path for place in places for path in ROOT.glob(place) if path.name != "CHANGELOG.md"]


def _commands(text: str) -> list[list[str]]:
    """The words of every `setflow ...` line of a page, in blocks and in sentences."""
    text = re.sub(r"\\\n\s*", "", text).replace("$$(nproc)", "2").replace("$(BIN)/", "")
    commands = "fit|sample|score|evaluate|dataset|demo"
    found = re.findall(rf"setflow ((?:{commands})\b(?: [^`\n]+)?)", text)
    return [shlex.split(line, comments=True) for line in found]


def _refusal(words: list[str], capsys) -> str:
    """What the parsers say against a command, without running it; empty if nothing."""
    from setflow.cli.arguments import parser

    try:
        if words[0] == "fit" and words[1:] and words[1] != "--help":
            with pytest.raises(SystemExit) as stop:
                main([*words, "--print_config"])
            return "" if stop.value.code == 0 else capsys.readouterr().err
        parser().parse_args(words)
    except ValueError as error:
        return str(error)
    except SystemExit:
        return ""
    return ""


@pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.rank_zero.LightningDeprecationWarning"
)
def test_every_command_of_the_docs_is_one_that_the_parsers_take(in_repository, capsys):
    pages = {path: _commands(path.read_text()) for path in _pages()}
    assert sum(map(len, pages.values())) > 15
    for path, commands in pages.items():
        for words in commands:
            refusal = _refusal(words, capsys)
            # a sentence may name a command without what it needs, but no argument that is none
            assert not refusal or " needs " in refusal, f"{path}: {shlex.join(words)}: {refusal}"


def test_the_page_of_the_shell_runs_in_order(tmp_path, monkeypatch, capsys):
    """As printed, with fewer jets and steps; each output is the input of the next command."""
    for name in ("datasets", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    commands = _commands((ROOT / "docs/start/shell.md").read_text())
    assert [words[0] for words in commands] == [
        "sample", "evaluate", "fit", "sample", "evaluate", "dataset", "fit", "score"
    ]  # fmt: skip
    fewer = {
        "dataset": ["--events", "40"],
        "fit": ["--trainer.max_steps", "2", "--trainer.val_check_interval", "1",
                "--trainer.log_every_n_steps", "1", "--data.batch_size", "8"],
        "sample": ["--events", "110", "--steps", "1"],
        "evaluate": ["--events", "110"],
        "score": ["--events", "3", "--steps", "1"],
    }  # fmt: skip
    for words in commands:
        main([*words, *fewer[words[0]]])
    out, err = capsys.readouterr()
    assert out.count("\nnext: ") == len(commands)
    assert "3 of 3 rows" in out
    assert "setflow: warning" not in err
    scores = commands[-1][commands[-1].index("--out") + 1]
    assert Path(scores).is_file()


def test_the_page_on_conditional_jets_runs_in_order(tmp_path, monkeypatch, capsys):
    """As printed, with fewer jets and steps, on simulated jets of each class."""
    (tmp_path / "datasets").symlink_to(ROOT / "datasets")
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    commands = _commands((ROOT / "docs/howto/conditional.md").read_text())
    fewer = {
        "dataset": ["--events", "60"],
        "fit": ["--trainer.max_steps", "2", "--trainer.val_check_interval", "1",
                "--trainer.log_every_n_steps", "1", "--data.batch_size", "32",
                "--trainer.callbacks", "[]"],
        "sample": ["--steps", "1"],
        "score": ["--events", "3", "--steps", "1"],
        "evaluate": ["--events", "110"],
    }  # fmt: skip
    commands = [words for words in commands if len(words) > 1]  # those of blocks
    for words in commands:
        words = [word.replace(":5000", ":60") for word in words]
        if words[0] == "sample" and "--events" in words:
            words[words.index("--events") + 1] = "110"
        main([*words, *fewer[words[0]]])
    out, _ = capsys.readouterr()
    assert out.count("\nnext: ") == len(commands)
    assert out.count("3 of 3 rows") == 2


def test_examples_that_score_take_densities_that_are_proper():
    """With a Box-Cox exponent above 0 a part of the probability is left out of every density."""
    examples = "".join(_blocks("python"))
    assert 'schema="jetnet"' in examples
    assert "boxcox" not in examples
    commands = _commands((ROOT / "docs/start/shell.md").read_text())
    (score,) = (words for words in commands if words[0] == "score")
    assert {"--estimator", "hutchinson"} <= set(score)
    name = Path(score[1]).parent.name
    (fit,) = (words for words in commands if words[0] == "fit" and name in words)
    assert "[real, real, positive]" in fit


def test_the_page_on_fields_shows_a_field_in_twenty_lines():
    (block,) = re.findall(r"class DeepSets.*?```", FIELDS, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) - 1 <= 20


def test_the_page_on_fields_names_what_is_there_and_every_law():
    for name in re.findall(r"^\| `(\w+)` \| [a-z ]+,? ", FIELDS, re.MULTILINE):
        if name.endswith("Field"):
            assert hasattr(setflow.fields, name), name
    for name in re.findall(r"`setflow\.fields\.(\w+)`", FIELDS):
        assert hasattr(setflow.fields, name), name
    broken = ", ".join(re.findall(r"^\w+ breaks: (.*)", FIELDS, re.MULTILINE)).split(", ")
    laws = {"content", "length", "order", "agreement", "emptiness", "same law", "company"}
    assert set(broken) == laws | {"no law"}


def test_the_readme_names_what_is_there():
    makefile = (ROOT / "Makefile").read_text()
    told = re.findall(r"make ([a-z-]+) ", makefile.partition("help:")[2].partition("\n\n")[0])
    for target in re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE):
        assert target in (*told, "clean", "help", "cuda-device", "with-peers", "with-scatter")
    for path in re.search(r"^JUDGES := ((?:.*\\\n)*.*)", makefile, re.MULTILINE)[1].split():
        assert path == "\\" or (ROOT / path).is_file(), path
    for command in ("make demo", "make test"):
        assert command in README
    for path in re.findall(r"`((?:datasets|docs|models|notebooks|tests|\.github)/[^` ]+)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"(?:datasets|models)/[\w./-]+\w", "".join(_blocks("sh"))):
        assert (ROOT / path).exists(), path


def test_the_conventions_of_the_readme_name_real_things():
    for name in re.findall(r"setflow\.(\w+)\(", README):
        assert hasattr(setflow, name), name


@each(
    "folder", sorted((ROOT / "datasets").iterdir()) + sorted((ROOT / "models").iterdir()),
    ids=lambda folder: folder.name,
)  # fmt: skip
def test_every_artefact_has_a_card(folder):
    assert (folder / "README.md").is_file()
    assert not list(folder.rglob("*.py"))


CONFIGURED = sorted(path.parent.name for path in (ROOT / "models").glob("*/config.yaml"))


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_configuration_builds_the_model_of_its_card(name):
    """Also every family of fields that a user can name has one."""
    config = yaml.safe_load((ROOT / "models" / name / "config.yaml").read_text())
    node, train = config["model"]["flow"], ROOT / config["data"]["train"]
    if train.is_file():
        complete(node["init_args"], str(train))
    flow = setflow.SetFlow.from_node(node)
    card = (ROOT / "models" / name / "README.md").read_text()
    parameters = sum(parameter.numel() for parameter in flow.field.parameters())
    assert f"{parameters:,} parameters" in card.replace("\n", " ")
    assert config["name"] == name
    assert config["data"]["max_objects"] == flow.cardinality.max_objects


def test_every_family_has_a_configuration():
    text = "".join((ROOT / "models" / name / "config.yaml").read_text() for name in CONFIGURED)
    for family in ("TransformerField", "EPiCField", "GraphField"):
        assert f"setflow.{family}" in text
