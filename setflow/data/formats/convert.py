"""Convert files of others, block by block: files in, one file out."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from yaml import safe_dump

from setflow.data.contexts import context_features, read_context
from setflow.data.formats.blocks import Reader
from setflow.data.formats.expressions import no_such_name
from setflow.data.formats.kept_events import LARGEST_CLASS, SLOTS, KeptEvents, plan_of
from setflow.data.formats.mapping import AXES, Mapping, Mask, mapping_of
from setflow.data.formats.named import Given, node_of
from setflow.data.formats.output import CLASS, Output, compared, without_counts
from setflow.data.formats.recognise import advice, of_bytes, told_of
from setflow.data.formats.sources import BLOCK_BYTES, Hdf5Source, NumpySource, Source
from setflow.data.formats.trees import ParquetSource, RootSource, mapping_back
from setflow.data.hdf5 import read_events, read_jets
from setflow.data.header import open_events, read_header
from setflow.data.jets import NUM, PARTICLES, WEIGHTS
from setflow.data.kept_blocks import KeptBlocks
from setflow.data.layouts import layout_of
from setflow.data.sample import EventSample
from setflow.files import check_target, require_regular
from setflow.progress import counting_bar
from setflow.schema import Category, Feature, Schema, names
from setflow.shipped import JETS, find

__all__ = ["Converted", "EventFile", "InputFile", "convert", "inputs_of", "opened"]


class InputFile(NamedTuple):
    """A file that is converted, and the class of its events, if its name was told with it."""

    path: Path
    label: str | None


class Converted(NamedTuple):
    """What was written.

    Attributes:
        path: where.
        n: the number of events.
        schema: what they are.
        notes: what is to be known of it.
    """

    path: Path
    n: int
    schema: Schema
    notes: tuple[str, ...]


def inputs_of(given: Sequence[str]) -> list[InputFile]:
    """Return the files that are meant: paths, folders of HDF5 files and patterns, each perhaps
    behind `CLASS=`.

    Raises:
        FileNotFoundError: if there is no such file, or nothing that matches.
        ValueError: if some have a class and others none, or a file stands twice.
    """
    found: list[InputFile] = []
    for text in given:
        label, equals, pattern = text.partition("=")
        if not equals or Path(text).exists():
            label, pattern = "", text
        elif not label.strip():
            raise ValueError(f"{text} has no class in front of =; write CLASS={pattern}")
        plain = find(JETS, pattern)
        matched = [plain] if plain.exists() else [Path(one) for one in sorted(glob.glob(pattern))]
        if not matched:
            raise FileNotFoundError(f"{pattern} does not exist; check the path")
        for path in matched:
            files = [path]
            if path.is_dir():
                files = sorted(file for kind in ("*.h5", "*.hdf5") for file in path.glob(kind))
                if not files:
                    raise IsADirectoryError(
                        f"{path} is a folder without HDF5 files, expected files; add /*"
                    )
            for file in files:
                require_regular(file)
                found.append(InputFile(file, label or None))
    if len({entry.label is None for entry in found}) > 1:
        bare = next(entry.path for entry in found if entry.label is None)
        raise ValueError(f"some files have a class and {bare} has none; write CLASS={bare}")
    paths = [entry.path.resolve() for entry in found]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise ValueError(f"{twice[0]} is given twice; give it once")
    return found


def convert(
    inputs: Sequence[InputFile],
    out: Path,
    given: Given,
    *,
    overwrite: bool = False,
    keep_unphysical: bool = False,
    progress: bool = False,
) -> Converted:
    """Convert files into one, block by block; the same call goes on where it was killed.

    Arguments:
        inputs: the files, in the order in which their events come.
        out: the file to write: .h5 or .hdf5, in the layout of jets if the features are JetNet's and
            that of events of any schema otherwise; .root; or .parquet.
        given: what is told of the files.
        overwrite: replace a file that is there, and what a call of another plan has left of it.
        keep_unphysical: write values that cannot be, and count them.
        progress: show how many events are done.

    Raises:
        ImportError: if a package that reads or writes a format is not installed.
        OSError: if a file cannot be read or written.
        ValueError: if a file is of another format, or a row cannot be.
    """
    check_target(out, overwrite=overwrite)
    plan = plan_of(inputs, given, keep_unphysical=keep_unphysical)
    with KeptBlocks(out, plan, overwrite=overwrite) as kept:
        events = KeptEvents(kept)
        try:
            with opened(inputs, given, events) as files:
                schema = _schema_of(files)
                output = Output(
                    out,
                    schema,
                    slots=lambda: events.number(SLOTS, lambda: max(file.slots() for file in files)),
                    attributes=_attributes(inputs, files, given),
                    overwrite=overwrite,
                    keep_unphysical=keep_unphysical,
                )
                n = _write(output, files, events, keep_unphysical, progress)
        except (ValueError, FileExistsError):  # which come again, whatever is kept
            kept.drop()
            raise
    return Converted(out, n, schema, output.notes())


def _schema_of(files: Sequence[EventFile]) -> Schema:
    """Return what the events of all files are.

    Raises:
        ValueError: if they are not the same.
    """
    schemas = [file.schema if file.native else without_counts(file.schema) for file in files]
    for file, schema in zip(files, schemas, strict=True):
        if schema != schemas[0]:
            raise ValueError(
                f"{file.path} holds {_told(schema, schemas[0])}, and {files[0].path} "
                f"{_told(schemas[0], schema)}; one file holds what all of them have in the "
                "same units, so convert them one by one"
            )
    return schemas[0]


def _write(
    output: Output,
    files: Sequence[EventFile],
    events: KeptEvents,
    keep_unphysical: bool,
    progress: bool,
) -> int:
    """Write the events of files, and return how many there are."""
    n = 0
    with output, counting_bar(disable=not progress) as bar:
        task = bar.add_task("converting", total=None)
        for file in files:
            first = 0
            for sample in events.of(file):
                if len(sample):
                    try:
                        if not file.native:
                            sample = compared(sample, keep_unphysical=keep_unphysical)
                        output.write(sample)
                    except ValueError as error:
                        told = f"{file.path}, of the rows from {first}: {error}"
                        raise ValueError(told) from None
                first += len(sample)
                bar.advance(task, len(sample))
            n += first
        if not n:
            raise ValueError(f"{files[0].path} holds no events; give files that hold some")
    return n


@contextmanager
def opened(
    inputs: Sequence[InputFile], given: Given, events: KeptEvents | None = None
) -> Iterator[list[EventFile]]:
    """Open files of any format, whose events are then iterated over, with the same classes.

    Arguments:
        inputs: the files.
        given: what is told of them.
        events: what is kept of them.

    Raises:
        ImportError: if a package that reads a format is not installed.
        OSError: if a file cannot be read.
        ValueError: if a file is of another format.
    """
    labels = tuple(dict.fromkeys(entry.label for entry in inputs if entry.label is not None))
    with ExitStack() as stack:
        files = [stack.enter_context(EventFile(entry, given, labels)) for entry in inputs]
        classes = labels or _classes(files, given, events)
        for file in files:
            file.name_classes(classes)
        yield files


def _told(schema: Schema, other: Schema) -> str:
    """Return what of a schema the other one has not, or all of it."""
    told = []
    for mine, theirs in ((schema.objects, other.objects), (schema.event, other.event)):
        differing = [_told_feature(entry) for entry in mine if entry not in theirs]
        told.append(", ".join(differing or map(_told_feature, mine)) or "nothing")
    return f"objects with {told[0]} and events with {told[1]}"


def _told_feature(feature: Feature) -> str:
    unit = f" in {feature.unit}" if feature.unit else ""
    return f"{feature.name}{unit} ({feature.kind})"


def _attributes(
    inputs: Sequence[InputFile], files: Sequence[EventFile], given: Given
) -> dict[str, Any]:
    paths = [entry.path.name for entry in inputs]
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    told = _in_common(files) | {"converted_from": ", ".join(paths[:3]) + more}
    if given.format is not None:
        told["converted_format"] = given.format
    if axis := files[0].axis:
        told["axis"] = AXES[axis]
    return told


def _in_common(files: Sequence[EventFile]) -> dict[str, Any]:
    """Return where the events of files come from that setflow reads as they are: a recipe, or the
    weights of a model, which `setflow evaluate` asks for."""
    if not all(file.native for file in files):
        return {}
    first, *others = (read_header(file.path).attributes for file in files)
    return {
        name: value
        for name, value in first.items()
        if isinstance(value, str | int | float | np.generic)
        and all(other.get(name) == value for other in others)
    }


def _classes(
    files: Sequence[EventFile], given: Given, events: KeptEvents | None
) -> tuple[str, ...]:
    """Return the names of the classes that the files tell, if they do."""
    if all(file.codes is None for file in files):
        if given.classes:
            raise ValueError("--classes names classes, and the files tell none; write CLASS=FILE")
        return ()

    def largest() -> int:
        return max(file.largest_class() for file in files)

    most = largest() if events is None else events.number(LARGEST_CLASS, largest)
    listed = tuple(given.classes) or next((file.class_names for file in files if file.codes), ())
    if listed and most >= len(listed):
        raise ValueError(
            f"the classes have codes up to {most}, and {len(listed)} names: {', '.join(listed)}; "
            "give a name for each by --classes"
        )
    return listed or tuple(str(code) for code in range(most + 1))


class _Events(Protocol):
    def blocks(self, start: int = 0) -> Iterator[EventSample]: ...

    def slots(self) -> int: ...


@dataclass
class _Native:
    """Files that setflow reads as they are."""

    path: Path
    label: int | None
    schema: Schema

    def slots(self) -> int:
        return max(1, read_header(self.path).objects)

    def blocks(self, start: int = 0) -> Iterator[EventSample]:
        header = read_header(self.path)
        size = 8 * max(1, header.objects) * len(header.columns)
        rows, context = max(1, BLOCK_BYTES // size), _context_of(self.path)
        weight = WEIGHTS if WEIGHTS in header.keys else None
        for first in range(start, header.n, rows):
            there: dict[str, Any] = {"start": first, "stop": min(first + rows, header.n)}
            options = there | {"weight": weight, "features": header.features}
            if header.layout_version == 1:
                sample: EventSample = read_jets(self.path, with_types=True, **options)
            else:
                sample = read_events(self.path, **options)
            event = [sample.event]
            if context:
                values = read_context(self.path, context, **there)
                event.append(torch.from_numpy(values).to(sample.event.dtype))
            if self.label is not None:
                event.append(torch.full((len(sample), 1), self.label, dtype=sample.event.dtype))
            held = [column for part in event for column in part.unbind(-1)]
            wanted = names(self.schema.event)
            told = [*sample.event_features, *names(context), CLASS]
            picked = [held[told.index(name)] for name in wanted]
            yield EventSample(
                sample.objects,
                torch.stack(picked, -1) if picked else sample.event[:, :0],
                Schema(sample.schema.objects, self.schema.event, self.schema.order_by),
                sample.particle_type,
                sample.event_number,
                sample.target,
            )


def _context_of(path: Path) -> tuple[Feature, ...]:
    """Return what a file of jets tells beside them, but what the jets tell."""
    header = read_header(path)
    if header.layout_version != 1:
        return ()
    held = header.event_features
    return tuple(entry for entry in context_features(path) if entry.name not in held)


class EventFile:
    """A file of any format; a context manager, which yields its events, block by block.

    Attributes:
        path: where it is.
        schema: what its events are, once its classes are named.
        native: whether setflow reads it as it is, without a mapping.
    """

    def __init__(self, entry: InputFile, given: Given, labels: Sequence[str]) -> None:
        self.path = entry.path
        self._label = None if entry.label is None else labels.index(entry.label)
        self._given = given
        self._source: Source | None = None
        self._layout: Mapping | None = None
        self._events: _Events
        self.codes: Mapping | None = None
        self.class_names: tuple[str, ...] = ()
        self.axis: str | None = None

    def __enter__(self) -> EventFile:
        if self._reads_as_it_is():
            header = read_header(self.path)
            # the writer of jets counts particles itself
            counted = NUM if header.layout_version == 1 else None
            held = [entry for entry in header.schema.event if entry.name != counted]
            event = (*held, *_context_of(self.path))
            self._bare = Schema(header.schema.objects, event, header.schema.order_by)
            axis = str(header.attributes.get("axis", ""))
            self.axis = {text: name for name, text in AXES.items()}.get(axis)
            return self
        tree = None
        if self._given.format == "custom" and isinstance(self._given.mapping, dict):
            tree = self._given.mapping.get("tree")
        source = _open(self.path, tree)
        self._source = source
        try:
            where = "the mapping"
            if self._given.format != "custom":
                where = f"the format {self._given.format}"
            layout = mapping_of(node_of(self._given, source), where)
            layout = _taken(layout, self._given.features)
            if self._label is not None:
                layout = replace(layout, labels=None)
            if layout.labels is not None:
                self.codes, self.class_names = layout, layout.labels.names
            self._layout, self.axis = layout, layout.axis
            self._bare = layout.schema()
        except BaseException:
            source.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._source is not None:
            self._source.close()

    def _reads_as_it_is(self) -> bool:
        """Return whether no mapping is needed.

        Raises:
            ValueError: if one is, and no format is given.
        """
        given = self._given
        hdf5 = self.path.suffix.lower() in (".h5", ".hdf5")
        if given.format == "jetnet" and hdf5:
            with open_events(self.path) as file:
                held = file.get(PARTICLES)
                if len(getattr(held, "shape", None) or ()) != 3:
                    return False
                return "features" in held.attrs or held.shape[2] > 3
        known = None if hdf5 else of_bytes(self.path)
        if known is not None and given.format in (None, "jetclass"):  # which errors advise
            _refuse_own(self.path, known[0])
        if given.format is not None:
            return False
        if not hdf5:
            known = known or ("of no known format", None)
            raise ValueError(told_of(self.path, *known))
        with open_events(self.path) as file:
            layout_of(file, self.path)
        return True

    def name_classes(self, classes: Sequence[str]) -> None:
        """Say what the classes are called; the events have them as a feature."""
        told = [Feature(CLASS, kind=Category(tuple(classes)))] if classes else []
        bare, label = self._bare, self._label
        if told and CLASS in names(bare.event):
            raise ValueError(f"{self.path} tells a class of its own; leave out CLASS=")
        self.schema = Schema(bare.objects, [*bare.event, *told], bare.order_by)
        if self._layout is None:
            self._events = _Native(self.path, label, self.schema)
        else:
            assert self._source is not None
            self._events = Reader(self._layout, self._source, self.schema, label)

    @property
    def native(self) -> bool:
        return self._layout is None

    def largest_class(self) -> int:
        """Return the largest code of a class, in one pass over them."""
        if self.codes is None:
            return 0
        assert self._source is not None
        assert self.codes.labels is not None
        if self.codes.labels.one_of:
            return len(self.codes.labels.one_of) - 1
        only = replace(self.codes, objects=(), event=(), types=None, weight=None)
        only = replace(only, event_number=None, mask=Mask("all"))
        most = 0
        for codes in Reader(only, self._source, Schema([Feature("x")])).codes():
            if ((codes < 0) | (codes != np.floor(codes)) | ~(codes < 2**15)).any():
                raise ValueError(
                    f"{self.path}: the class is {codes.min():g} to {codes.max():g}, expected whole "
                    "numbers from 0"
                )
            most = max(most, int(codes.max(initial=0)))
        return most

    def slots(self) -> int:
        return self._events.slots()

    @property
    def n(self) -> int:
        """The number of its events."""
        return read_header(self.path).n if self._source is None else self._source.n

    def blocks(self, start: int = 0) -> Iterator[EventSample]:
        """Yield the events from a row on with which a block begins."""
        return self._events.blocks(start)


def _taken(layout: Mapping, features: Sequence[str] | None) -> Mapping:
    """Return a mapping with the features that are asked for."""
    if features is None:
        return layout
    known = {entry.feature.name: entry for entry in (*layout.objects, *layout.more)}
    for name in features:
        if name not in known:
            raise no_such_name(name, known, "--features")
    return replace(layout, objects=tuple(known[name] for name in features))


def _refuse_own(path: Path, what: str) -> None:
    """Refuse ROOT or parquet that a conversion wrote, and say by which mapping it is read back.

    Raises:
        ValueError: if it is such a file.
    """
    if what not in ("a ROOT file", "a parquet file"):
        return
    try:
        source = _open(path, None)
    except (ImportError, OSError, ValueError):  # then nothing more is known of it
        return
    with closing(source):
        mapping = mapping_back(source.paths())
    if mapping is not None:
        text = safe_dump(mapping, default_flow_style=True, sort_keys=False, width=1e9).strip()
        raise ValueError(
            f"{path} is {what} as setflow dataset convert writes it, expected an HDF5 file of "
            f"events; it tells no units, so read it back by a mapping: {advice(path, 'custom')}, "
            f"where FILE.yaml holds {text}, with unit and kind of each feature that has some "
            "(value:, unit:, kind:)"
        )


def _open(path: Path, tree: str | None) -> Source:
    """Return a file by what it is, which its first bytes tell.

    Raises:
        ValueError: if it is of no kind that is read.
    """
    known = of_bytes(path)
    what = "HDF5" if known is None else known[0]
    if what == "a ROOT file":
        return RootSource(path, tree)
    if what == "a parquet file":
        return ParquetSource(path)
    if "NumPy" in what:
        return NumpySource(path)
    if known is not None:
        raise ValueError(f"{path} is {what}, expected HDF5, ROOT, parquet or NumPy")
    return Hdf5Source(path)
