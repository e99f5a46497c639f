"""Filters of HDF5: a file whose filter is not there is not called damaged."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from cli.shell import write_jets
from setflow.data import filters, read_jets

ZSTD = 32015


@pytest.fixture
def compressed(tmp_path):
    """A file of jets whose particles claim to be compressed by zstd."""
    write_jets(tmp_path / "plain.h5", jets=20, slots=4)
    path = tmp_path / "zstd.h5"
    with h5py.File(tmp_path / "plain.h5") as plain, h5py.File(path, "w") as file:
        file["jet_features"] = plain["jet_features"][:]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((20, 4, 4))
        made.set_filter(ZSTD, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((20, 4, 4))
        dataset = h5py.h5d.create(file.id, b"particle_features", h5py.h5t.NATIVE_FLOAT, space, made)
        dataset.write_direct_chunk((0, 0, 0), plain["particle_features"][:].tobytes())
    return path


def test_the_filters_are_told_by_name():
    found = filters.available()
    assert found["gzip"]
    assert found["shuffle"]
    assert found.keys() == set(filters.FILTERS.values())


@pytest.mark.skipif(filters.available()["zstd"], reason="zstd is there")
def test_a_file_whose_filter_is_not_there_says_which_and_what_mends_it(compressed):
    with h5py.File(compressed) as file:
        assert filters.missing_filters(file["particle_features"]) == ["zstd"]
        assert filters.missing_filters(file["jet_features"]) == []
    with pytest.raises(OSError, match="compressed with zstd, which HDF5 lacks here") as caught:
        read_jets(compressed)
    assert "pip install hdf5plugin" in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.mark.skipif(filters.available()["zstd"], reason="zstd is there")
def test_a_plugin_that_is_installed_is_used(compressed, tmp_path, monkeypatch):
    there, avail = [False], h5py.h5z.filter_avail
    (tmp_path / "hdf5plugin.py").write_text("import builtins\nbuiltins.registered()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.registered", lambda: there.__setitem__(0, True), raising=False)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: there[0] or avail(code))
    monkeypatch.setattr(filters.h5py.h5z, "filter_avail", h5py.h5z.filter_avail)
    with h5py.File(compressed) as file:
        assert filters.missing_filters(file["particle_features"]) == []
    assert there == [True]
    assert np.isin(list(filters.available().values()), True).all()
