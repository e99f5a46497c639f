"""The numbers of a file of jets, against all of it at once."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest

from cli.shell import write_jets
from setflow.data import read_jets, summary
from setflow.data.summary import summarize_events


@pytest.mark.parametrize("block", [7, 4096])
def test_ranges_are_those_of_the_real_particles_whatever_the_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(summary, "_BLOCK", block)
    path = tmp_path / "jets.h5"
    write_jets(path, jets=50, slots=6)
    with h5py.File(path, "r+") as file:
        particles = file["particle_features"][:]
        particles[particles[..., 3] == 0, :3] = 1e30  # what stands in the padding is not looked at
        file["particle_features"][:] = particles
    found, jets = summarize_events(path), read_jets(path)
    x = jets.particles.x[jets.particles.mask]
    for column, name in enumerate(("etarel", "phirel", "ptrel")):
        unit, low, high = found.ranges[name]
        assert (low, high) == (x[:, column].min(), x[:, column].max())
        assert unit == ("rad" if name == "phirel" else "")
    for column, name in enumerate(("pt", "eta", "mass")):
        _, low, high = found.ranges[name]
        assert (low, high) == (jets.jets[:, column].min(), jets.jets[:, column].max())
    lengths = jets.particles.lengths
    assert (found.least, found.most) == (lengths.min(), lengths.max())
    assert found.mean == pytest.approx(lengths.double().mean().item())
    assert found.reasons == {}


def test_rows_that_cannot_be_read_are_counted_and_left_out(tmp_path):
    path = tmp_path / "jets.h5"
    write_jets(path, jets=10, slots=3)
    with h5py.File(path, "r+") as file:
        particles = file["particle_features"][:]
        particles[4, 0] = [np.nan, 0, 1e9, 1]
        file["particle_features"][:] = particles
    found = summarize_events(path)
    ((reason, count),) = found.reasons.items()
    assert "etarel" in reason
    assert count == 1
    assert found.ranges["ptrel"][2] < 2


@pytest.mark.parametrize("jets", [0, 3])
def test_a_file_without_particles_has_no_ranges(tmp_path, jets):
    path = tmp_path / "jets.h5"
    with h5py.File(path, "w") as file:
        file["particle_features"] = np.zeros((jets, 4, 4), np.float32)
        file["jet_features"] = np.float32([[1, 1, 1, 0]] * jets).reshape(jets, 4)
    found = summarize_events(path)
    assert (found.least, found.most) == (0, 0)
    assert math.isnan(found.ranges["etarel"][1])
    assert math.isnan(found.ranges["pt"][1]) == (jets == 0)
