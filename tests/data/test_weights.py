"""Weights of jets in files: written, read by name, checked, and told where nobody uses them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from data.samples import make_sample
from setflow.data import EventWriter, JetWriter, read_events, read_jets
from setflow.data.jets import JetSample
from setflow.schema import Feature, Schema
from setflow.sets.batch import SetBatch

WEIGHT = torch.linspace(-1, 4, 40, dtype=torch.float64)


def weighted() -> JetSample:
    sample = make_sample(40, 6)
    x, mask = sample.particles.x, sample.particles.mask
    return dataclasses.replace(sample, objects=SetBatch(x, mask, weight=WEIGHT))


def write(path: Path, sample: JetSample, **options: bool) -> Path:
    with JetWriter(path, objects=6, **options) as writer:
        for part in (sample[:7], sample[7:]):
            writer.write(part.particles, part.jets)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "jets.h5", weighted(), with_weights=True)


def test_what_was_written_comes_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_jets(file, weight="weight")
    assert read.particles.weight is not None
    assert torch.equal(read.particles.weight, WEIGHT)
    part = read_jets(file, weight="weight", start=5, stop=20, max_objects=2)
    assert part.particles.weight is not None
    assert torch.equal(part.particles.weight, WEIGHT[5:20])
    assert torch.equal(part[3:].particles.weight, WEIGHT[8:20])
    monkeypatch.setattr("setflow.data.rows.BLOCK_BYTES", 1)
    again = read_jets(file, weight="weight").particles.weight
    assert torch.equal(again, WEIGHT)
    with h5py.File(file) as held:
        assert (held["weight"].dtype, held["weight"].shape) == (np.float64, (40,))


def test_weights_that_nobody_asks_for_are_told(file: Path) -> None:
    with pytest.warns(UserWarning, match=r"not used \(weight\); to use some, name them"):
        sample = read_jets(file)
    assert sample.particles.weight is None
    with h5py.File(file, "a") as held:
        held["mc_weights"] = np.arange(40)
        held["weights_of_particles"] = np.zeros((40, 6))
    with pytest.warns(UserWarning, match=r"not used \(mc_weights\); 'weight' are"):
        read_jets(file, weight="weight")
    with pytest.warns(UserWarning, match=r"not used \(weight\); 'mc_weights' are"):
        sample = read_jets(file, weight="mc_weights")
    assert sample.particles.weight is not None
    assert sample.particles.weight.tolist() == list(range(40))


def test_weights_may_have_a_name_like_that_of_the_layout(file: Path) -> None:
    with h5py.File(file, "a") as held:
        held.move("weight", "weights")
    assert torch.equal(read_jets(file, weight="weights").particles.weight, WEIGHT)


def test_weights_that_are_not_there(file: Path) -> None:
    with pytest.raises(ValueError, match=r"no dataset 'w' of weights; .* holds weight; name one"):
        read_jets(file, weight="w")
    with pytest.raises(ValueError, match=r"jet_features has shape \(40, 4\).*expected \(40,\)"):
        read_jets(file, weight="jet_features")


def test_numbers_with_another_meaning_are_no_weights(file: Path, tmp_path: Path) -> None:
    with h5py.File(file, "a") as held:
        held["event_number"] = np.arange(40)
        held["score"] = np.ones(40)
    with pytest.raises(ValueError, match=r"event_number tells the collision.*such as weight"):
        read_jets(file, weight="event_number")
    with pytest.raises(ValueError, match=r"'w' of weights; .* holds score, weight; name one"):
        read_jets(file, weight="w")
    events = tmp_path / "events.h5"
    with EventWriter(events, Schema([Feature("x")])) as writer:
        writer.write(SetBatch(torch.rand(4, 2, 1)), target=torch.arange(4))
    with pytest.raises(ValueError, match=r"target tells its class and is no weight; .* leave them"):
        read_events(events, weight="target")
    with pytest.raises(ValueError, match="holds none; leave the weights out"):
        read_events(events, weight="w")


def test_weights_that_cannot_be(file: Path) -> None:
    with h5py.File(file, "a") as held:
        held["weight"][11] = np.nan
    with pytest.raises(ValueError, match="row 11, weight holds nan; expected a finite number"):
        read_jets(file, weight="weight")
    with h5py.File(file, "a") as held:
        del held["weight"]
        held["weight"] = np.zeros(39)
    with pytest.raises(ValueError, match=r"weight has shape \(39,\), expected \(40,\)"):
        read_jets(file)


def test_the_writer_and_what_it_gets_agree(tmp_path: Path) -> None:
    sample = weighted()
    with pytest.raises(ValueError, match="weight is given, but the writer was made with with_we"):
        write(tmp_path / "a.h5", sample)
    with pytest.raises(ValueError, match="weight is missing, but the writer"):
        write(tmp_path / "b.h5", make_sample(40, 6), with_weights=True)
