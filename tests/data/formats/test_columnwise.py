"""An array whose columns stand one behind the other is read by blocks of rows, too."""

from __future__ import annotations

import numpy as np
import pytest

from setflow.data.formats import sources


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "i2"])
@pytest.mark.parametrize("tail", [(), (3,), (5, 2), (2, 3, 4)])
def test_rows_are_those_of_the_array(tmp_path, monkeypatch, tail, dtype):
    whole = np.arange(23 * int(np.prod(tail))).reshape(23, *tail).astype(dtype)
    np.save(tmp_path / "x.npy", np.asfortranarray(whole))
    monkeypatch.setattr(sources, "BLOCK_BYTES", 4 * whole[:1].nbytes)

    def refuse(*_, **__):
        raise AssertionError("the whole array is read")

    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    source = sources.NumpySource(tmp_path / "x.npy")
    source.begin(["x"], "", [])
    blocks = [block["x"] for block in source.blocks(["x"])]
    source.close()
    assert max(map(len, blocks)) <= 4
    assert np.array_equal(np.concatenate(blocks), whole)


def test_one_that_is_cut_short_is_damaged(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.asfortranarray(np.ones((50, 3))))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OSError, match=r"x\.npy ends too early"):
        sources.NumpySource(path)
