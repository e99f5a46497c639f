"""A model becomes one to share only with card, metrics against held-out events, and hashes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import setflow
from cli.shell import CONFIG, UNPHYSICAL, fails, run, write_jets
from each import each
from setflow.files import file_sha256
from setflow.jobs.promote import promote
from setflow.report.page import evaluate

pytestmark = UNPHYSICAL
LIMITS = "\n**Limits.** It has hardly been trained.\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with its model, a report on it, and the report of another model."""
    folder = tmp_path_factory.mktemp("promote")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        write_jets(Path("jets.h5"))
        write_jets(Path("held.h5"), seed=1)
        Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
        run("fit", "--config", "config.yaml")
        model = "runs/tiny/model"
        run("sample", model, "--events", 50, "--out", "new.h5", "--steps", 2)
        evaluate("new.h5", "held.h5", "runs/tiny/report", measures=["w1"])
        torch.set_default_dtype(before)
    with (folder / model / "README.md").open("a") as card:
        card.write(LIMITS)
    return folder


@pytest.fixture
def there(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("there")
def test_a_model_is_copied_with_its_numbers(capsys):
    Path("models").mkdir()
    run("promote", "runs/tiny", "models/small")
    assert "wrote models/small" in capsys.readouterr().out
    new, old = Path("models/small"), Path("runs/tiny/model")
    for name in ("config.yaml", "weights.safetensors"):
        assert (new / name).read_bytes() == (old / name).read_bytes()
    metrics = Path("runs/tiny/report/metrics.json").read_bytes()
    assert (new / "metrics.json").read_bytes() == metrics
    manifest = json.loads((new / "manifest.json").read_text())
    assert manifest["files"]["metrics.json"] == file_sha256(new / "metrics.json")
    assert manifest["reference"] == {"file": "held.h5", "sha256": file_sha256(Path("held.h5"))}
    assert manifest["training"] == json.loads((old / "manifest.json").read_text())["training"]
    card = (new / "README.md").read_text()
    assert card.startswith("# small\n")
    assert 'SetFlow.load("models/small")' in card
    value = json.loads(metrics)["metrics"]["w1m"]["value"]
    assert f"| W1M jet mass | {value:.2e}" in card
    parts = [card.index(f"\n**{name}.**") for name in ("Training", "Fidelity", "Limits")]
    assert parts == sorted(parts)
    assert card.count("**Fidelity.**") == 1
    x = [setflow.SetFlow.load(f).sample(3, seed=1, solver=setflow.Euler(1)).x for f in (new, old)]
    assert torch.equal(*x)
    run("info", "models/small")
    assert "a SetFlow; its files are those" in capsys.readouterr().out


@pytest.mark.usefixtures("there")
def test_what_stands_there_is_replaced_on_demand_only(capsys):
    promote("runs/tiny", "small")
    assert "overwrite it with --force" in fails(capsys, "promote", "runs/tiny", "small")
    run("promote", "small", "small", "--report", "runs/tiny/report", "--force")
    card = Path("small/README.md").read_text()
    assert card.count("**Fidelity.**") == card.count("**Limits.**") == 1
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    assert "not a folder that" in fails(capsys, "promote", "runs/tiny", "mine", "--force")
    assert Path("mine/thesis.txt").read_text() == "years"


def _edited(path, change):
    told = json.loads(Path(path).read_text())
    change(told)
    Path(path).write_text(json.dumps(told))


def _card(text):
    Path("runs/tiny/model/README.md").write_text(text)


def _shared(n):
    return {"training": 100, "generated": 0, "reference": n}


_METRICS, _MANIFEST = "runs/tiny/report/metrics.json", "runs/tiny/model/manifest.json"
REFUSALS = {
    "no card": (lambda: Path("runs/tiny/model/README.md").unlink(), "has no card, README.md"),
    "a card without limits": (
        lambda: _card("# m\n\n**Training.** Long.\n"),
        "**Limits.**: what is",
    ),
    "an empty section": (lambda: _card("# m\n\n**Training.**\n" + LIMITS), "**Training.**: how it"),
    "no report": (
        lambda: shutil.rmtree("runs/tiny/report"),
        "no report on this model in runs/tiny",
    ),
    "a report on another model": (
        lambda: _edited(_METRICS, lambda told: told["generated"].update(weights_sha256="0")),
        "no report on this model in runs/tiny",
    ),
    "a report that tells no model": (
        lambda: _edited(_METRICS, lambda told: told["generated"].pop("weights_sha256")),
        "no report on this model in runs/tiny",
    ),
    "two reports": (
        lambda: shutil.copytree("runs/tiny/report", "runs/tiny/second"),
        "several reports on this model, runs/tiny/report, runs/tiny/second; name one by --report",
    ),
    "no numbers": (lambda: Path(_METRICS).write_text("{}"), "holds no numbers of setflow evaluate"),
    "the training data as reference": (
        lambda: shutil.copy("jets.h5", "held.h5"),
        "compares with held.h5, which the model has seen in its training",
    ),
    "a part of the training data as reference": (
        lambda: _edited(_METRICS, lambda told: told.update(training=_shared(50))),
        "compares with held.h5, of which 50 of ",
    ),
    "generated events as reference": (
        lambda: _edited(_METRICS, lambda told: told["reference"].update(weights_sha256="0")),
        "compares with generated events",
    ),
    "a reference that is gone": (lambda: Path("held.h5").unlink(), "held.h5, is not there"),
    "unknown training data": (
        lambda: _edited(_MANIFEST, lambda told: told.pop("training")),
        "does not tell what the model was trained on",
    ),
    "changed weights": (
        lambda: _edited(_MANIFEST, lambda told: told["files"].update({"weights.safetensors": "0"})),
        "does not match its hash",
    ),
    "no model": (lambda: shutil.rmtree("runs/tiny/model"), "runs/tiny is no model folder"),
}


@each("why", REFUSALS)
def test_a_model_that_cannot_be_believed_is_refused(why, trained, tmp_path, monkeypatch, capsys):
    work = tmp_path / why
    shutil.copytree(trained, work)
    monkeypatch.chdir(work)
    break_it, message = REFUSALS[why]
    break_it()
    assert message in fails(capsys, "promote", "runs/tiny", "small")
    assert not Path("small").exists()


@pytest.mark.usefixtures("there")
def test_reports_that_are_named_are_on_this_model(capsys):
    named = ("promote", "runs/tiny", "small", "--report")
    assert "is no folder of a report" in fails(capsys, *named, "runs")
    _edited(_METRICS, lambda told: told["generated"].update(weights_sha256="0" * 64))
    assert "a report on other weights (000000000000)" in fails(capsys, *named, "runs/tiny/report")
    _edited(_METRICS, lambda told: told["generated"].update(weights_sha256=None))
    assert "a report on events of unknown weights" in fails(capsys, *named, "runs/tiny/report")
    error = fails(capsys, *named, _METRICS)
    assert "is a file, expected the folder that setflow evaluate has written, such as runs" in error
    assert "there is no folder nowhere" in fails(capsys, "promote", "nowhere", "small")


@pytest.mark.usefixtures("there")
def test_the_model_of_a_run_is_promoted_by_its_own_path_too():
    run("promote", "runs/tiny/model", "runs/tiny/shared")
    run("promote", "runs/tiny", "small")  # what was promoted is no report, though it has numbers
    assert Path("small/metrics.json").read_bytes() == Path(_METRICS).read_bytes()


@pytest.mark.usefixtures("there")
def test_the_folder_of_the_model_may_be_the_working_folder(monkeypatch):
    shutil.copy("held.h5", "runs/tiny/model")  # the report names it so
    monkeypatch.chdir("runs/tiny/model")
    promote(".", "../../../here")
    assert Path("../../../here/README.md").read_text().startswith("# here\n")


@each("target", ["{cwd}/models/small", "../work/models/small"])
@pytest.mark.usefixtures("there")
def test_the_card_names_no_place_of_the_machine(target):
    Path("models").mkdir(exist_ok=True)
    promote("runs/tiny", target.format(cwd=Path.cwd()), overwrite=True)
    assert 'SetFlow.load("small")' in Path("models/small/README.md").read_text()


@pytest.mark.usefixtures("there")
def test_the_card_of_a_model_that_was_promoted_is_renamed_again():
    Path("models").mkdir()
    promote("runs/tiny", "models/small")
    promote("models/small", "models/large", report="runs/tiny/report")
    card = Path("models/large/README.md").read_text()
    assert card.startswith("# large\n")
    assert 'SetFlow.load("models/large")' in card


@pytest.mark.usefixtures("there")
def test_the_card_says_what_is_known_of_the_reference(capsys):
    promote("runs/tiny", "small")
    assert "a file that the training has not read; `metrics" in Path("small/README.md").read_text()
    _edited(_METRICS, lambda told: told.update(training=_shared(0)))
    promote("runs/tiny", "known")
    assert "has not read (none of them stands in its data" in Path("known/README.md").read_text()
    Path("small/metrics.json").write_text("{}")
    run("info", "small")
    told = " ".join(capsys.readouterr().out.split())
    assert "a SetFlow; metrics.json differs from its manifest" in told
    run("info", "known")
    assert "its files are those of its manifest" in " ".join(capsys.readouterr().out.split())
