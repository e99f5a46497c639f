"""What travels with the package is found by name; a path that exists wins."""

from __future__ import annotations

from pathlib import Path

import pytest

import setflow
from each import each
from setflow import shipped
from setflow.data import read_header, recipes
from setflow.shipped import CONFIGURATIONS, JETS, MODELS, RECIPES, find, known, paths

ROOT = Path(__file__).resolve().parents[1]
NAMES = [
    (RECIPES, "pythia-top", "datasets/pythia-top"),
    (RECIPES, "datasets/pythia-top", "datasets/pythia-top"),
    (RECIPES, "pythia-top/recipe.yaml", "datasets/pythia-top"),
    (CONFIGURATIONS, "top30", "models/top30/config.yaml"),
    (CONFIGURATIONS, "models/demo", "models/demo/config.yaml"),
    (CONFIGURATIONS, "models/demo/config.yaml", "models/demo/config.yaml"),
    (MODELS, "top30", "models/top30"),
    (MODELS, "models/top30/", "models/top30"),
    (JETS, "pythia-top/heldout.h5", "datasets/pythia-top/heldout.h5"),
    (JETS, "datasets/pythia-top/train.h5", "datasets/pythia-top/train.h5"),
]
UNKNOWN = [
    (RECIPES, "pythia"),
    (MODELS, "demo"),  # it has no weights
    (JETS, "pythia-top"),
    (JETS, "heldout.h5"),
    (MODELS, "/top30"),
    (MODELS, "../models/top30"),
    (MODELS, "datasets/top30"),
]


@each(("kind", "given", "expected"), NAMES)
def test_a_name_leads_there_from_any_folder(kind, given, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find(kind, given) == ROOT / expected


@each(("kind", "given"), UNKNOWN)
def test_what_is_no_name_stays_a_path(kind, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find(kind, given) == Path(given)


def test_a_path_that_exists_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "top30").mkdir()
    (tmp_path / "datasets/pythia-top").mkdir(parents=True)
    assert find(MODELS, "top30") == Path("top30")
    assert find(RECIPES, "datasets/pythia-top") == Path("datasets/pythia-top")


def test_a_folder_is_no_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert find(CONFIGURATIONS, "demo") == ROOT / "models/demo/config.yaml"
    (tmp_path / "demo/config.yaml").touch()  # one that was meant, which whoever reads it says
    assert find(CONFIGURATIONS, "demo") == Path("demo")


def test_python_finds_what_the_shell_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert setflow.SetFlow.load("top30").features == ("etarel", "phirel", "ptrel")
    assert read_header("pythia-top/heldout.h5").n == 5000
    assert recipes.Recipe.load("pythia-quark").name == "pythia-quark"


@each(
    ("call", "hint"),
    [
        (
            lambda: setflow.SetFlow.load("top3"),
            "the shipped models are top30, top30-two-stages, top30-types, ttbar-events, did you "
            "mean top30?",
        ),
        (lambda: read_header("pythia-top/held.h5"), "did you mean pythia-top/heldout.h5?"),
        (lambda: recipes.Recipe.load("pythia-tops"), "did you mean pythia-top?"),
    ],
)
def test_an_unknown_name_gives_the_list_and_the_nearest(call, hint):
    with pytest.raises(FileNotFoundError) as caught:
        call()
    assert hint in str(caught.value)


def test_an_installation_without_them_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "_COPIES", tmp_path / "none")
    monkeypatch.setattr(shipped, "clone", lambda: None)
    assert paths(MODELS) == {}
    assert find(MODELS, "top30") == Path("top30")
    assert known(MODELS, "top30") == "no models are shipped with this installation"
