"""Events in and out: HDF5 files, batches of sets, scaling, recipes and toys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setflow.deferred import module_functions

__all__ = [
    "EventHeader",
    "EventSample",
    "EventWriter",
    "JetSample",
    "JetWriter",
    "LengthBatchSampler",
    "ScreenedEvents",
    "SetBatch",
    "SetDataset",
    "Standardizer",
    "pad_collate",
    "read_events",
    "read_header",
    "read_jets",
    "sample_checkerboard",
    "sample_gaussians",
    "sample_moons",
    "sample_ring",
    "sample_spirals",
    "sample_two_clusters",
    "screen_events",
    "split_events",
]

if TYPE_CHECKING:
    from setflow.data.collate import LengthBatchSampler, SetDataset, pad_collate
    from setflow.data.event_writing import EventWriter
    from setflow.data.hdf5 import ScreenedEvents, read_events, read_jets, screen_events
    from setflow.data.header import EventHeader, read_header
    from setflow.data.jets import JetSample
    from setflow.data.sample import EventSample
    from setflow.data.scaling import Standardizer
    from setflow.data.splitting import split_events
    from setflow.data.toys import (
        sample_checkerboard,
        sample_gaussians,
        sample_moons,
        sample_ring,
        sample_spirals,
        sample_two_clusters,
    )
    from setflow.data.writing import JetWriter
    from setflow.sets.batch import SetBatch
else:
    __getattr__, __dir__ = module_functions(__name__)
