"""The model zoo in small: a card says what was measured, and nothing else of it moves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from bench import zoo
from setflow.data import read_jets
from setflow.data.writing import JetWriter
from setflow.physics.measures import title_of
from setflow.report import figures

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A copy of the shipped model; few and short steps."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(zoo, "_TIMED", 5)
    monkeypatch.setattr(figures, "draw_jets", lambda *_, **__: {})
    return Path(shutil.copytree(ROOT / "models/top30", tmp_path / "top30"))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    jets = read_jets(ROOT / "datasets/pythia-top/heldout.h5", stop=150, max_objects=30)
    with JetWriter(folder / "pythia-top.h5", objects=30, attributes={"seed": 1000}) as writer:
        writer.write(jets.particles, jets.jets)
    return folder


def test_every_number_of_the_card_is_one_that_was_measured(model, data, tmp_path):
    card = model / "README.md"
    before = card.read_text()
    summary = zoo.measure(model, data, tmp_path / "kept", events=60, steps=2, fast=True)
    after = card.read_text()
    kept = json.loads((tmp_path / "kept/top30.json").read_text())
    assert kept["summary"] == summary
    assert kept["measured_on"][0].startswith("processor: ")
    assert kept["missing"].keys() == {"fpd", "kpd", "auc_trees"}  # of so few jets
    cut = [(text[: text.index(zoo.BEGIN)], text[text.index(zoo.END) :]) for text in (before, after)]
    assert cut[0] == cut[1]  # what was not measured stands as it did
    block = after[after.index(zoo.BEGIN) : after.index(zoo.END)]
    words = " ".join(block.split())
    assert f"**Fidelity.** {summary}" in words
    assert "60 jets (midpoint, 2 steps, seed 1) against 150 jets of the recipe pythia-top" in words
    assert "seed 1000" in block
    assert re.search(r"^\*\*Speed\.\*\* \d+ ms a jet of one core", block, re.MULTILINE)
    rows = dict(re.findall(r"^\| ([^|]+) \| (\S+) ", block, re.MULTILINE))
    assert set(rows) == {"distance", *(title_of(name) for name in kept["metrics"])}
    for name, result in kept["metrics"].items():
        assert float(rows[title_of(name)]) == pytest.approx(result["value"], rel=5e-3, abs=1e-12)
    assert str(tmp_path) not in (tmp_path / "kept/top30.json").read_text()
    assert str(tmp_path) not in after

    sample = data / "top30-sample.h5"
    made = sample.stat().st_mtime_ns
    zoo.measure(model, data, tmp_path / "kept", events=60, steps=2, fast=True)
    assert sample.stat().st_mtime_ns == made  # a run that was cut off goes on
    assert re.sub(r"\d+ ms", "", card.read_text()) == re.sub(r"\d+ ms", "", after)
    zoo.measure(model, data, tmp_path / "kept", events=61, steps=2, fast=True)
    assert "61 jets (midpoint" in card.read_text()


def test_what_is_missing_is_told_before_the_work(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "sample_to_hdf5", None)
    (data / "pythia-top.h5").rename(data / "other.h5")
    with pytest.raises(FileNotFoundError, match="make zoo-data writes it"):
        zoo.measure(model, data, tmp_path, events=60, steps=2, fast=True)
    (model / "README.md").write_text("# top30\n")
    with pytest.raises(ValueError, match="the card has to hold the lines"):
        zoo.measure(model, data, tmp_path, events=60, steps=2, fast=True)


def test_every_shipped_model_has_a_place_for_what_is_measured():
    models = zoo._shipped()
    assert [model.name for model in models] == ["top30", "top30-two-stages", "top30-types"]
    for model in models:
        assert zoo.written((model / "README.md").read_text(), "block").count("block") == 1


def test_make_simulates_what_is_not_there(tmp_path):
    """One file for each recipe, outside of the repository; what is complete is left."""
    (tmp_path / "pythia-gluon.h5").touch()
    command = ["make", "-n", "-o", ".venv/.stamp", f"ZOO={tmp_path}", "zoo-data"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    made = re.findall(r"dataset make datasets/(\S+) --events 30000 --seed 1000", told)
    assert made == ["pythia-quark", "pythia-top", "pythia-ttbar-events"]
    default = subprocess.run(
        ["make", "-np", "zoo-data"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    (folder,) = re.findall(r"^ZOO = (.*)$", default, re.MULTILINE)
    assert folder.endswith("/setflow/zoo")
    assert "CURDIR" not in folder
