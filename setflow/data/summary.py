"""What a file of events holds, in a few numbers, read block by block."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass, field

import torch

from setflow.data.hdf5 import screen_events
from setflow.data.header import EventHeader, read_header
from setflow.data.jets import NUM
from setflow.data.valid import absent_in
from setflow.schema import Category

__all__ = ["EventSummary", "summarize_events"]

_BLOCK = 4096  # events that are in memory at a time


@dataclass(frozen=True)
class EventSummary:
    """A file of events, in few numbers.

    Arguments:
        header: what the file says about itself.
        ranges: the unit, the smallest and the largest value of each feature by its name: of the
            real objects that have it, and of the events; NaN if there is none. Categories are left
            out.
        least: the smallest number of objects of an event.
        mean: the mean number.
        most: the largest number.
        reasons: how many rows cannot be read, by the first reason of each block.
        counts: how often each name of a category occurs, by the name of the feature.
    """

    header: EventHeader
    ranges: dict[str, tuple[str, float, float]]
    least: int
    mean: float
    most: int
    reasons: dict[str, int]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def summarize_events(path: str | os.PathLike[str]) -> EventSummary:
    """Return the numbers of a file of events; rows that cannot be read are counted and left out.

    Arguments:
        path: the HDF5 file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it does not have a layout.
    """
    header = read_header(path)
    features = header.schema.objects
    columns = [*features, *header.schema.event]
    low = torch.full((len(columns),), math.inf, dtype=torch.float64)
    high = -low
    counts: list[Counter[int]] = [Counter() for _ in columns]
    least, most, total, read = header.objects, 0, 0, 0
    reasons: dict[str, int] = {}
    for start in range(0, header.n, _BLOCK):
        stop = min(start + _BLOCK, header.n)
        sample, bad = screen_events(path, start=start, stop=stop, features=header.features)
        if bad:
            reason = next(iter(bad.values()))
            reasons[reason] = reasons.get(reason, 0) + len(bad)
        good = torch.ones(len(sample), dtype=torch.bool)
        good[list(bad)] = False
        sample = sample[good]
        if not len(sample):
            continue
        lengths = sample.objects.lengths
        least, most = min(least, int(lengths.min())), max(most, int(lengths.max()))
        total, read = total + int(lengths.sum()), read + len(sample)
        objects = sample.objects.x[sample.objects.mask]
        there = torch.from_numpy(~absent_in(objects.numpy(), features))
        held = [column[some] for column, some in zip(objects.T, there.T, strict=True)]
        values = [column.double() for column in (*held, *sample.event.unbind(-1))]
        for k, column in enumerate(values):
            if len(column):
                low[k] = torch.minimum(low[k], column.min())
                high[k] = torch.maximum(high[k], column.max())
            if isinstance(columns[k].kind, Category):
                counts[k].update(column.long().tolist())
    ranges, named = {}, {}
    for feature, count, a, b in zip(columns, counts, low.tolist(), high.tolist(), strict=True):
        kind = feature.kind
        if isinstance(kind, Category):
            named[feature.name] = {name: count[code] for code, name in enumerate(kind.names)}
        elif feature.name != NUM:
            ranges[feature.name] = (feature.unit, *((math.nan, math.nan) if a > b else (a, b)))
    mean = total / read if read else math.nan
    return EventSummary(header, ranges, least if read else 0, mean, most, reasons, named)
