"""HDF5 on a disk that is full: an error at the call that finds it so, and never the process."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import pytest

from setflow.data.hdf5_output import Hdf5Output
from setflow.files import NewFile


def written(target: Path, blocks: int = 4) -> None:
    """Write rows that grow block by block, with checksums and compression."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(blocks, 256, 30)).astype("f4")

    def create(file: Any) -> None:
        file.create_dataset(
            "x", shape=(0, 30), maxshape=(None, 30), chunks=(256, 30), dtype="f4",
            compression="gzip", fletcher32=True, track_times=False,
        )  # fmt: skip

    def append(block: np.ndarray[Any, Any]) -> Callable[[Any], None]:
        def call(file: Any) -> None:
            held = len(file["x"])
            file["x"].resize(held + len(block), axis=0)
            file["x"][held:] = block
            file.attrs["n"] = held + len(block)

        return call

    with NewFile(target) as part, Hdf5Output(part, "w") as output:
        output.do(create)
        for block in rows:
            output.do(append(block))


def raised(target: Path) -> OSError | None:
    try:
        written(target)
    except OSError as error:
        return error
    return None


def test_what_is_written_is_a_file_of_hdf5(tmp_path: Path) -> None:
    written(tmp_path / "a.h5")
    rows = np.random.default_rng(0).normal(size=(4 * 256, 30)).astype("f4")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["n"] == len(rows)
        assert np.array_equal(file["x"][:], rows)


@pytest.mark.parametrize("lasting", [True, False])
def test_a_failure_of_any_write_is_an_error_and_leaves_nothing(
    tmp_path: Path, lasting: bool
) -> None:
    """No space from the nth write on, or in that one alone, for each n until none is left."""
    write, numbers = os.write, list[int]()
    for fails_at in range(200):
        numbers.clear()

        def full(descriptor: int, data: Any, fails_at: int = fails_at) -> int:
            numbers.append(descriptor)
            number = len(numbers) - 1
            if number == fails_at or (lasting and number > fails_at):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data)

        with patch("os.write", full):
            error = raised(tmp_path / "a.h5")
        if error is None:
            break
        assert error.errno == errno.ENOSPC
        assert "a.h5.part cannot be written: No space left" in str(error)
        assert list(tmp_path.iterdir()) == []
    assert 10 < fails_at < 199
    assert len(numbers) == fails_at
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["n"] == len(file["x"]) == 4 * 256


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from data.test_hdf5_output import written
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
try:
    written(Path({target!r}))
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [100, 3000, 60_000])
def test_a_limit_of_the_system_ends_in_an_error_too(tmp_path: Path, size: int) -> None:
    """Where a file may not grow beyond a size, HDF5's own files end the process."""
    tests = str(Path(__file__).parents[1])
    code = LIMITED.format(tests=tests, size=size, target=str(tmp_path / "a.h5"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be written: File too large" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != size


def test_what_could_not_be_written_is_read_back(tmp_path: Path) -> None:
    """HDF5 goes on after a failure, and finds what it believes to have written."""
    from setflow.data.hdf5_output import CheckedFile

    (tmp_path / "a").write_bytes(b"0123456789")
    file = CheckedFile(tmp_path / "a")
    with patch("os.write", side_effect=OSError(errno.ENOSPC, "full")):
        file.seek(4)
        assert file.write(b"abcdefgh") == 8
    file.seek(0)
    file.write(b"X")
    file.seek(0)
    found = bytearray(14)
    file.readinto(found)
    assert bytes(found) == b"X123abcdefgh\0\0"
    with pytest.raises(OSError, match=r"a cannot be written: full"):
        file.check()
    file.close()
    assert (tmp_path / "a").read_bytes() == b"0123456789"
