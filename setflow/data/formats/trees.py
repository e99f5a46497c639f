"""ROOT and parquet: trees that are read block by block, and events written as such.

Objects become lists under names of their own, `part_etarel` of jets and `object_x` of other events,
and what there is once for an event stands beside, as `jet_pt` or `event_radius`. In ROOT the lists
are one collection, whose length is `npart` or `nobject`. Categories are whole numbers; what they
mean stands in the title of the tree.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setflow.data.formats.sources import BLOCK_BYTES, Jagged, Raw, Source
from setflow.data.sample import EventSample
from setflow.files import NewFile
from setflow.opened import Opened
from setflow.schema import JETNET, Category, Feature, Schema, names, words_of

__all__ = ["ParquetSource", "RootSource", "TreeWriter", "mapping_back"]

TREE = "tree"
_PREFIXES = {True: ("part_", "jet_"), False: ("object_", "event_")}  # of jets, of other events


def _extra(package: str, extra: str, what: str) -> Any:
    """Return an optional package, or say which extra brings it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ImportError(
            f"{package} is not installed; {what} need `pip install 'setflow[{extra}]'`"
        ) from None


def _unreadable(path: Path, kind: str, error: Exception) -> OSError:
    why = " ".join(str(error).split())
    return OSError(f"{path} cannot be read as a {kind} file, it is damaged ({why}); fetch it again")


def _readable(blocks: Iterator[Any], path: Path, kind: str) -> Iterator[Any]:
    """Yield blocks; what a package raises in reading them, of many kinds, names the file."""
    while True:
        try:
            block = next(blocks)
        except StopIteration:
            return
        except Exception as error:
            raise _unreadable(path, kind, error) from error
        yield block


class RootSource(Source):
    """A tree of a ROOT file.

    Arguments:
        path: the file.
        tree: the name of the tree; None takes the only one, or the one called `tree`.

    Raises:
        ImportError: if uproot is not installed.
        ValueError: if there is no such tree, or there are several.
    """

    def __init__(self, path: Path, tree: str | None = None) -> None:
        uproot = _extra("uproot", "root", "ROOT files")
        _extra("awkward", "root", "ROOT files")
        self.path = path
        try:
            self._file = uproot.open(path)
            kinds = self._file.classnames(cycle=False)
        except Exception as error:  # of uproot, of many kinds
            raise _unreadable(path, "ROOT", error) from None
        trees = [name for name, kind in kinds.items() if kind in ("TTree", "ROOT::RNTuple")]
        if tree is None and TREE in trees:
            tree = TREE
        if tree is None and len(trees) != 1:
            raise ValueError(
                f"{path} holds the trees {', '.join(trees) or 'none'}; say which by `tree: NAME` "
                "in the mapping"
            )
        if tree is not None and tree not in trees:
            raise ValueError(f"{path} has no tree '{tree}'; it holds {', '.join(trees) or 'none'}")
        try:
            self._tree = self._file[tree or trees[0]]
        except Exception as error:
            raise _unreadable(path, "ROOT", error) from None
        self.n = int(self._tree.num_entries)

    def paths(self) -> tuple[str, ...]:
        return tuple(self._tree.keys())

    def blocks(self, paths: Sequence[str], start: int = 0) -> Iterator[dict[str, Raw]]:
        import awkward as ak

        for path in paths:
            self.check(path)
        if not self.n:
            return
        for block in _readable(self._steps({*paths}, start), self.path, "ROOT"):
            found: dict[str, Raw] = {}
            for path in paths:
                column = block[path]
                try:
                    if column.ndim == 1:
                        found[path] = ak.to_numpy(column)
                    else:
                        flat = ak.to_numpy(ak.flatten(column))
                        found[path] = Jagged(flat, ak.to_numpy(ak.num(column)).astype(np.int64))
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"{self.path}: {path} is {column.type}, expected numbers or lists of them"
                    ) from error
            yield found

    def _steps(self, wanted: set[str], start: int) -> Iterator[Any]:
        # by a filter, since uproot computes what it is given as expressions
        told: Any = {"filter_name": lambda name: name in wanted}
        rows = max(1, self._tree.num_entries_for(f"{BLOCK_BYTES} B", **told))
        yield from self._tree.iterate(step_size=rows, entry_start=start, library="ak", **told)

    def close(self) -> None:
        self._file.close()


class ParquetSource(Source):
    """A parquet file.

    Arguments:
        path: the file.

    Raises:
        ImportError: if pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        parquet = _extra("pyarrow.parquet", "parquet", "parquet files")
        self.path = path
        try:
            self._file = parquet.ParquetFile(path)
        except Exception as error:  # of pyarrow, of many kinds
            raise _unreadable(path, "parquet", error) from None
        self.n = int(self._file.metadata.num_rows)

    def paths(self) -> tuple[str, ...]:
        return tuple(self._file.schema_arrow.names)

    def blocks(self, paths: Sequence[str], start: int = 0) -> Iterator[dict[str, Raw]]:
        for path in paths:
            self.check(path)
        told = self._file.metadata
        size = sum(told.row_group(k).total_byte_size for k in range(told.num_row_groups))
        rows = max(1, BLOCK_BYTES * max(1, self.n) // max(1, size))
        batches = self._batches(list(paths), start, rows)
        for batch in _readable(batches, self.path, "parquet"):
            yield {path: self._column(batch.column(path), path) for path in paths}

    def _batches(self, columns: list[str], start: int, rows: int) -> Iterator[Any]:
        """Yield rows from `start` on, so many at a time wherever the groups of the file end."""
        import pyarrow as pa

        told = self._file.metadata
        ends = np.cumsum([told.row_group(k).num_rows for k in range(told.num_row_groups)])
        first = int(np.searchsorted(ends, start, side="right"))
        groups = list(range(first, told.num_row_groups))
        skipped = start - int(ends[first - 1]) if first else start
        held: list[Any] = []
        n = 0
        for batch in self._file.iter_batches(batch_size=rows, row_groups=groups, columns=columns):
            left = batch.slice(min(skipped, len(batch)))
            skipped -= len(batch) - len(left)
            held, n = [*held, left], n + len(left)
            while n >= rows:
                table = pa.Table.from_batches(held)
                yield _together(table[:rows])
                held, n = table[rows:].to_batches(), n - rows
        if n:
            yield _together(pa.Table.from_batches(held))

    def _column(self, column: Any, path: str) -> Raw:
        import pyarrow as pa

        lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        values = column.flatten() if lists else column
        if column.null_count or values.null_count:
            raise ValueError(
                f"{self.path}: {path} has rows without a value; fill or leave them out"
            )
        flat = values.to_numpy(zero_copy_only=False)
        if flat.dtype.kind not in "fiub":
            raise ValueError(
                f"{self.path}: {path} is {column.type}, expected numbers or lists of them"
            )
        if not lists:
            plain: Raw = flat
            return plain
        return Jagged(flat, np.diff(column.offsets.to_numpy()).astype(np.int64))

    def close(self) -> None:
        self._file.close()


def _together(table: Any) -> Any:
    """Return a table of one row or more as one batch."""
    return table.combine_chunks().to_batches()[0]


class TreeWriter(Opened):
    """Write events as ROOT or parquet, by the name of the file; a context manager.

    The file appears when the block ends without an error.

    Arguments:
        path: the file, named .root or .parquet.
        schema: what the events are.
        overwrite: replace the file if it exists.

    Raises:
        ImportError: if the packages that write it are not installed.
        OSError: if the file exists and `overwrite` is False.
    """

    def __init__(self, path: Path, schema: Schema, *, overwrite: bool = False) -> None:
        self._root = path.suffix.lower() == ".root"
        if self._root:
            self._package = _extra("uproot", "root", "ROOT files")
            self._awkward = _extra("awkward", "root", "ROOT files")
        else:
            self._package = _extra("pyarrow.parquet", "parquet", "parquet files")
        jets = words_of(schema.generated).event == "jet"
        self._prefixes = _PREFIXES[jets]
        self._new = NewFile(path, overwrite=overwrite)
        self._schema, self.n = schema, 0
        self._file: Any = None
        self._there: Any = None

    def _enter(self, stack: ExitStack) -> None:
        self._there = stack.enter_context(self._new)
        stack.callback(self._close)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, sample: EventSample) -> None:
        """Append events."""
        mask = sample.objects.mask.numpy()
        lengths = mask.sum(1)
        lists = _columns(sample.objects.x.numpy()[mask], self._schema.objects)
        if sample.particle_type is not None:
            lists["type"] = sample.particle_type.numpy()[mask]
        event = _columns(sample.event.numpy(), self._schema.event)
        flat = {self._prefixes[1] + name: values for name, values in event.items()}
        optional = {
            "weight": sample.objects.weight,
            "event_number": sample.event_number,
            "target": sample.target,
        }
        flat |= {name: part.numpy() for name, part in optional.items() if part is not None}
        self.n += len(sample)
        if self._root:
            self._extend_root(lists, flat, lengths)
        else:
            self._extend_parquet(lists, flat, lengths)

    def _extend_root(self, lists: dict[str, Any], flat: dict[str, Any], lengths: Any) -> None:
        ak = self._awkward
        jagged = ak.zip({name: ak.unflatten(values, lengths) for name, values in lists.items()})
        key = self._prefixes[0].removesuffix("_")
        if self._file is None:
            self._file = self._package.recreate(self._there)
            held = ", ".join(f"{name}: {values.dtype}" for name, values in lists.items())
            types: dict[str, Any] = {key: f"var * {{{held}}}"}
            types |= {name: values.dtype for name, values in flat.items()}
            self._file.mktree(TREE, types, title=self._title())
        self._file[TREE].extend({key: jagged} | flat)

    def _title(self) -> str:
        """Return what the whole numbers of categories mean."""
        told = []
        for prefix, features in zip(
            self._prefixes, (self._schema.objects, self._schema.event), strict=True
        ):
            for entry in features:
                if isinstance(entry.kind, Category):
                    names = ", ".join(
                        f"{code} {name}" for code, name in enumerate(entry.kind.names)
                    )
                    told.append(f"{prefix}{entry.name}: {names}")
        return "; ".join(told)

    def _extend_parquet(self, lists: dict[str, Any], flat: dict[str, Any], lengths: Any) -> None:
        import pyarrow as pa

        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        columns = {
            self._prefixes[0] + name: pa.ListArray.from_arrays(offsets, values)
            for name, values in lists.items()
        }
        table = pa.table(columns | {name: pa.array(values) for name, values in flat.items()})
        if self._file is None:
            self._file = self._package.ParquetWriter(self._there, table.schema)
        self._file.write_table(table)


def mapping_back(paths: Sequence[str]) -> dict[str, Any] | None:
    """Return the mapping that reads the objects of a file of `TreeWriter`, None of another file.

    Quantities of the event are left out, for such a file does not tell their units.

    >>> mapping_back(["nobject", "object_x", "event_radius"])
    {'objects': {'x': 'object_x'}, 'mask': 'jagged'}
    """
    for objects, event in _PREFIXES.values():
        held = [name for name in paths if name.startswith(objects)]
        others = [name for name in paths if name not in held]
        flat = ("n" + objects.removesuffix("_"), "weight", "event_number", "target")
        if held and all(name in flat or name.startswith(event) for name in others):
            named = {name.removeprefix(objects): name for name in held}
            jets = {*JETNET.generated} <= {*named}
            if objects == _PREFIXES[True][0] and not jets:
                continue
            types = {"types": {"codes": named.pop("type")}} if jets and "type" in named else {}
            told = {"objects": named, "mask": "jagged", **types}
            told |= {"axis": "full"} if jets else {}
            return told | {key: key for key in ("weight", "event_number") if key in paths}
    return None


def _columns(values: NDArray[Any], features: Sequence[Feature]) -> dict[str, NDArray[Any]]:
    """Return columns by their names, categories as whole numbers, -1 where they are not finite."""
    columns = dict(zip(names(features), values.T, strict=True))
    for entry in features:
        if isinstance(entry.kind, Category):
            codes = columns[entry.name]
            columns[entry.name] = np.where(np.isfinite(codes), codes, -1).astype(np.int32)
    return columns
