"""Features that some objects do not have: in files 0, neither judged nor counted."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from setflow.data.event_writing import EventWriter
from setflow.data.hdf5 import read_events
from setflow.data.header import read_header
from setflow.data.summary import summarize_events
from setflow.data.tally import Rows, Tally
from setflow.data.valid import count_impossible
from setflow.schema import Feature, Schema
from setflow.sets.batch import SetBatch

TYPES = ("jet", "muon", "met")
SCHEMA = Schema(
    [
        Feature("pt", "GeV", "positive"),
        Feature("eta", absent=["met"]),
        Feature("mass", "GeV", "positive", absent=["muon", "met"]),
        Feature("type", kind=f"category({', '.join(TYPES)})"),
    ],
    order_by="pt",
)
X = torch.tensor(
    [
        [[50.0, 1.5, 9.0, 0], [30.0, -2.0, 0.0, 1], [20.0, 0.0, 0.0, 2]],
        [[90.0, 0.5, 4.0, 0], [70.0, 0.1, 5.0, 0], [7.0, 7.0, 7.0, 7.0]],
    ]
)
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)


def _written(path: Path, x: torch.Tensor = X, **options: bool) -> Path:
    with EventWriter(path, SCHEMA, **options) as writer:
        writer.write(SetBatch(x, MASK))
    return path


def test_the_file_says_what_is_absent_and_zeros_are_none(tmp_path: Path) -> None:
    path = _written(tmp_path / "a.h5")
    assert read_header(path).schema == SCHEMA
    sample = read_events(path, features=["pt", "eta", "mass", "type"])
    assert torch.equal(sample.objects.x, torch.where(MASK[..., None], X, 0.0))
    assert sample.schema == SCHEMA
    assert read_events(path).features == ("pt", "eta", "mass", "type"), "what tells the absent"
    part = read_events(path, features=["type", "mass", "pt"], max_objects=2)
    assert part.objects.x[..., 1:].tolist() == [[[9, 50], [0, 30]], [[4, 90], [5, 70]]]
    with pytest.raises(ValueError, match=r"'mass' is absent in met, muon, and .* 'type' too"):
        read_events(path, features=["mass", "pt"])
    assert read_events(path, features=["pt"]).objects.x.shape[2] == 1


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            (0, 1, 2),
            0.1,
            "object 1, column 'mass' holds 0.100.*, expected 0: no muon and no met has one",
        ),
        ((0, 2, 1), -1.0, "object 2, column 'eta' holds -1, expected 0: no met has one"),
        ((0, 0, 2), 0.0, "object 0, column 'mass' holds 0, expected above 0"),
        ((0, 1, 3), 7.0, "object 1, column 'type' holds 7, expected a whole number"),
    ],
)
def test_a_feature_is_refused_for_a_type_that_has_none(
    tmp_path: Path, place: tuple[int, ...], value: float, message: str
) -> None:
    x = X.clone()
    x[place] = value
    with pytest.raises(ValueError, match=message):
        _written(tmp_path / "a.h5", x)
    path = _written(tmp_path / "b.h5", x, keep_unphysical=True)
    with pytest.raises(ValueError, match=message):
        read_events(path)
    name = SCHEMA.objects[place[2]].name
    assert count_impossible(x.numpy(), MASK.numpy(), SCHEMA.objects) == {name: 1}


def test_nan_may_be_given_for_what_is_absent_and_files_hold_zero(tmp_path: Path) -> None:
    x = X.clone()
    x[0, 1, 2] = x[0, 2, 1] = torch.nan
    assert _written(tmp_path / "a.h5", x).read_bytes() == _written(tmp_path / "b.h5").read_bytes()
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["values"][1, 2] = np.nan
    sample = read_events(tmp_path / "b.h5", features=["mass", "type"])
    assert sample.objects.x[0, 1].tolist() == [0, 1]
    assert not count_impossible(x.numpy(), MASK.numpy(), SCHEMA.objects)
    x[0, 0, 2] = torch.nan
    with pytest.raises(ValueError, match="object 0, column 'mass' holds nan though"):
        _written(tmp_path / "c.h5", x)


def test_without_the_category_nothing_is_known() -> None:
    message = "absent in met, and no category that tells which objects are that is among pt, eta"
    with pytest.raises(ValueError, match=message):
        count_impossible(X[..., :2].numpy(), MASK.numpy(), SCHEMA.objects[:2])


def test_what_is_absent_enters_no_range_and_no_spread(tmp_path: Path) -> None:
    summary = summarize_events(_written(tmp_path / "a.h5"))
    assert summary.ranges["mass"] == ("GeV", 4.0, 9.0)
    assert summary.ranges["eta"] == ("", -2.0, 1.5)
    assert summary.counts["type"] == {"jet": 3, "muon": 1, "met": 1}
    tally = Tally(SCHEMA)
    tally.add(Rows(X.numpy(), MASK.numpy(), np.zeros((2, 0))))
    spreads = {entry.name: spread for entry, spread in tally.spreads}
    assert (spreads["mass"].n, spreads["mass"].mean) == (3, 6.0)
    assert spreads["eta"].n == 4
    assert not tally.faults()
