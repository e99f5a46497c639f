"""Types of objects in files: JetNet's `particle_type` as a feature, and absent features."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from data.samples import make_sample, write_sample
from setflow.data import EventWriter, read_events, read_jets
from setflow.schema import JETNET, TYPE, Feature, Schema
from setflow.sets.batch import SetBatch

EVENTS = Schema(
    [
        Feature("mass", "GeV", "positive", absent=["lepton"]),
        Feature("kind", kind="category(lepton, jet)"),
    ]
)


def test_the_type_of_a_particle_is_a_feature_wherever_it_is_asked_for(tmp_path):
    path = write_sample(tmp_path / "jets.h5", make_sample(9))
    jets = read_jets(path, with_types=True)
    real = jets.particles.mask
    read = read_events(path, features=["ptrel", "type", "etarel"])
    assert read.schema.object("type") == TYPE
    assert torch.equal(read.objects.x[..., 1][real] + 1, jets.particle_type[real].float())
    assert torch.equal(read.objects.x[..., 0], jets.particles.x[..., 2])
    assert read.objects.x[~real].abs().sum() == 0
    both = read_events(path, features=["type", "ptrel"], max_objects=5)
    cut = read_jets(path, with_types=True, max_objects=5)
    assert torch.equal(both.objects.mask, cut.particles.mask)
    kept = cut.particles.mask
    assert torch.equal(both.objects.x[..., 0][kept] + 1, cut.particle_type[kept].float())


def test_what_is_no_type_is_refused(tmp_path):
    path = write_sample(tmp_path / "jets.h5", make_sample(9))
    other = Schema([*JETNET.objects, Feature("type", kind="category(a, b)")])
    with pytest.raises(ValueError, match=r"particle_type holds category\(photon, .*, expected ca"):
        read_events(path, other, features=["type"])
    with h5py.File(path, "r+") as file:
        file["particle_type"][0, 3] = 0
    with pytest.raises(
        ValueError, match="particle 3, column 'type' holds -1, expected a whole num"
    ):
        read_events(path, features=["ptrel", "type"])
    with h5py.File(path, "r+") as file:
        del file["particle_type"]
    with pytest.raises(ValueError, match="no dataset 'particle_type', which holds the types of"):
        read_events(path, features=["ptrel", "type"])


def write_events(path, x):
    with EventWriter(path, EVENTS, objects=x.shape[1], overwrite=True) as writer:
        writer.write(SetBatch(x, torch.ones(x.shape[:2])))


def test_an_absent_feature_is_0_or_nan_in_a_file(tmp_path):
    path = tmp_path / "events.h5"
    x = torch.tensor([[[0.0, 0.0], [5.0, 1.0]], [[torch.nan, 0.0], [2.0, 1.0]]])
    write_events(path, x)
    read = read_events(path, features=["mass", "kind"])
    assert read.objects.x.tolist() == [[[0, 0], [5, 1]], [[0, 0], [2, 1]]]
    assert read.schema.object("mass").absent == ("lepton",)
    assert read_events(path).objects.x[..., 0].tolist() == [[0, 5], [0, 2]]
    with pytest.raises(ValueError, match="object 0, column 'mass' holds -1, expected above 0"):
        write_events(path, torch.tensor([[[-1.0, 1.0]]]))
    with h5py.File(path, "r+") as file:
        file["objects"][1, 1, 0] = np.inf
    with pytest.raises(ValueError, match="row 1, object 1, column 'mass' holds inf"):
        read_events(path, features=["mass", "kind"])
