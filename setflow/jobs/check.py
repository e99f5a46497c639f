"""What files of events, samples and scores hold, and what of it cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np

from setflow.data.formats.convert import InputFile
from setflow.data.formats.named import Given
from setflow.data.formats.unchecked import Unchecked, unchecked
from setflow.data.header import open_events
from setflow.data.manifest import problems_of
from setflow.data.spread import Spread
from setflow.data.tally import Fault, Tally
from setflow.jobs.summary import summarize_scores
from setflow.schema import Category, Feature, Words, axis_label, names

__all__ = ["Checked", "check_files"]

PLACES = (0.01, 0.5, 0.99)
"""The quantiles that are told."""
_ROWS = 2**18  # scores that are in memory at a time


@dataclass
class Checked:
    """What a file holds.

    Arguments:
        path: where it is.
        title: what it is, in words.
        table: how its numbers are spread, by what they are.
        lines: what else is to be told, as pairs of a label and a text.
        faults: what cannot be.
        doubts: what can be and is to be known.
        tally: what was counted; None for scores.
    """

    path: Path
    title: str
    table: dict[str, Spread]
    lines: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    tally: Tally | None = None


def check_files(entries: Sequence[InputFile], given: Given) -> Iterator[Checked]:
    """Yield what files hold, each read once, block by block.

    Events that stand in several files are told with the later one. They are known again by the
    features that all files have.

    Arguments:
        entries: the files: of events, of samples, or of scores.
        given: what is told of their format.

    Raises:
        ImportError: if a package that reads the format is not installed.
        OSError: if a file cannot be read.
        ValueError: if a file is of another format.
    """
    of_events = [entry for entry in entries if not _is_scores(entry.path, given)]
    compared: tuple[str, ...] | None = None
    for entry in of_events if len(of_events) > 1 else ():
        with unchecked(entry, given) as file:
            held = names(file.schema.objects)
        compared = tuple(name for name in compared or held if name in held)
    before: list[Checked] = []
    folders: set[Path] = set()
    for entry in entries:
        if entry not in of_events:
            one = _scores(entry.path)
        else:
            with unchecked(entry, given) as file:
                one = _events(file, compared)
            one.doubts += [text for other in before if (text := _shared(one, other))]
            before.append(one)
        one.faults += _verified(entry.path, folders)
        yield one


def _is_scores(path: Path, given: Given) -> bool:
    if given.format is not None or not path.is_file() or not h5py.is_hdf5(path):
        return False
    with open_events(path) as file:
        return "log_prob" in file and "reason" in file


def _events(file: Unchecked, compared: Sequence[str] | None) -> Checked:
    tally = Tally(file.schema, file.words, compared)
    unread = []
    try:
        for rows in file:
            tally.add(rows)
    except ValueError as error:  # of a mapping that does not fit a row
        unread = [Fault("read", f"after {tally.n:,} rows: {error}")]
    called, told = tally.called, file.attributes
    title = f"{tally.n:,} {called.events} in {file.layout}"
    if "weights_sha256" in told:
        title = f"{tally.n:,} {called.events} that a model has sampled, in {file.layout}"
    table = {}
    objects = len(file.schema.objects)
    for k, (entry, spread) in enumerate(tally.spreads):
        if not isinstance(entry.kind, Category):
            of = "" if k < objects else f", of {called.an_event}"
            table[_named(entry) + of] = spread
    table[f"{called.objects} of {called.an_event}"] = tally.numbers
    if tally.sums.n:
        table[f"sum of ptrel, of {called.an_event}"] = tally.sums
    faults, doubts = tally.faults(), [*file.notes, *tally.doubts()]
    if "unphysical" in told:  # a sample is kept as the model has made it
        kept = [fault for fault in faults if fault.name in ("finite", "limits")]
        faults = [fault for fault in faults if fault not in kept]
        doubts += [f"kept as they are, as the file says: {fault.text}" for fault in kept]
    if tally.weights:
        which = ", ".join(tally.weights)
        doubts.append(f"weights ({which}) count only where they are named: --data.weight of fit")
    lines = list(_lines(tally, called))
    return Checked(file.path, title, table, lines, unread + faults, doubts, tally)


def _named(entry: Feature) -> str:
    return axis_label(replace(entry, label=entry.name))


def _lines(tally: Tally, called: Words) -> Iterator[tuple[str, str]]:
    for entry, codes in tally.codes:
        assert isinstance(entry.kind, Category)
        listed = enumerate(entry.kind.names)
        yield entry.name, ", ".join(f"{name} {codes[code]:,}" for code, name in listed)
    zeros, objects = tally.zeros, tally.objects
    yield "all 0", f"{zeros:,} of {objects:,} real {called.objects}"
    n, empty, full = tally.n - tally.unmasked, int(tally.lengths[0]), int(tally.lengths[-1])
    said = "the file does not say how many it has"
    if tally.counted:
        wrong = any(fault.name == "counts" for fault in tally.faults())
        said = "they are not as many as the file says" if wrong else "as many as the file says"
    if tally.unmasked:
        told = f"{tally.unmasked:,} of {tally.n:,} {called.events} hold something else than 1 and 0"
        yield "mask", f"{told}, so that their {called.objects} are not counted"
    if n or not tally.n:
        told = f"{empty:,} of {n:,} {called.events} have none, {full:,} have the most; {said}"
        yield "mask", told
    about = "" if tally.seen.is_exact else "about "
    yield "twice", f"{about}{tally.seen.again:,} of {tally.n:,} {called.events}"
    for name, (total, least) in tally.weights.items():
        yield name, f"sum {total:.6g}, mean {total / max(1, tally.n):.6g}, smallest {least:.6g}"


def _shared(one: Checked, other: Checked) -> str | None:
    """Return how many events of a file stand in another one, or None if none do."""
    assert one.tally is not None
    assert other.tally is not None
    if not one.tally.compared or not (n := one.tally.seen.also_in(other.tally.seen)):
        return None
    about = "" if one.tally.seen.is_exact and other.tally.seen.is_exact else "about "
    events = one.tally.called.events
    return f"{about}{n:,} of {one.tally.n:,} {events} also stand in {other.path}"


# --- scores ---


def _scores(path: Path) -> Checked:
    summary, faults = summarize_scores(path), []
    table: dict[str, Spread] = {}
    with open_events(path) as file:
        told = {name: file.attrs[name] for name in file.attrs}
        rows = len(file["log_prob"])
        if not bool(told.get("complete", True)):
            faults.append(Fault("read", f"it is not finished: {told.get('n')} of {rows:,} rows"))
        unexplained = 0
        for start in range(0, rows, _ROWS):
            there = slice(start, start + _ROWS)
            reasons = file["reason"].asstr()[there] != ""
            log_p = file["log_prob"][there]
            unexplained += int((np.isnan(log_p) & ~reasons).sum())
            unexplained += int((log_p == np.inf).sum())
            for name in file:
                if getattr(file[name], "shape", None) == (rows,) and file[name].dtype.kind in "fiu":
                    unit = str(file[name].attrs.get("unit", ""))
                    values = file[name][there]
                    column = table.setdefault(_named(Feature(name, unit)), Spread())
                    column.add(values[np.isfinite(values)])
    if unexplained:
        text = f"{unexplained:,} of {rows:,} log-densities are NaN or inf and have no reason"
        faults.append(Fault("scores", text))
    doubts = [line for line in summary.lines()[1:] if not line.startswith("0 rows")]
    title = f"log-densities of {rows:,} {summary.words.events}"
    return Checked(path, title, table, [("log p", summary.lines()[0])], faults, doubts)


# --- manifests ---


def _verified(path: Path, folders: set[Path]) -> list[Fault]:
    """Return in what a file differs from its manifest, and its folder from that of the run.

    Arguments:
        path: the file.
        folders: those that were looked at, to which this one is added.
    """
    problems = problems_of(path) if h5py.is_hdf5(path) else None
    if problems is None:
        return []
    if path.parent not in folders:
        folders.add(path.parent)
        problems = problems + [f"{path.parent}: {text}" for text in problems_of(path.parent) or ()]
    return [Fault("manifest", text) for text in problems]
