"""Training files in the layouts of others, named in a configuration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.formats.test_convert import FIVE
from data.formats.written import WRITTEN
from each import each
from setflow.data.formats.convert import InputFile, convert
from setflow.training import SetDataModule
from setflow.training.foreign import given_of_node, readable
from setflow.training.statistics import cache_folder

NPY = {"name": "npy", "columns": list(FIVE), "mask": "field:mask"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@each(("name", "form"), [("energyflow", "energyflow"), ("generic", NPY)])
def test_a_training_reads_what_convert_would_write(name, form, tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    path = WRITTEN[name](folder / "a.file")
    convert([InputFile(path, None)], folder / "b.h5", given_of_node(form))
    features = FIVE if name == "generic" else ("etarel", "phirel", "ptrel")
    mine, theirs = (
        SetDataModule(str(file), features=features, format=told, val_fraction=0.3)
        for file, told in ((path, form), (folder / "b.h5", None))
    )
    assert torch.equal(mine.train_events.x, theirs.train_events.x)
    assert torch.equal(mine.train_events.mask, theirs.train_events.mask)


def test_a_file_is_converted_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    path = WRITTEN["energyflow"](tmp_path / "a.npz")
    (first,) = readable(str(path), "energyflow")
    calls = []
    monkeypatch.setattr("setflow.training.foreign.convert", lambda *a, **k: calls.append(a))
    assert readable({"top": [f"{path}[3:7]"]}, "energyflow") == {"top": [f"{first}[3:7]"]}
    assert calls == []
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arrays = dict(np.load(path))
    np.savez(path, **{name: values[:50] for name, values in arrays.items()})
    (second,) = readable(str(path), "energyflow")
    assert second != first
    assert str(cache_folder().parent) in second


@each(
    ("form", "message"),
    [
        ("jetklass", "data.format is 'jetklass', expected one of .*did you mean 'jetclass'"),
        ({"nam": "epic"}, "data.format is .'nam': 'epic'., expected one of .* as name$"),
        ({"name": "custom", "mapping": "no.yaml"}, "format.mapping: no.yaml does not exist, expec"),
        (
            {"name": "calo", "voxels": "/tmp"},
            "format.voxels: /tmp is a folder, expected a table of",
        ),
        ({"name": "custom", "mapping": "/dev/null"}, "/dev/null is a device, expected a regular"),
        ("custom", "data.format is 'custom', and the format custom needs mapping, too"),
        ("ragged", "the format ragged needs columns, too; write it as a mapping, such as .name"),
        ({"name": "npy", "columns": ["a"]}, "the format npy needs mask, too"),
        ({"name": "npy", "columns": "pt", "mask": "all"}, "columns is 'pt', expected a list"),
        ({"name": "calo", "shape": 23}, "data.format.shape is 23, expected a list"),
        ({"name": "jetclass", "features": "ptrel"}, "features is 'ptrel', expected a list"),
        (
            {"name": "npy", "columns": ["a"], "mask": {"nonzero": "a"}},
            "data.format.mask is .'nonzero': 'a'., expected a text: nonzero:pt",
        ),
        (
            {"name": "jetclass", "columns": ["a"]},
            "data.format has columns, which belongs to the format npy or ragged, not to jetclass",
        ),
        ({"name": "npy", "colums": ["a"]}, "has 'colums', expected .*did you mean 'columns'"),
    ],
)
def test_a_format_that_is_none_is_an_error(form, message):
    with pytest.raises((OSError, ValueError), match=message):
        given_of_node(form)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such"):
        readable(str(tmp_path / "no-such.npz"), "energyflow")
