"""Floor 2: events in and out: the schema, HDF5 files, batches of sets, simulated data sets.

What needs h5py is imported when first asked for, so that `import setflow.data` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from setflow.data.collate import LengthBatchSampler, SetDataset, pad_collate
from setflow.data.scaling import Standardizer
from setflow.data.toys import (
    sample_checkerboard,
    sample_gaussians,
    sample_moons,
    sample_ring,
    sample_spirals,
    sample_two_clusters,
)
from setflow.sets.batch import SetBatch

if TYPE_CHECKING:
    from setflow.data.hdf5 import (
        JetHeader,
        JetSample,
        JetWriter,
        ScreenedJets,
        read_header,
        read_jets,
        screen_jets,
    )

__all__ = [
    "JetHeader",
    "JetSample",
    "JetWriter",
    "LengthBatchSampler",
    "ScreenedJets",
    "SetBatch",
    "SetDataset",
    "Standardizer",
    "pad_collate",
    "read_header",
    "read_jets",
    "sample_checkerboard",
    "sample_gaussians",
    "sample_moons",
    "sample_ring",
    "sample_spirals",
    "sample_two_clusters",
    "screen_jets",
]

_OF_HDF5 = (
    "JetHeader",
    "JetSample",
    "JetWriter",
    "ScreenedJets",
    "read_header",
    "read_jets",
    "screen_jets",
)


def __getattr__(name: str) -> Any:
    if name in _OF_HDF5:
        from setflow.data import hdf5

        return getattr(hdf5, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
