"""What the kept particles of a jet determine, where a file does not hold it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from data.layouts import SLOTS, permuted, truth, write
from setflow.data import read_jets, screen_events
from setflow.data.reader import EventReader
from setflow.schema import KEPT_FEATURES
from setflow.training import SetDataModule

NAMES = ["mass_rel", "pt_rel"]


def by_hand(particles: np.ndarray, most: int) -> np.ndarray:
    """Mass and pT of the hardest particles of each jet, by plain loops over plain numbers."""
    found = []
    for jet in particles.astype(np.float64):
        real = sorted((row for row in jet if row[3]), key=lambda row: -row[2])[:most]
        e = sum(pt * np.cosh(eta) for eta, _, pt, _ in real)
        px = sum(pt * np.cos(phi) for _, phi, pt, _ in real)
        py = sum(pt * np.sin(phi) for _, phi, pt, _ in real)
        pz = sum(pt * np.sinh(eta) for eta, _, pt, _ in real)
        found.append([np.sqrt(max(0.0, e**2 - px**2 - py**2 - pz**2)), np.hypot(px, py)])
    return np.array(found)


@pytest.mark.parametrize("most", [3, 10, SLOTS, 50])
def test_it_is_that_of_the_particles_that_are_kept(tmp_path: Path, most: int) -> None:
    particles, _ = truth()
    for path in (write(tmp_path / "a.h5"), permuted(tmp_path / "b.h5")):
        sample = read_jets(path, conditions=NAMES, max_objects=most)
        told = sample.context(NAMES).double().numpy()
        assert np.allclose(told, by_hand(particles, most), rtol=1e-6, atol=1e-7)
        assert sample.schema.of_event("mass_rel") == KEPT_FEATURES[1]
        assert sample.features == ("etarel", "phirel", "ptrel")
    assert np.ptp(told[:, 0]) > 0.05


def test_it_is_that_of_all_without_a_limit_and_needs_no_feature_of_theirs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", jets=np.empty(0))
    sample = read_jets(path, conditions=["pt_rel"], features=["ptrel"])
    assert sample.objects.x.shape[-1] == 1
    expected = by_hand(truth()[0], SLOTS)[:, 1]
    assert np.allclose(sample.context(["pt_rel"])[:, 0].numpy(), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="no dataset 'jet_features' that could hold pt, on which"):
        read_jets(path, conditions=["pt", "mass_rel"])


def test_blocks_and_dtypes_change_no_number(tmp_path: Path) -> None:
    particles, jets = truth()
    whole = read_jets(write(tmp_path / "a.h5"), conditions=NAMES, max_objects=8).context(NAMES)
    wide = write(tmp_path / "b.h5", particles.astype(np.float64), jets.astype(np.float64))
    with EventReader(wide, conditions=NAMES, max_objects=8) as reader:
        parts = torch.cat([reader.read(k, k + 4).context(NAMES) for k in range(0, 12, 4)])
    assert torch.equal(whole, parts.float())


def test_a_column_of_the_file_counts(tmp_path: Path) -> None:
    particles, jets = truth()
    path = write(tmp_path / "a.h5", particles, np.column_stack([jets, jets[:, 0] * 0 + 0.25]),
                 jet_attributes={"features": ["pt", "eta", "mass", "num_particles", "mass_rel"],
                                 "units": ["GeV", "", "GeV", "", ""]})  # fmt: skip
    assert bool((read_jets(path, conditions=NAMES).context(["mass_rel"]) == 0.25).all())
    assert "mass_rel" not in read_jets(write(tmp_path / "b.h5")).event_features  # nobody asked


def test_a_limit_of_it_is_not_held_against_another_column(tmp_path: Path) -> None:
    particles, jets = truth()
    path = write(tmp_path / "a.h5", particles, jets[:, [0, 2, 3, 1]],
                 jet_attributes={"features": ["pt", "mass", "num_particles", "eta"],
                                 "units": ["GeV", "GeV", "", ""]})  # fmt: skip
    assert bool((read_jets(path).context(["eta"]) < 0).any())
    assert bool((read_jets(path, conditions=NAMES).context(NAMES) > 0).all())


def test_jets_without_particles_have_none_of_it(tmp_path: Path) -> None:
    particles, jets = truth()
    particles[3], jets[3], particles[5, 0, 2] = 0, 0, np.nan
    path = write(tmp_path / "a.h5", particles, jets)
    sample, reasons = screen_events(path, conditions=NAMES)
    assert sorted(reasons) == [5]
    assert sample.context(NAMES)[[3, 5]].tolist() == [[0, 0], [0, 0]]


def test_objects_that_are_no_particles_have_none_of_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["objects"], file["mask"] = np.zeros((2, 3, 2)), np.ones((2, 3))
        file["objects"].attrs["features"] = ["x", "y"]
    with pytest.raises(ValueError, match="no dataset 'context' that could hold mass_rel"):
        EventReader(tmp_path / "a.h5", conditions=["mass_rel"])


def test_a_training_is_given_it_and_may_select_by_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    expected = by_hand(truth()[0], 8)
    for in_memory in (True, False):
        data = SetDataModule(str(path), max_objects=8, conditions=NAMES, val_fraction=0.25,
                             in_memory=in_memory)  # fmt: skip
        data.setup("fit")
        sides = [data.looked_at(train=True), data.looked_at(train=False)]
        rows = torch.cat([batch.c for side in sides for batch in side])
        assert np.allclose(np.sort(rows[:, 0].numpy()), np.sort(expected[:, 0]), rtol=1e-6)
        assert [entry.name for entry in data.context_features if entry.derived] == NAMES
    cut = float(np.median(expected[:, 0]))
    data = SetDataModule(str(path), max_objects=8, select=f"mass_rel > {cut}", val_fraction=0.25)
    assert sum(data.sizes()) == int((expected[:, 0] > cut).sum())
