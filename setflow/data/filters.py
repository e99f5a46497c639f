"""HDF5 filters: those that there are, and those that a file needs and HDF5 lacks here.

A filter compresses the chunks of a dataset, and whoever reads it needs the same filter. HDF5 itself
has few; the package hdf5plugin brings others, and is used where it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import h5py

__all__ = ["FILTERS", "MENDED_BY", "available", "missing_filters"]

FILTERS = {
    1: "gzip",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    32000: "lzf",
    307: "bzip2",
    32001: "blosc",
    32026: "blosc2",
    32008: "bitshuffle",
    32004: "lz4",
    32013: "zfp",
    32015: "zstd",
}
"""Names of filters by their registered numbers; gzip and shuffle are what is written here."""

MENDED_BY = "pip install hdf5plugin"


def available() -> dict[str, bool]:
    """Return which filters of the table there are, those of hdf5plugin included.

    >>> available()["gzip"]
    True
    """
    _load_plugins()
    return {name: bool(h5py.h5z.filter_avail(code)) for code, name in FILTERS.items()}


def missing_filters(dataset: Any) -> list[str]:
    """Return the names of the filters that a dataset needs and HDF5 lacks.

    Arguments:
        dataset: one of an open file; reading it works from here on, if hdf5plugin can help.
    """
    made = dataset.id.get_create_plist()
    codes = [made.get_filter(index)[0] for index in range(made.get_nfilters())]
    if all(map(h5py.h5z.filter_avail, codes)):
        return []
    _load_plugins()
    lacking = [code for code in codes if not h5py.h5z.filter_avail(code)]
    return [FILTERS.get(code, f"filter {code}") for code in lacking]


def _load_plugins() -> None:
    """Import hdf5plugin, which registers its filters, if it is installed."""
    if importlib.util.find_spec("hdf5plugin") is not None:
        importlib.import_module("hdf5plugin")
