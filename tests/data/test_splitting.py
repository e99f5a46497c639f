"""Files shared out: each event goes to one part with all that is known of it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

import setflow
from setflow.data import EventWriter, read_events, read_jets
from setflow.data.hashing import hash_of_events
from setflow.data.splitting import split_events
from setflow.schema import Feature, Schema

RINGS = Schema([Feature("x", "mm"), Feature("kind", kind="category(a, b)")], [Feature("r", "mm")])


def jets(path, n=400, *, numbers=False):
    rng = np.random.default_rng(3)
    mask = np.arange(7) < rng.integers(0, 8, n)[:, None]
    x = rng.random((n, 7, 3)) / 7
    with h5py.File(path, "w") as file:
        file["particle_features"] = np.concatenate([x, mask[..., None]], -1).astype(">f4")
        file["particle_features"].attrs["features"] = ["etarel", "phirel", "ptrel", "mask"]
        file["theirs"] = np.arange(n)
        file["pairs"] = rng.random((n, 2, 2))
        file.attrs["generator"] = "mine"
        if numbers:
            file["event_number"] = np.arange(n) // 2
    return path


def test_an_event_keeps_all_that_the_file_holds_of_it(tmp_path, monkeypatch):
    path = jets(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["manifest"] = "{}"
    parts = [tmp_path / "b.h5", tmp_path / "c.h5", tmp_path / "d.hdf5"]
    counts = split_events(path, parts, [0.6, 0.3, 0.1])
    assert sum(counts) == 400
    assert abs(counts[0] - 240) < 50
    found = []
    with h5py.File(path) as whole:
        for part, n in zip(parts, counts, strict=True):
            with h5py.File(part) as file:
                rows = file["theirs"][:]
                assert len(rows) == n
                assert (np.diff(rows) > 0).all()
                for key in whole:
                    assert file[key].dtype == whole[key].dtype
                    assert (file[key][:] == whole[key][:][rows]).all()
                names = file["particle_features"].attrs["features"].tolist()
                assert names == ["etarel", "phirel", "ptrel", "mask"]
                assert file.attrs["generator"] == "mine"
                assert "manifest" not in file.attrs  # it has the hashes of all events
                found += rows.tolist()
    assert sorted(found) == list(range(400))
    # blocks do not matter
    before = [part.read_bytes() for part in parts]
    monkeypatch.setattr(setflow.data.rows, "BLOCK_BYTES", 1000)
    split_events(path, parts, [0.6, 0.3, 0.1], overwrite=True)
    assert [part.read_bytes() for part in parts] == before


def test_an_event_goes_to_the_same_part_wherever_it_stands(tmp_path):
    path = jets(tmp_path / "a.h5")
    first, second = tmp_path / "b.h5", tmp_path / "c.h5"
    split_events(path, [first, second], [0.5, 0.5])
    with h5py.File(path) as file, h5py.File(tmp_path / "turned.h5", "w") as turned:
        turned["particle_features"] = file["particle_features"][:][::-1, ::-1][:200]
    other = [tmp_path / "d.h5", tmp_path / "e.h5"]
    split_events(tmp_path / "turned.h5", other, [0.5, 0.5])

    def hashes(path):
        objects = read_jets(path).particles
        some = objects.mask.any(1)
        return {*hash_of_events(objects.x[some].numpy(), objects.mask[some].numpy()).tolist()}

    assert hashes(other[0]) < hashes(first)
    assert hashes(other[1]) < hashes(second)


def test_those_of_one_collision_stay_together(tmp_path):
    path = jets(tmp_path / "a.h5", numbers=True)
    parts = [tmp_path / "b.h5", tmp_path / "c.h5"]
    split_events(path, parts, [0.5, 0.5])
    numbers = [{*read_jets(part).event_number.tolist()} for part in parts]
    assert not numbers[0] & numbers[1]
    assert numbers[0] | numbers[1] == set(range(200))


@pytest.mark.parametrize("slots", [None, 9])
def test_events_of_any_schema(slots, tmp_path):
    rng = np.random.default_rng(5)
    n = rng.integers(0, 9, 300)
    mask = torch.from_numpy(np.arange(9) < n[:, None])
    x = torch.from_numpy(np.stack([rng.normal(size=(300, 9)), rng.integers(0, 2, (300, 9))], -1))
    with EventWriter(tmp_path / "a.h5", RINGS, objects=slots) as writer:
        for k in range(0, 300, 100):
            there = slice(k, k + 100)
            batch = setflow.SetBatch(x[there], mask[there], weight=torch.ones(100))
            writer.write(batch, torch.arange(300.0)[there, None], target=torch.arange(100))
    parts = [tmp_path / "b.h5", tmp_path / "c.h5"]
    split_events(tmp_path / "a.h5", parts, [0.7, 0.3])
    names = ["x", "kind"]
    whole = read_events(tmp_path / "a.h5", features=names, weight="weight")
    for part in parts:
        some = read_events(part, features=names, weight="weight")
        rows = some.event[:, 0].long()
        assert some.schema == whole.schema
        assert (some.objects.lengths == whole.objects.lengths[rows]).all()
        for a, b in zip(some.objects, whole[rows].objects, strict=True):
            assert (a.x[a.mask] == b.x[b.mask]).all()
        assert (some.target == rows % 100).all()


def test_what_cannot_be_shared_out_is_told(tmp_path):
    path = jets(tmp_path / "a.h5")
    parts = [tmp_path / "b.h5", tmp_path / "c.h5"]
    for fractions, told in (
        ([0.5], "2 files to write and 1 fraction "),
        ([0.5, 0.6], "expected positive ones that sum to 1"),
        ([1.5, -0.5], "expected positive ones that sum to 1"),
    ):
        with pytest.raises(ValueError, match=told):
            split_events(path, parts, fractions)
    with pytest.raises(ValueError, match="is the file that is shared out"):
        split_events(path, [path, parts[0]], [0.5, 0.5], overwrite=True)
    with h5py.File(path, "a") as file:
        file["bins"] = np.arange(3)
    with pytest.raises(ValueError, match="'bins', which has no row for each of its 400 jets"):
        split_events(path, parts, [0.5, 0.5])
    assert not any(part.exists() for part in parts)
