"""Scoring a file: the log-density of every event, row for row, in a file that survives a kill.

Notation. With the scaled features z of the physical features x, the log-density of an event's set
of N objects is a sum of terms in nats,

    log_prob = objects + scaling + ordering + cardinality
             = log p(z_1 .. z_N | N, c) + log|det dz/dx| + log N! + log p(N | c),

per unit of every feature of every object. Where objects have types, p(N | c) is that of the numbers
n_k of each type, and log N! the sum of log n_k!. Given N, its density integrates to 1 over the
ordered region x_1 < ... < x_N of the first feature; with p(N | c) it does so summed over N.

Row k of the output is row k of the data. A row that cannot be scored holds NaN and a reason; the
others are neither shifted nor changed, since the probes of an estimated divergence depend on
(seed, row, rank among the real objects, feature) only.

Rows go block by block into a part that can be continued (`setflow.files`): the values first, then
the number of rows that are done. Its datasets have their full size from the beginning, so that a
kill finds no structure half changed. The same call goes on behind the last block that is done.
At the end the file has a manifest (`setflow.data.manifest`), and parts of a run
(`setflow.parts`) are put together by `setflow.data.merging.merge`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.data.contexts import ContextSource
from setflow.data.hdf5 import read_events
from setflow.data.hdf5_output import Hdf5Output
from setflow.data.header import read_header, require_objects
from setflow.data.manifest import Digest, Manifest, manifest_of
from setflow.data.reader import EventReader
from setflow.data.typed_scaling import TypedStandardizer
from setflow.divergence.base import DivergenceEstimator
from setflow.divergence.exact import ExactDivergence
from setflow.files import NewFile, check_hdf5_name, file_sha256, has_manifest
from setflow.jobs.contexts import Conditions, fixed_conditions, in_words, require_conditions
from setflow.jobs.identity import described, identity_of
from setflow.jobs.missing import UNKNOWN_MASS, attributes_of, mass_of_rows, refuse_wrapped
from setflow.jobs.pieces import refuse_another, require_made_so
from setflow.model.folder import types_of
from setflow.model.model import LogDensity, SetFlow
from setflow.opened import Opened
from setflow.parts import Part
from setflow.progress import counting_bar
from setflow.schema import Category, kept_objects, words_of
from setflow.sets.batch import SetBatch
from setflow.sets.protocols import Solver
from setflow.shipped import JETS, find
from setflow.solvers.adaptive import IntegrationError
from setflow.solvers.fixed import RK4

__all__ = ["rows_in", "score_to_hdf5"]

BLOCK_ROWS = {"cpu": 64, "cuda": 2048}  # of a device; what a kill loses at most
_NATS = tuple("log_prob" if name == "total" else name for name in LogDensity._fields)
_LONGEST = 128  # of a reason, in bytes
_REASON = h5py.string_dtype("utf-8", _LONGEST)
_UNREACHED = (
    "the solver does not reach its tolerance; loosen it, allow more steps, or take a solver of "
    "fixed steps"
)
_NOT_FINITE = "the log-density is not finite: it lies too far from what the model knows"
_IMPOSSIBLE = "the model gives this number of objects no probability"
_AT_A_TIME = 2**16  # rows that are read at a time for the manifest
_OTHER = "give a file of such events, or the model that knows those of the file"
_ANEW = "begin anew with overwrite=True"


def score_to_hdf5(
    flow: SetFlow,
    data: str | Path,
    out: str | Path,
    *,
    estimator: DivergenceEstimator | None = None,
    solver: Solver | None = None,
    events: int | None = None,
    condition: Conditions | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    part: Part | None = None,
) -> Path:
    """Write the log-density of every event of a file, row for row; see the top of the module.

    The datasets of the output have one entry for each row: `log_prob` and its terms by name,
    `standard_error`, `n_objects` and `reason`, the last one empty where `log_prob` is finite. Jets
    with more particles than the model knows are cut to the hardest. Attributes say what each column
    is and how it came about, and what the densities leave out where the model has a Box-Cox
    transform with lambda above 0 (`setflow.jobs.missing`). A call that is interrupted is continued
    by the same call.

    Arguments:
        flow: the model; its features and conditions are looked up in the file by their names,
            conditions in its context first (`setflow.data.contexts`).
        data: the file of jets; its rows may be malformed, its layout may not.
        out: the HDF5 file to write, named .h5 or .hdf5.
        estimator: of the divergence; None takes `ExactDivergence()`.
        solver: the ODE solver; None takes `RK4(steps=50)`.
        events: score the first rows only; None scores all.
        condition: values by name of conditions that are the same for all rows, whatever the file
            says, such as `{"class": "top"}`.
        seed: the seed of the probes of an estimated divergence.
        overwrite: replace a file that is there, and begin anew where a call with other arguments
            was interrupted.
        progress: show a progress bar.
        part: score one part of the rows, in a file of its own, `scores-03-of-10.h5` beside
            `scores.h5`.

    Returns:
        The path of the file; one that is there already, made by the same call, is left as it is.

    Warns:
        OutsideTrainingWarning: if contexts lie outside the range of the training.

    Raises:
        FileExistsError: if the file exists and may not be replaced.
        OSError: if `data` cannot be read, `out` cannot be written, or what an interrupted call left
            is damaged or in use.
        ValueError: if `out` is not named so, the model and the data do not fit, there are too few
            rows, an interrupted call had other arguments, or the model takes as a number an angle
            that is not narrow, so that its density is not that of the angles in a file.

    >>> import tempfile
    >>> from setflow.data import JetWriter
    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> flow = SetFlow(field, scaler=setflow.data.Standardizer(3, mean=0, std=0.3))
    >>> particles = SetBatch(torch.rand(2, 5, 3), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data, out = Path(folder) / "jets.h5", Path(folder) / "scores.h5"
    ...     with JetWriter(data, objects=5) as writer:
    ...         writer.write(particles, torch.tensor([[1.0, 0, 0, 5], [1.0, 0, 0, 2]]))
    ...     _ = score_to_hdf5(flow, data, out, solver=setflow.RK4(steps=2), progress=False)
    ...     with h5py.File(out) as file:
    ...         file["log_prob"].shape, file["n_objects"][:].tolist()
    ((2,), [5, 2])
    """
    data, out = find(JETS, data), check_hdf5_name(out)
    out = out if part is None else part.path(out)
    finished = not overwrite and has_manifest(out)
    if not finished:
        NewFile(out, overwrite=overwrite)  # raises if it cannot be written
    header = read_header(data)
    if out.exists() and out.samefile(data):
        raise ValueError(f"{out} is the data themselves; choose another name for the scores")
    source = _source(flow, data, condition)
    flow.require_fitted()
    events = header.n if events is None else events
    if not 0 <= events <= header.n:
        raise ValueError(
            f"{data} holds {header.n} {words_of(header.features).events}, and {events} of them are "
            f"to be scored; ask for at most {header.n} (--events {header.n}), or leave the number "
            "out to score all"
        )
    block = BLOCK_ROWS.get(flow.device.type, BLOCK_ROWS["cpu"])
    rows = range(events) if part is None else part.rows(events, block)
    refuse_wrapped(flow, source, events, seed)
    solver = RK4(steps=50) if solver is None else solver
    estimator = ExactDivergence() if estimator is None else estimator
    how: dict[str, str | int] = {
        **identity_of(flow),
        "data": data.name,
        "data_sha256": file_sha256(data),
        "events": events,
        "estimator": described(estimator),
        "solver": described(solver),
        "seed": seed,
        "rows": words_of(flow.features).events,
    }
    if flow.cardinality is not None and flow.cardinality.max_objects < header.objects:
        how["cut_to"] = flow.cardinality.max_objects
        how["kept"] = kept_objects(flow.schema, flow.cardinality.max_objects)
    if condition:
        how["condition"] = in_words(condition)
    terms = functools.partial(flow.log_prob_terms, solver=solver, estimator=estimator, seed=seed)
    unknown = attributes_of(flow, UNKNOWN_MASS)
    if finished:
        require_made_so(out, how | {"first": rows.start, "stop": rows.stop})
        return out
    with (
        _ScoreFile(out, rows, _columns(flow), how, unknown, overwrite=overwrite) as scores,
        closing(source),
        _reader(flow, source) as reader,
        counting_bar(disable=not progress) as bar,
        torch.no_grad(),
    ):
        task = bar.add_task("scoring", total=len(rows), completed=scores.done)
        begun, contexts = rows.start + scores.done, list[Tensor]()
        for start in range(begun, rows.stop, block):
            stop = min(start + block, rows.stop)
            columns, context = _score(flow, terms, reader, source, slice(start, stop))
            scores.append(columns)
            if context is not None:
                contexts.append(context)
            bar.advance(task, stop - start)
        scores.tell(attributes_of(flow, mass_of_rows(flow, source, events, seed)))
    if contexts and flow.context_encoder is not None:
        flow.context_encoder.warn_outside(torch.cat(contexts), first=begun)
    return out


# --- what is computed ---


def _source(flow: SetFlow, data: Path, condition: Conditions | None) -> ContextSource:
    """Return where the contexts of the rows stand.

    Raises:
        ValueError: if the file does not have the features or conditions of the model.
    """
    wanted = [flow.schema.object(name) for name in flow.features]
    require_objects(data, read_header(data), wanted, "the model knows", _OTHER)
    source = ContextSource(data, flow.context_features, fixed_conditions(flow, condition))
    read = functools.partial(read_events, data, flow.schema, stop=0, features=flow.features)
    read()
    instead = "or say what holds for all rows: --condition {}=VALUE (condition= in Python)"
    require_conditions(source, read, instead)
    return source


def _reader(flow: SetFlow, source: ContextSource) -> EventReader:
    """Return the file of the data, which stays open while its rows are scored."""
    largest = None if flow.cardinality is None else flow.cardinality.max_objects
    return EventReader(
        source.path,
        flow.schema,
        max_objects=largest,
        features=flow.features,
        conditions=source.columns,
    )


def _score(
    flow: SetFlow,
    terms: Callable[..., LogDensity],
    reader: EventReader,
    source: ContextSource,
    rows: slice,
) -> tuple[dict[str, NDArray[Any]], Tensor | None]:
    """Return the columns of rows of the data, and their contexts, NaN where there is no score."""
    start, stop = rows.start, rows.stop
    sample, reasons = reader.screen(start, stop)
    particles, context = sample.objects, source.of(sample, start)
    n_objects = particles.lengths.numpy().astype(np.int32)
    n_objects[list(reasons)] = -1
    reasons = _outside(flow, particles, context) | reasons

    columns = {name: np.full(stop - start, np.nan) for name in _NATS}
    good = torch.tensor([k for k in range(stop - start) if k not in reasons], dtype=torch.int64)
    dtype = next(flow.field.parameters(), flow.scaler.mean).dtype
    dtype = torch.promote_types(dtype, torch.float32)  # no density is computed in half precision
    batch = SetBatch(particles.x, particles.mask, context)[good].to(flow.device, dtype)
    for places, found in _solved(terms, batch, good + start):
        at = (places - start).numpy()
        if found is None:
            reasons |= dict.fromkeys(at.tolist(), _UNREACHED)
            continue
        for name, values in zip(_NATS, found, strict=True):
            columns[name][at] = values.double().cpu().numpy()
    finite = np.isfinite(columns["objects"] + columns["scaling"])
    impossible = finite & np.isneginf(columns["cardinality"])  # -inf is right for such an N
    finite &= np.isfinite(columns["log_prob"]) | impossible
    reasons = dict.fromkeys(np.flatnonzero(~finite).tolist(), _NOT_FINITE) | reasons
    for column in columns.values():
        column[list(reasons)] = np.nan
    if context is not None:
        context[list(reasons)] = torch.nan
    reasons = dict.fromkeys(np.flatnonzero(impossible).tolist(), _IMPOSSIBLE) | reasons
    reason = np.array([_fitting(reasons.get(k, "")) for k in range(stop - start)], dtype=_REASON)
    return columns | {"n_objects": n_objects, "reason": reason}, context


def _solved(
    terms: Callable[..., LogDensity], batch: SetBatch, rows: Tensor
) -> Iterator[tuple[Tensor, LogDensity | None]]:
    """Yield rows with their terms, or with None where the solver does not reach its tolerance.

    Those that fail end a solve for all, so the others are solved again, in halves: however many
    fail, no row is solved more often than a block can be halved.
    """
    if not len(rows):
        return
    try:
        found = terms(batch, first=rows.to(batch.x.device))
    except IntegrationError as error:
        failed = torch.zeros(len(rows), dtype=torch.bool)
        failed[[event[0] for event in error.events]] = True
        yield rows[failed], None
        for half in (~failed).nonzero()[:, 0].tensor_split(2):
            yield from _solved(terms, batch[half.to(batch.x.device)], rows[half])
    else:
        yield rows, found


def _fitting(reason: str) -> bytes:
    """Return a reason as its column holds it, which says by three dots where one is too long."""
    text = reason.encode()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 4].rpartition(b" ")[0] + b" ..."


def _outside(flow: SetFlow, particles: SetBatch, context: Tensor | None) -> dict[int, str]:
    """Return why rows hold values that the transforms of the model's scalers do not accept."""
    reasons: dict[int, str] = {}
    words = words_of(flow.features)
    for row, slot, column in flow.scaler.outside(particles.x, particles.mask).nonzero().tolist():
        name, value = flow.features[column], particles.x[row, slot, column].item()
        what, kind = f"'{name}' of {words.an_object} is {value:g}", flow.scaler.kinds[column]
        if isinstance(kind, Category) and value in range(len(kind.names)):
            what += f" ({kind.names[int(value)]})"
        reasons.setdefault(row, f"{what}, {_expected(flow, column)}")
    if context is not None and flow.context_encoder is not None:
        unknown = flow.context_encoder.unknown(context, flow.context_scaler)
        for row, column in unknown.nonzero().tolist():
            name = f"'{flow.conditions[column]}' of the {words.event}"
            expected = flow.context_encoder.expected(column, flow.context_scaler)
            reasons.setdefault(row, f"{name} is {context[row, column].item():g}, {expected}")
    return reasons


def _expected(flow: SetFlow, column: int) -> str:
    """Return what a feature is expected to be, in words, where it is not."""
    kind, scaler = flow.scaler.kinds[column], flow.scaler
    if isinstance(scaler, TypedStandardizer):
        if isinstance(kind, Category):
            return f"which is none of the types that the training had: {scaler.occurred}"
        if scaler.types.features[column].absent:
            absent = ", ".join(scaler.types.features[column].absent)
            return f"expected none for {absent}, which have no such feature"
    low, high = kind.bounds
    positive = (low, high) == (0, math.inf)
    values = "a positive value" if positive else f"one between {low:g} and {high:g}"
    return f"expected {values}, for the model transforms it"


# --- how it is described ---


@dataclass(frozen=True)
class _Column:
    dtype: Any
    fill: Any
    unit: str
    meaning: str


def _columns(flow: SetFlow) -> dict[str, _Column]:
    given, words = ", c" if flow.conditions else "", words_of(flow.features)
    units = {column.name: f" [{column.unit}]" for column in flow.schema.objects if column.unit}
    physical = ", ".join(name + units.get(name, "") for name in flow.features)
    if flow.cardinality is None:
        total = f"log p({{x_1 .. x_N}} | N{given}), the density of the set given its number"
        number, cut = "0: the model has no cardinality model", ""
    else:
        total = f"log p(N, {{x_1 .. x_N}}{given.replace(',', ' |')}), the density of the set"
        number = f"log p(N{given.replace(',', ' |')}), -inf where N cannot occur"
        cut = f", cut to {kept_objects(flow.schema, flow.cardinality.max_objects)}"
    total += f", per unit of {physical} of every {words.object}: the sum of the terms"
    objects = f"log p(z_1 .. z_N | N{given}), the density of the ordered tuple of scaled features z"
    ordering = (
        "log N!: from the ordered tuple to the set, whose density integrates to 1 over x_1 < .. < "
        "x_N of the first feature"
    )
    if flow.types is not None:
        objects = objects.replace("| N", "| their types")
        number = number.replace("p(N", "p(n_1 .. n_K").replace("such N", "they")
        total += f"; with the types of the {words.objects}: {types_of(flow)}"
        ordering = (
            "the sum of log n_k! over the types: from the tuple that is listed in the order of its "
            "types to the set"
        )
    meanings = {
        "log_prob": total,
        "objects": objects,
        "scaling": f"log|det dz/dx|: from scaled features z to the features x, {physical}",
        "ordering": ordering,
        "cardinality": number,
        "standard_error": "of objects and of log_prob, from the scatter of the probes; 0 if exact, "
        "NaN for a single probe",
    }
    columns = {name: _Column(np.dtype("f8"), np.nan, "nat", meanings[name]) for name in _NATS}
    meaning = f"the number N of {words.objects}{cut}; -1 where the row cannot be read"
    columns["n_objects"] = _Column(np.dtype("i4"), -1, "", meaning)
    meaning = "why log_prob is NaN or -inf; empty where it is finite"
    columns["reason"] = _Column(_REASON, None, "", meaning)
    return columns


# --- the file ---


class _ScoreFile(Opened):
    """The output: begun or continued, and renamed once it is complete.

    Arguments:
        path: the file to write.
        rows: which rows of the data it holds.
        columns: the datasets by name.
        how: what the scores depend on; a file is continued only if all of it is the same.
        told: what else the attributes say, once it is known, and until then.
        overwrite: replace the file if it exists, and discard what is begun otherwise.

    Raises:
        FileExistsError: at the end, if the file has appeared meanwhile.
        OSError: if what is begun is damaged, or in use by another process; or at the first block
            that cannot be written.
        ValueError: if what is begun was begun otherwise.
    """

    def __init__(
        self,
        path: Path,
        rows: range,
        columns: Mapping[str, _Column],
        how: Mapping[str, str | int],
        told: Mapping[str, str | int | float],
        *,
        overwrite: bool,
    ) -> None:
        self._rows, self._n, self._columns, self._how = rows, len(rows), dict(columns), dict(how)
        self._told = dict(told)
        self._target = NewFile(path, overwrite=overwrite, begin=self._begin, same=self._is_same)
        self._output: Hdf5Output
        self.done = 0

    def _enter(self, stack: ExitStack) -> None:
        part = stack.enter_context(self._target)
        self._require_same(part)
        self._output = stack.enter_context(Hdf5Output(part, "r+"))
        stack.push(self._finish)
        self._target.keep = self.done > 0  # else nothing is lost

    def _finish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._output.do(self._complete)

    def _complete(self, file: Any) -> None:
        hashes = {}
        for name in self._columns:
            digest = Digest()
            for start in range(0, self._n, _AT_A_TIME):
                digest.add(file[name][start : start + _AT_A_TIME])
            hashes[name] = digest.text()
        file.attrs.modify("manifest", np.bytes_(self._manifest(hashes)))
        file.attrs.modify("complete", True)

    def _manifest(self, hashes: Mapping[str, str]) -> str:
        first, stop = self._rows.start, self._rows.stop
        return Manifest(int(self._how["events"]), first, stop, dict(hashes), {}).text()

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write the next rows, one array for each column; they are on disk when it returns."""
        start, stop = self.done, self.done + len(columns["reason"])

        def values(file: Any) -> None:
            for name, column in columns.items():
                file[name][start:stop] = column

        def counter(file: Any) -> None:
            file.attrs.modify("n", np.int64(stop))  # in its place: the structure stays
            file.flush()
            self.done, self._target.keep = stop, True  # here, where no signal comes between

        self._output.do(values)
        self._output.sync()
        self._output.do(counter)
        self._output.wait()

    def tell(self, told: Mapping[str, str | int | float]) -> None:
        """Write what has become known, in its place."""

        def tell(file: Any) -> None:
            for name, value in told.items():
                if not isinstance(value, str):  # texts stand there from the beginning
                    file.attrs.modify(name, np.asarray(value))

        self._output.do(tell)

    def _begin(self, part: Path) -> None:
        with Hdf5Output(part, "w") as output:
            output.do(self._create)

    def _create(self, file: Any) -> None:
        for name, value in {"layout": "scores", **self._how, **self._told}.items():
            file.attrs[name] = value
        file.attrs["n"] = np.int64(0)
        file.attrs["complete"] = False
        # its final length, so that it is written in its place
        file.attrs["manifest"] = np.bytes_(self._manifest(dict.fromkeys(self._columns, "0" * 64)))
        for name, column in self._columns.items():
            early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            dataset = file.create_dataset(
                name,
                shape=(self._n,),
                dtype=column.dtype,
                fillvalue=column.fill,
                track_times=False,
                dcpl=early,
            )
            dataset.attrs["unit"] = column.unit
            dataset.attrs["meaning"] = column.meaning

    def _is_same(self, part: Path) -> bool:
        try:
            self._require_same(part)
        except (OSError, ValueError):
            return False
        return True

    def _require_same(self, part: Path) -> None:
        """Require that what is begun can be continued, and see how many of its rows are done."""
        try:
            with h5py.File(part, "r", locking=False) as file:
                refuse_another(part, {name: file.attrs[name] for name in self._how}, self._how)
                done, manifest = int(file.attrs["n"]), manifest_of(file.attrs)
                held = {name: (file[name].shape, file[name].dtype) for name in self._columns}
        except (AttributeError, KeyError, OSError, RuntimeError) as error:  # most are of h5py
            raise self._damaged(str(error)) from error
        if manifest is None:
            raise self._damaged("it has no manifest")
        here = {"first": self._rows.start, "stop": self._rows.stop}
        refuse_another(part, manifest._asdict(), here)
        expected = {name: ((self._n,), column.dtype) for name, column in self._columns.items()}
        if held != expected or not 0 <= done <= self._n:
            raise self._damaged(f"it holds {done} of {self._n} rows in {held}")
        self.done = done

    def _damaged(self, why: str) -> OSError:
        return OSError(f"{self._target.part} cannot be continued, it is damaged ({why}); {_ANEW}")


def rows_in(target: Path) -> int:
    """Return how many rows of a file of scores that is not finished are done."""
    try:
        with h5py.File(target.with_name(f"{target.name}.part"), "r", locking=False) as file:
            return int(file.attrs["n"])
    except (OSError, KeyError):
        return 0
