"""What a large file is, told without reading all of it."""

from __future__ import annotations

import shutil

import h5py
import numpy as np

from setflow.data.fingerprint import fingerprint


def test_it_tells_contents_and_neither_name_nor_time(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(10**6, dtype="f4")
        file["x"].attrs["units"] = "GeV"
    first = fingerprint(path)
    assert len(first) == 64
    copy = tmp_path / "b.h5"
    shutil.copy(path, copy)
    assert fingerprint(copy) == first
    with h5py.File(copy, "r+") as file:
        file["x"].attrs["units"] = "MeV"
    assert fingerprint(copy) != first
    shutil.copy(path, copy)
    with h5py.File(copy, "r+") as file:
        file["x"][500_000:510_000] = 0
    assert fingerprint(copy) != first
    with copy.open("ab") as file:
        file.write(b"more")
    assert fingerprint(copy) not in (first, "")


def test_it_reads_little_of_files_of_any_kind(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(10**6))
    assert fingerprint(path) == fingerprint(path)
    small = tmp_path / "empty"
    small.write_bytes(b"")
    assert fingerprint(small) != fingerprint(path)
