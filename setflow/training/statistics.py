"""What is known of files that do not fit memory: one pass over them, kept for the next time.

The pass counts the events of each side in each block, sums their weights, and takes the statistics
of a model from the training side. The result is kept in the user's cache (`XDG_CACHE_HOME`, or
`~/.cache`) under a name that is the hash of all it depends on: the fingerprints of the files, rows,
columns, kinds, selection and split. An entry that cannot be read is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from setflow.data.fingerprint import fingerprint
from setflow.data.object_types import TypeEncoder
from setflow.files import NewFile
from setflow.model.model import SetFlow
from setflow.model.statistics import SampleStatistics, statistics_of
from setflow.progress import counting_bar
from setflow.shipped import JETS, find
from setflow.training.sources import Block, EventFiles
from setflow.training.streaming import Side, of_side
from setflow.training.types import NOWHERE, first_of_each
from setflow.version import __version__

__all__ = ["Known", "cache_folder", "known_of"]

_SLOW = 2**28  # bytes: of more the progress is shown


class Known(NamedTuple):
    """What is known of files.

    Attributes:
        counts: how many events of each side each block has, int64, with shape `(sides, blocks)`.
        weights: of each side the sums of weights, of their squares and of their absolute values,
            and how many are negative, with shape `(sides, 4)`.
        first: of each side the first row with an object of each type, among those of all files,
            int64, with shape `(sides, K)`; K is 0 where objects have no types.
        sample: the statistics of a model of the first side; None if no model was given.
    """

    counts: Tensor
    weights: Tensor
    first: Tensor
    sample: SampleStatistics | None


def cache_folder(kind: str = "statistics") -> Path:
    """Return the folder of the user's cache where something is kept; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "setflow" / kind


def known_of(
    files: EventFiles,
    blocks: Sequence[Block],
    sides: Sequence[Side | None],
    flow: SetFlow | None = None,
    types: TypeEncoder | None = None,
) -> Known:
    """Return what is known of files, from the cache if it stands there.

    Arguments:
        files: the files.
        blocks: their blocks.
        sides: the sides; the first one is that of the training.
        flow: the model whose statistics are taken, or None.
        types: those of its objects, or None.

    Raises:
        OSError, ValueError: as `EventFiles.read` and `statistics_of`.
    """
    path = cache_folder() / f"{_key(files, blocks, sides, flow, types)}.npz"
    kept = _kept(path, len(sides), len(blocks), with_sample=flow is not None)
    if kept is not None:
        return kept
    found = _pass(files, blocks, sides, flow, types)
    with contextlib.suppress(OSError):  # it is made again where nothing can be kept
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep(path, found)
    return found


def _pass(
    files: EventFiles,
    blocks: Sequence[Block],
    sides: Sequence[Side | None],
    flow: SetFlow | None,
    types: TypeEncoder | None,
) -> Known:
    counts = torch.zeros(len(sides), len(blocks), dtype=torch.int64)
    first = torch.full((len(sides), 0 if types is None else len(types.types)), NOWHERE)
    weights = torch.zeros(len(sides), 4, dtype=torch.float64)
    sample: SampleStatistics | None = None
    with counting_bar(disable=files.held_bytes < _SLOW) as bar, torch.no_grad():
        task = bar.add_task("statistics of the events", total=len(files))
        for k, block in enumerate(blocks):
            numbered = files.read(block)
            for row, side in enumerate(sides):
                found = of_side(numbered, side)
                events = found.events
                counts[row, k] = len(events)
                if types is not None:
                    first[row] = first[row].minimum(first_of_each(types, events, found.rows))
                if events.weight is not None:
                    w = events.weight.double()
                    sums = (w.sum(), (w**2).sum(), w.abs().sum(), (w < 0).sum().double())
                    weights[row] += torch.stack(sums)
                if flow is not None and row == 0 and (len(events) or sample is None):
                    part = statistics_of(flow, events)
                    sample = part if sample is None else sample + part
            bar.advance(task, block.stop - block.start)
    return Known(counts, weights, first, sample)


def _key(
    files: EventFiles,
    blocks: Sequence[Block],
    sides: Sequence[Side | None],
    flow: SetFlow | None,
    types: TypeEncoder | None,
) -> str:
    """Return the hash of all that the result depends on."""
    wanted, model = files.wanted, None
    if flow is not None:
        small = flow.context_model
        stage = () if small is None else (small.scaler, small.context_scaler)
        scalers = (flow.scaler, flow.context_scaler, *stage)
        model = [[str(kind) for kind in scaler.kinds] for scaler in scalers if scaler is not None]
    facts: dict[str, Any] = {
        "version": __version__,
        "files": [
            [fingerprint(find(JETS, file.path)), file.label, file.start, file.stop]
            for file in files.files
        ],
        "blocks": [list(block) for block in blocks],
        "features": wanted.features,
        "context": [entry.node() for entry in wanted.context],
        "schema": None if files.schema is None else files.schema.node(),
        "max_objects": wanted.max_objects,
        "weight": wanted.weight,
        "select": None if wanted.select is None else wanted.select.text,
        "sides": [None if one is None else [one.seed, one.fraction, one.held] for one in sides],
        "model": model,
        "types": None if types is None else [types.types.names, types.types.present],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _keep(path: Path, known: Known) -> None:
    held = {"counts": known.counts, "weights": known.weights, "first": known.first}
    if known.sample is not None:
        held |= {f"sample.{name}": value for name, value in known.sample.tensors().items()}
    with NewFile(path, overwrite=True) as part, part.open("wb") as file:
        np.savez(file, **{name: value.numpy() for name, value in held.items()})  # type: ignore[arg-type]


def _kept(path: Path, sides: int, blocks: int, *, with_sample: bool) -> Known | None:
    """Return an entry of the cache, or None if there is none or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            held = {name: torch.from_numpy(archive[name]) for name in archive.files}
        prefix = "sample."
        told = {name.removeprefix(prefix): held[name] for name in held if name.startswith(prefix)}
        sample = SampleStatistics.from_tensors(told) if with_sample else None
        known = Known(held["counts"], held["weights"], held["first"], sample)
    except (OSError, LookupError, TypeError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return known if known.counts.shape == (sides, blocks) else None
