"""What a file of jets holds, in a few numbers, read block by block."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from setflow.data.hdf5 import screen_jets
from setflow.data.header import JetHeader, read_header
from setflow.data.jets import NUM
from setflow.schema import PARTICLE_FEATURES

__all__ = ["JetSummary", "summarize_jets"]

_BLOCK = 4096  # jets that are in memory at a time


@dataclass(frozen=True)
class JetSummary:
    """A file of jets, in few numbers.

    Arguments:
        header: what the file says about itself.
        ranges: the unit, the smallest and the largest value of each feature by its name: of the
            real particles, and of the jets; NaN if there is none.
        least: the smallest number of particles of a jet.
        mean: the mean number.
        most: the largest number.
        reasons: how many rows cannot be read, by the first reason of each block.
    """

    header: JetHeader
    ranges: dict[str, tuple[str, float, float]]
    least: int
    mean: float
    most: int
    reasons: dict[str, int]


def summarize_jets(path: str | os.PathLike[str]) -> JetSummary:
    """Return the numbers of a file of jets; rows that cannot be read are counted and left out.

    Arguments:
        path: the HDF5 file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it does not have the layout.
    """
    header = read_header(path)
    columns = [column.name for column in PARTICLE_FEATURES[:-1]] + [*header.jet_features]
    low = torch.full((len(columns),), math.inf, dtype=torch.float64)
    high = -low
    least, most, total, read = header.objects, 0, 0, 0
    reasons: dict[str, int] = {}
    for start in range(0, header.n, _BLOCK):
        sample, bad = screen_jets(path, start=start, stop=min(start + _BLOCK, header.n))
        if bad:
            reason = next(iter(bad.values()))
            reasons[reason] = reasons.get(reason, 0) + len(bad)
        good = torch.ones(len(sample), dtype=torch.bool)
        good[list(bad)] = False
        sample = sample[good]
        if not len(sample):
            continue
        lengths = sample.particles.lengths
        least, most = min(least, int(lengths.min())), max(most, int(lengths.max()))
        total, read = total + int(lengths.sum()), read + len(sample)
        x = sample.particles.x[sample.particles.mask]
        parts = [part.double() for part in (x, sample.jets) if len(part)]
        for end, pick in ((low, torch.amin), (high, torch.amax)):
            values = [pick(part, 0) for part in parts]
            values = values if len(parts) == 2 else [end[: x.shape[1]], *values]
            end.copy_((torch.minimum if end is low else torch.maximum)(end, torch.cat(values)))
    units = [*(column.unit for column in PARTICLE_FEATURES[:-1]), *header.jet_units]
    ends = zip(low.tolist(), high.tolist(), strict=True)
    ranges = {
        name: (unit, *((math.nan, math.nan) if a > b else (a, b)))
        for name, unit, (a, b) in zip(columns, units, ends, strict=True)
        if name != NUM
    }
    return JetSummary(
        header, ranges, least if read else 0, total / read if read else math.nan, most, reasons
    )
