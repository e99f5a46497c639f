"""Which files a training is meant to take."""

from __future__ import annotations

import pytest
import torch

from each import each
from setflow.data import EventWriter
from setflow.schema import Feature, Schema
from setflow.sets.batch import SetBatch
from setflow.training.data import SetDataModule
from setflow.training.files import DataFile, classes_of, files_of, in_both

SHIPPED = "pythia-top/train.h5"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g").mkdir()
    for name in ("a.h5", "b.h5", "g/2.h5", "g/1.h5", "odd[1].h5"):
        (tmp_path / name).write_text(name)
    return tmp_path


@each(
    ("given", "expected"),
    [
        ("a.h5", ["a.h5"]),
        (SHIPPED, [SHIPPED]),
        (["b.h5", "a.h5"], ["b.h5", "a.h5"]),
        ("g/*.h5", ["g/1.h5", "g/2.h5"]),
        (["a.h5", "g/*.h5"], ["a.h5", "g/1.h5", "g/2.h5"]),
        ("odd[1].h5", ["odd[1].h5"]),
        ({"top": ["a.h5", "b.h5"], "gluon": "g/*.h5"}, ["a.h5", "b.h5", "g/1.h5", "g/2.h5"]),
    ],
)
def test_paths_lists_patterns_and_classes(folder, given, expected):
    found = files_of(given)
    assert [entry.path for entry in found] == expected
    labels = {entry.label for entry in found}
    assert labels == ({"top", "gluon"} if isinstance(given, dict) else {None})


def test_classes_keep_their_order():
    given = {"top": "a.h5", "gluon": ["b.h5"], "b": "c.h5"}
    assert classes_of(given) == ("top", "gluon", "b")
    assert files_of(given)[1] == DataFile("b.h5", "gluon")


@each(
    ("given", "error", "message"),
    [
        ([], ValueError, "data.train names no file"),
        ({}, ValueError, "data.train names no file"),
        ("no*.h5", FileNotFoundError, "data.train: no file matches no"),
        ({"top": "no*.h5"}, FileNotFoundError, "data.train.top: no file matches no"),
        (["a.h5", "./a.h5"], ValueError, r"data.train has the file ./a.h5 twice; give it once"),
        ({"top": "a.h5", "gluon": "a.h5"}, ValueError, "twice, for top and gluon"),
        (["a.h5", 3], ValueError, "holds 3, expected a path"),
        ({"top": {"a": "a.h5"}}, ValueError, "data.train.top is .* expected a path or a list"),
    ],
)
def test_what_names_no_files_is_refused(folder, given, error, message):
    with pytest.raises(error, match=message):
        files_of(given)


def test_a_file_on_both_sides_is_found(folder):
    assert in_both(files_of("a.h5"), files_of(["b.h5", "a.h5"])) == "a.h5"
    (folder / "copy.h5").write_text("a.h5")
    assert in_both(files_of("a.h5"), files_of("copy.h5")) == "a.h5"
    assert in_both(files_of("a.h5"), files_of("b.h5")) is None


def test_events_of_several_files_are_those_of_each(tmp_path):
    """Together, padded to the longest, with no collision on both sides."""
    from cli.shell import write_jets

    write_jets(tmp_path / "short.h5", jets=40, slots=3)
    write_jets(tmp_path / "long.h5", jets=60, slots=6, seed=1)
    names = [str(tmp_path / name) for name in ("short.h5", "long.h5")]
    both = SetDataModule(names, conditions=["mass"], val_fraction=0.25)
    alone = [SetDataModule(name, conditions=["mass"], val_fraction=0.25) for name in names]
    masses = []
    for module in (both, *alone):
        module.setup("fit")
        masses.append(torch.cat([module._train.c, module._val.c])[:, 0].sort().values)
    assert torch.equal(masses[0], torch.cat(masses[1:]).sort().values)
    assert both.train_events.x.shape == (75, 6, 3)
    assert len(both._val) == 25


def write_other(path, unit, scale, names="top, gluon", seed=0):
    """Objects and events in a unit, of a schema that JetNet does not know."""
    generator = torch.Generator().manual_seed(seed)
    schema = Schema(
        [Feature("x", unit), Feature("e", "GeV", "positive")],
        [Feature("radius", unit, "positive"), Feature("kind", kind=f"category({names})")],
    )
    x = torch.rand(50, 4, 2, generator=generator) + 0.5
    event = torch.rand(50, 2, generator=generator) + 0.5
    event[:, 1] = torch.arange(50) % 2
    x[..., 0] *= scale
    event[:, 0] *= scale
    with EventWriter(path, schema) as writer:
        writer.write(SetBatch(x, torch.ones(50, 4)), event)
    return path.name


def test_files_in_other_units_are_read_in_those_of_the_first(tmp_path, monkeypatch):
    """Without a schema, too: millimetres and centimetres of objects and of conditions never mix."""
    monkeypatch.chdir(tmp_path)
    files = [
        write_other(tmp_path / "mm.h5", "mm", 1),
        write_other(tmp_path / "cm.h5", "cm", 0.1, "gluon, top", seed=1),
    ]
    data = SetDataModule(files, conditions=["radius", "kind"], features=["x", "e"])
    with pytest.warns(
        UserWarning, match="cm.h5: (values: x|context: radius) from cm to mm"
    ) as told:
        events = data.train_events
    assert len(told) == 2
    every = torch.cat([events.c, data._val.c])
    assert float(every[:, 0].min()) >= 0.49
    assert float(events.x[..., 0].min()) >= 0.49
    assert data.context_features[0] == Feature("radius", "mm", "positive")
    codes = torch.cat([torch.arange(50) % 2, 1 - torch.arange(50) % 2])
    assert int((every[:, 1] == 1).sum()) == int(codes.sum())


def test_a_file_in_a_unit_that_is_no_other_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [
        write_other(tmp_path / "mm.h5", "mm", 1),
        write_other(tmp_path / "ns.h5", "ns", 1, seed=1),
    ]
    with pytest.raises(
        ValueError, match=r"ns.h5: values: x stands in units of 'ns', expected 'mm'"
    ):
        SetDataModule(files, features=["x", "e"]).setup("fit")
    with pytest.raises(ValueError, match="context: radius stands in units of 'ns', expected 'mm'"):
        SetDataModule(files, conditions=["radius"], features=["e"]).setup("fit")


def test_what_is_wrong_with_events_does_not_call_them_jets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_other(tmp_path / "mm.h5", "mm", 1)
    with pytest.raises(ValueError, match=r"of the 50 events in .* or events to validate on"):
        SetDataModule(file, features=["x"], val_fraction=0.001).setup("fit")
    with pytest.raises(ValueError, match="of the training events is held out, or give other even"):
        SetDataModule(file, file, features=["x"]).setup("fit")
