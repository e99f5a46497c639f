"""What a conversion has read, kept until its file is there: a kill loses the last few seconds.

Beside the target `jets.h5` stands, while it is made, the folder `jets.h5.part` with blocks of
events as `EventFile` yields them (`setflow.data.kept_blocks`). Where a block ends is for the source
to say, never for the clock, so what is written is the same however often it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from setflow.data.formats.named import Given
from setflow.data.kept_blocks import Block, KeptBlocks
from setflow.data.sample import EventSample
from setflow.schema import Schema
from setflow.sets.batch import SetBatch
from setflow.version import __version__

__all__ = ["LARGEST_CLASS", "SLOTS", "KeptEvents", "plan_of"]

SLOTS, LARGEST_CLASS, _FIRST = 0, 1, 2  # numbers of blocks: two of one number each, then events
_SECONDS = 5.0  # so long a conversion keeps nothing, for to begin anew costs no more


class _File(Protocol):
    schema: Schema

    @property
    def n(self) -> int: ...

    def blocks(self, start: int = 0) -> Iterator[EventSample]: ...


class KeptEvents:
    """The blocks of a conversion that is under way.

    Arguments:
        kept: where they are kept.
    """

    def __init__(self, kept: KeptBlocks) -> None:
        self._kept, self._next, self._begun = kept, _FIRST, time.monotonic()

    def number(self, index: int, make: Callable[[], int]) -> int:
        """Return a number that takes a pass over the files, if it is not kept."""
        block = self._kept.read(index)
        if block is None:
            block = {"number": np.array([make()])}
            if self._is_long():
                self._kept.keep(index, block)
        return int(block["number"][0])

    def of(self, file: _File) -> Iterator[EventSample]:
        """Yield the events of a file, the next of all; rows of blocks that are kept are not read.

        Raises:
            OSError: if a block cannot be read or kept.
            ValueError: if a row cannot be.
        """
        done = 0
        blocks: Iterator[EventSample] | None = None
        while done < file.n:
            block = self._kept.read(self._next)
            if block is not None:
                sample, blocks = _sample(block, file.schema), None
            else:
                blocks = blocks or file.blocks(done)
                read = next(blocks, None)
                if read is None:
                    return
                sample = read
                if self._is_long():
                    self._kept.keep(self._next, _block(sample), compress=False)
            self._next += 1
            done += len(sample)
            yield sample

    def _is_long(self) -> bool:
        return time.monotonic() - self._begun >= _SECONDS


def plan_of(inputs: Sequence[tuple[Path, str | None]], given: Given, **options: Any) -> Any:
    """Return what the blocks of a conversion depend on, by what a user calls it.

    Arguments:
        inputs: the files, each with the class of its events.
        given: what is told of them.
        options: what else shapes the events.

    Raises:
        OSError: if a file is not there.
    """
    paths = [str(path.resolve()) for path, _ in inputs]
    classes = [label for _, label in inputs]
    plan: dict[str, Any] = {"choice of inputs": paths, "class of the inputs": classes}
    told = asdict(given) | {"mapping": repr(given.mapping)}  # YAML holds what JSON cannot
    if given.voxels is not None:
        told["voxels"] = str(given.voxels.resolve())
        paths.append(told["voxels"])
    for path in paths:
        there = Path(path).stat()
        plan[f"size of {path}"] = there.st_size
        plan[f"time of change of {path}"] = there.st_mtime_ns
    return plan | told | options | {"setflow": __version__}


def _block(sample: EventSample) -> Block:
    mask = sample.objects.mask
    parts = {
        "x": sample.objects.x[mask],
        "mask": mask,
        "event": sample.event,
        "weight": sample.objects.weight,
        "type": None if sample.particle_type is None else sample.particle_type[mask],
        "event_number": sample.event_number,
        "target": sample.target,
    }
    return {name: part.numpy() for name, part in parts.items() if part is not None}


def _sample(block: Block, schema: Schema) -> EventSample:
    part = {name: torch.from_numpy(values) for name, values in block.items()}
    mask, kinds = part["mask"], part.get("type")
    return EventSample(
        SetBatch(_padded(part["x"], mask), mask, weight=part.get("weight")),
        part["event"],
        schema,
        None if kinds is None else _padded(kinds, mask),
        part.get("event_number"),
        part.get("target"),
    )


def _padded(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    padded = values.new_zeros(*mask.shape, *values.shape[1:])
    padded[mask] = values
    return padded
