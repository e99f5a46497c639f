"""Features of events that their objects determine: computed where a file does not hold them.

Their number may be asked for in any file, and what the kept particles of a jet come to
(`setflow.schema.KEPT_FEATURES`) in one that holds the particles. It is that of the objects which
are kept, where some are cut away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from setflow.data.columns import Columns
from setflow.data.jets import NUM, PARTICLE_NAMES
from setflow.data.rows import Rows
from setflow.physics.kinematics import jet_mass, jet_pt

__all__ = ["fill_determined", "needed_objects"]

_OF_JETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"pt_rel": jet_pt, "mass_rel": jet_mass}


def needed_objects(of_event: Columns) -> Sequence[str]:
    """Return the features of objects from which those features of events are computed."""
    return PARTICLE_NAMES if _to_compute(of_event) else ()


def fill_determined(block: Rows, columns: Columns, of_event: Columns) -> None:
    """Fill in what the objects of rows determine: their number, and what the file does not hold.

    Arguments:
        block: the rows, cut to the objects that are kept; its events are changed.
        columns: those of its objects.
        of_event: those of its events.
    """
    if NUM in of_event.names:
        block.event[:, of_event.names.index(NUM)] = block.real.sum(1)
    if found := _to_compute(of_event):
        places = [columns.names.index(name) for name in PARTICLE_NAMES]
        x, mask = torch.from_numpy(block.x[..., places]).double(), torch.from_numpy(block.real)
        for name in found:
            block.event[:, of_event.names.index(name)] = _OF_JETS[name](x, mask).numpy()


def _to_compute(of_event: Columns) -> list[str]:
    told = zip(of_event.names, of_event.places, strict=True)
    return [name for name, place in told if place < 0 and name in _OF_JETS]
