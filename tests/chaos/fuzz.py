"""Damage files of events in every way that comes to mind, and read each by every entrance.

    python tests/chaos/fuzz.py --files 600 --seed 1

Each file goes to the reader, the converter, `sample --like`, `evaluate` and `score`, each in a
process of its own with a limit of time, of which the largest memory is taken. An outcome is one of

    refused     an error of one line that names the file, with exit status 2
    right       the values of the undamaged file
    row         the malformed row alone has no score, with the reason
    another     a flipped byte that no checksum covers: the values that h5py reads itself

and anything else is a failure: `crash`, `hang`, `memory`, `traceback`, `nameless`, `silent`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

import setflow
from setflow.cli import main
from setflow.data import EventWriter, JetWriter, Standardizer
from setflow.data.reader import EventReader
from setflow.report import page
from setflow.report.page import compare
from setflow.schema import JETNET, PARTICLE_FEATURES, names
from setflow.sets.batch import SetBatch

N, SLOTS, LIMIT, MEMORY = 40, 6, 20.0, 3 * 2**28
GOOD = ("refused", "right", "row", "another")
ENTRANCES = ("reader", "convert", "like", "evaluate", "score")
JETS = names(JETNET.event)
Hdf5Change = Callable[[Any, random.Random], None]


class Case(NamedTuple):
    """A damaged file and what may come of it: `refused`, `right`, `row`, `either` or `any`."""

    path: Path
    kind: str
    expected: str
    row: int | None = None
    format: str | None = None


# --- files ---


def truth() -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
    rng = np.random.default_rng(0)
    number = rng.integers(1, SLOTS + 1, N)
    mask = np.arange(SLOTS) < number[:, None]
    x = np.concatenate([rng.normal(0, 0.1, (N, SLOTS, 2)), rng.uniform(0.1, 0.9, (N, SLOTS, 1))], 2)
    x = (x * mask[..., None]).astype("f4")
    jets = np.stack([rng.uniform(900, 1000, N), rng.normal(size=N), np.full(N, 80.0), number], -1)
    return x, mask, jets.astype("f4")


def write_plain(path: Path, **storage: Any) -> Path:
    """Jets without anything of ours in the file."""
    x, mask, jets = truth()
    with h5py.File(path, "w") as file:
        particles = np.concatenate([x, mask[..., None]], 2).astype("f4")
        file.create_dataset("particle_features", data=particles, **storage)
        if storage.get("chunks"):
            storage["chunks"] = (8, 4)
        file.create_dataset("jet_features", data=jets, **storage)
    return path


def write_packed(path: Path) -> Path:
    chunks = (8, SLOTS, 4)
    return write_plain(path, chunks=chunks, compression=4, shuffle=True, fletcher32=True)


def write_jets(path: Path) -> Path:
    x, mask, jets = map(torch.from_numpy, truth())
    with JetWriter(path, objects=SLOTS) as writer:
        writer.write(SetBatch(x, mask), jets)
    return path


def write_events(path: Path, objects: int | None = SLOTS) -> Path:
    x, mask, jets = map(torch.from_numpy, truth())
    with EventWriter(path, JETNET, objects=objects) as writer:
        writer.write(SetBatch(x, mask), jets)
    return path


def write_ragged(path: Path) -> Path:
    return write_events(path, None)


BASES = {
    "plain": write_plain,
    "packed": write_packed,
    "jets": write_jets,
    "events": write_events,
    "ragged": write_ragged,
}


# --- damage to a whole file ---


def _table(file: Any) -> str:
    return next(name for name in ("particle_features", "objects", "values") if name in file)


def _replace(file: Any, name: str, **options: Any) -> Any:
    held = dict(file[name].attrs)
    del file[name]
    new = file.create_dataset(name, **options)
    for key, value in held.items():
        new.attrs[key] = value
    return new


def _dtype(file: Any, rng: random.Random) -> None:
    name = _table(file)
    shape = file[name].shape
    kind = rng.choice(["S4", "c8", "compound", "opaque", "enum", "text", "reference", "vlen"])
    if kind in ("S4", "c8"):
        _replace(file, name, data=np.zeros(shape, kind))
        return
    dtype = {
        "compound": np.dtype([("a", "f4"), ("b", "f4")]),
        "opaque": h5py.opaque_dtype(np.dtype("M8[s]")),
        "enum": h5py.enum_dtype({"a": 0, "b": 1}),
        "text": h5py.string_dtype(),
        "reference": h5py.ref_dtype,
        "vlen": h5py.vlen_dtype(np.float32),
    }[kind]
    _replace(file, name, shape=shape, dtype=dtype)


def _shape(file: Any, rng: random.Random) -> None:
    name = _table(file)
    values = file[name][:]
    kind = rng.choice(["rows", "flat", "scalar", "null", "wide"])
    if kind == "null":
        _replace(file, name, data=h5py.Empty("f4"))
    else:
        cut = {"rows": values[:-1], "flat": values.ravel(), "scalar": values.ravel()[0]}
        _replace(file, name, data=cut.get(kind, values[..., None]))


def _key(file: Any, rng: random.Random) -> None:
    name = _table(file)
    kind = rng.choice(["gone", "other", "group", "type"])
    if kind == "other":
        file.move(name, "constituents")
        return
    del file[name]
    if kind == "group":
        file.create_group(name)["a"] = np.zeros(3)
    elif kind == "type":
        file[name] = np.dtype("f4")


def _loop(file: Any, rng: random.Random) -> None:
    name = _table(file)
    del file[name]
    file[name] = h5py.SoftLink(rng.choice(["/loop", "/nowhere", f"/{name}"]))
    file["loop"] = h5py.SoftLink(f"/{name}")


def _attribute(file: Any, rng: random.Random) -> None:
    node = rng.choice([file[_table(file)], file])
    wrong: list[Any] = [
        h5py.Empty("f4"), np.arange(3), np.nan, "a,b", "[" * 40_000, np.array([b"\xff\xfe"] * 3),
        2**62, -1, np.zeros((2, 2)),
    ]  # fmt: skip
    for name in ("features", "schema", "units", "layout_version", "n", "complete", "format"):
        if rng.random() < 0.5:
            node.attrs[name] = rng.choice(wrong)


def _bomb(file: Any, rng: random.Random) -> None:
    name = _table(file)
    tail = file[name].shape[1:]
    kind = rng.choice(["rows", "slots", "chunk", "chunks", "expansion", "early"])
    if kind in ("rows", "chunks"):
        chunks = (1 if kind == "chunks" else 1000, *tail)
        _replace(file, name, shape=(10**9, *tail), dtype="f4", chunks=chunks, compression=9)
    elif kind == "slots":
        shape = (N, 10**8, tail[-1]) if len(tail) > 1 else (10**11, *tail)
        chunks = (*(1,) * (len(shape) - 2), 64, min(4, shape[-1]))
        _replace(file, name, shape=shape, dtype="f4", chunks=chunks)
    elif kind == "early":
        _replace(file, name, shape=(10**9, *tail), dtype="f4")
    else:
        rows = 2**25 if kind == "chunk" else 2**22
        made = _replace(
            file, name, shape=(rows, *tail), dtype="f4", compression=9,
            chunks=(rows // 4 if kind == "chunk" else 2**17, *tail),
        )  # fmt: skip
        if kind == "expansion":
            import zlib

            held = zlib.compress(bytes(4 * 2**17 * int(np.prod(tail))), 9)
            for start in range(0, rows, 2**17):
                made.id.write_direct_chunk((start, *(0 for _ in tail)), held)


def _links(file: Any, rng: random.Random) -> None:
    name = _table(file)
    shape, dtype = file[name].shape, file[name].dtype
    kind = rng.choice(["external", "pipe", "storage", "beside"])
    if kind == "beside":
        file["more"] = h5py.ExternalLink("good.h5", "/particle_features")
        return
    if kind == "storage":
        _replace(file, name, shape=shape, dtype=dtype, external=[("/etc/passwd", 0, 2**20)])
        return
    del file[name]
    file[name] = h5py.ExternalLink("good.h5" if kind == "external" else "pipe", f"/{name}")


REFUSED: dict[str, Hdf5Change] = {
    "dtype": _dtype, "shape": _shape, "key": _key, "loop": _loop, "bomb": _bomb, "links": _links,
}  # fmt: skip


# --- virtual data sets ---


def make_virtual(path: Path, rng: random.Random) -> str:
    """Write jets as a virtual data set; return what is to be expected."""
    x, mask, jets = truth()
    particles = np.concatenate([x, mask[..., None]], 2).astype("f4")
    kind = rng.choice(["good", "gone", "short", "pipe", "folder", "part", "text", "itself", "name"])
    half = N // 2
    for k in (0, 1):
        with h5py.File(path.with_name(f"part{k}.h5"), "w") as file:
            rows = particles[k * half : (k + 1) * half]
            name = "other" if (kind, k) == ("name", 1) else "p"
            file[name] = rows[:-1] if (kind, k) == ("short", 1) else rows
    second = path.with_name("part1.h5")
    if kind in ("gone", "pipe", "folder", "text"):
        second.unlink()
    if kind == "pipe":
        os.mkfifo(second)
    elif kind == "folder":
        second.mkdir()
    elif kind == "text":
        second.write_text("no HDF5")
    layout = h5py.VirtualLayout(particles.shape, "f4")
    for k in range(1 if kind == "part" else 2):
        named = path.name if (kind, k) == ("itself", 1) else f"part{k}.h5"
        inside = "particle_features" if named == path.name else "p"
        source = h5py.VirtualSource(named, inside, (half, SLOTS, 4))
        layout[k * half : (k + 1) * half] = source
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("particle_features", layout)
        file["jet_features"] = jets
    return "right" if kind == "good" else "refused"


# --- what is no HDF5 ---


def make_other(path: Path, rng: random.Random) -> tuple[Path, str | None]:
    """Write a file of another kind; return where, and the format by which it is converted."""
    x, _, _ = truth()
    kind = rng.choice(["npz", "npy", "parquet", "root", "text", "empty", "zip", "gzip", "rubbish"])
    if kind in ("npz", "npy"):
        path = path.with_suffix(f".{kind}")
        np.savez_compressed(path, x=x) if kind == "npz" else np.save(path, x)
    elif kind in ("parquet", "root"):
        path = path.with_suffix(f".{kind}")
        with contextlib.redirect_stdout(io.StringIO()):
            main(["dataset", "convert", str(path.with_name("good.h5")), "--out", str(path)])
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "a" * 1000)
    else:
        rubbish = rng.randbytes(4000)
        magic = b"\x89HDF\r\n\x1a\n" if rng.random() < 0.5 else b""
        path.write_bytes(
            {"text": b"eta,phi,pt\n1,2,3\n", "empty": b"", "gzip": b"\x1f\x8b" + rubbish}.get(
                kind, magic + rubbish
            )
        )
    data = bytearray(path.read_bytes())
    if kind in ("npz", "npy", "parquet", "root"):
        if rng.random() < 0.5:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice([1, 3, 30])):
                data[rng.randrange(min(len(data), rng.choice([200, 10**6])))] = rng.randrange(256)
        path.write_bytes(data)
        return path, "npy" if kind in ("npz", "npy") else "jetclass"
    return path, rng.choice([None, "npy", "jetclass", "jetnet"])


def make_irregular(path: Path, rng: random.Random) -> None:
    kind = rng.choice(["pipe", "folder", "socket", "device", "gone", "loop"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)


# --- one case ---


def make_case(folder: Path, seed: int) -> Case:
    """Write a damaged file; the same seed writes the same one."""
    rng = random.Random(seed)
    path, kind = folder / f"case{seed}.h5", KINDS[seed % len(KINDS)]
    write_plain(folder / "good.h5")
    base = rng.choice(list(BASES))
    if kind == "irregular":
        make_irregular(path, rng)
        return Case(path, kind, "refused")
    if kind == "virtual":
        return Case(path, kind, make_virtual(path, rng))
    if kind == "other":
        path, form = make_other(path, rng)
        return Case(path, kind, "any", format=form)
    if kind in ("chunk", "checksum"):
        base = rng.choice(["packed", "events", "ragged"])
    BASES[base](path)
    data = bytearray(path.read_bytes())
    if kind == "cut":
        path.write_bytes(data[: rng.randrange(len(data))])
        return Case(path, kind, "refused")
    if kind == "flip":  # anywhere, most of it in the structure
        for _ in range(rng.choice([1, 1, 4, 40])):
            data[rng.randrange(min(len(data), rng.choice([100, 1000, 3000, 10**7])))] ^= (
                1 << rng.randrange(8)
            )
        path.write_bytes(data)
        return Case(path, kind, "either")
    if kind == "chunk":
        with h5py.File(path) as file:
            name = _table(file)
            place = file[name].id.get_chunk_info(rng.randrange(file[name].id.get_num_chunks()))
        data[place.byte_offset + rng.randrange(place.size)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        return Case(path, kind, "refused")
    if kind == "row":
        return _bad_row(path, base, rng)
    if kind == "none":
        with h5py.File(path, "r+") as file:
            for name in list(file):
                _replace(file, name, data=file[name][: 1 if name == "offsets" else 0])
            file.attrs.update({"n": 0} if "n" in file.attrs else {})
        return Case(path, kind, "none")
    if kind == "attribute":
        with h5py.File(path, "r+") as file, contextlib.suppress(OSError, RuntimeError):
            _attribute(file, rng)
        return Case(path, kind, "either")
    if kind == "links":
        os.mkfifo(folder / "pipe")
    with h5py.File(path, "r+") as file:
        REFUSED[kind](file, rng)
    return Case(path, kind, "refused")


KINDS = ("irregular", "virtual", "other", "cut", "flip", "chunk", "row", "none", "attribute",
         "flip", *REFUSED)  # fmt: skip


def _bad_row(path: Path, base: str, rng: random.Random) -> Case:
    row = rng.randrange(N)
    with h5py.File(path, "r+") as file:
        ragged = base == "ragged"
        kind = rng.choice(["nan", "inf", *(() if ragged else ("mask", "count"))])
        at = int(file["offsets"][row]) if ragged else (row, 0)
        if kind in ("nan", "inf"):
            file[_table(file)][at] = np.nan if kind == "nan" else np.inf
            if base in ("plain", "packed", "jets"):
                file[_table(file)][row, 0, 3] = 1
        elif kind == "mask" and base == "events":
            held = file["mask"][:].astype("i1")
            held[row, 0] = 2
            _replace(file, "mask", data=held)
        elif kind == "mask":
            file[_table(file)][row, 0, 3] = 2
        else:
            file["context" if base == "events" else "jet_features"][row, 3] = SLOTS + 3 - row % 2
            if not (truth()[1][row]).all():
                return Case(path, "row", "row", row)
            return Case(path, "row", "right")
    return Case(path, "row", "row", row)


# --- one entrance ---


def direct(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return features and mask as h5py reads them, whoever damaged the file."""
    with h5py.File(path) as file:
        if "particle_features" in file:
            usual = names(PARTICLE_FEATURES)
            values = file["particle_features"][:]
            told = file["particle_features"].attrs.get("features")
            told = usual if told is None or isinstance(told, h5py.Empty) else tuple(map(str, told))
            mask = values[..., told.index("mask")] == 1
            x = values[..., [told.index(name) for name in usual[:3]]]
        else:
            table = _table(file)
            x = file[table][:]
            told = tuple(map(str, file[table].attrs.get("features", names(JETNET.objects))))
            x = x[..., [told.index(name) for name in names(JETNET.objects)]]
            if table == "values":
                lengths = np.diff(file["offsets"][:])
                mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
                padded = np.zeros((*mask.shape, 3), x.dtype)
                padded[mask] = x
                x = padded
            else:
                mask = file["mask"][:] == 1
    return np.where(mask[..., None], x, 0), mask


def _same(one: tuple[NDArray[Any], NDArray[Any]], other: tuple[NDArray[Any], ...]) -> bool:
    x, mask = one
    y, real = other[:2]
    return bool(
        len(mask) == len(real)
        and np.array_equal(mask.sum(1), real.sum(1))
        and np.allclose(x[mask], y[real], rtol=1e-6, atol=1e-12)
    )


def enter(entrance: str, case: Case, folder: Path) -> str:
    """Read a case by an entrance, in this process; return the outcome."""
    out, model, path = folder / f"out-{entrance}.h5", folder.parent / "model", case.path
    good = folder / "good.h5"
    calls = {
        "convert": ["dataset", "convert", path, "--out", out],
        "like": ["sample", model, "--like", path, "--steps", "1", "--out", out],
        "evaluate": ["evaluate", path, good, "--fast", "--out", folder / "report"],
        "score": ["score", model, path, "--steps", "2", "--out", out],
    }
    said, status = "", 0
    if entrance == "reader":
        try:
            with EventReader(path, JETNET) as reader:
                sample = reader.read()
        except (OSError, ValueError) as error:
            said, status = f"setflow: error: {error}", 2
    else:
        call = calls[entrance]
        if entrance == "convert" and case.format is not None:
            call += ["--format", case.format]
            call += ["--columns", "etarel,phirel,ptrel", "--mask", "nonzero:ptrel"] * (
                case.format == "npy"
            )
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            try:
                main(list(map(str, call)))
            except SystemExit as stop:
                status = int(stop.code or 0)
        said = told.getvalue()
    errors = [line for line in said.splitlines() if not line.startswith("setflow: warning")]
    if status == 2:
        return _refused(case, entrance, " ".join(errors))
    if entrance == "evaluate":
        return _accepted(case, entrance, None, path)
    if entrance == "score":
        return _scored(case, out, status)
    if entrance == "like":
        with EventReader(out, keep_unphysical=True) as reader:
            lengths = reader.read().objects.lengths.numpy()
        return _accepted(case, entrance, lengths, path)
    if entrance == "convert":
        with EventReader(out, JETNET, keep_unphysical=True) as reader:
            sample = reader.read()
    found = (sample.objects.x.numpy(), sample.objects.mask.numpy())
    return _accepted(case, entrance, found, path)


def _refused(case: Case, entrance: str, said: str) -> str:
    if "Traceback" in said:
        return "traceback"
    there = [case.path.name]
    if case.kind == "virtual":
        there += ["part1.h5"]
    if not any(name in said for name in there):
        return f"nameless ({said[:300]})"
    if case.expected == "row" and f"row {case.row}," not in said and "of the rows" not in said:
        return f"nameless, without its row {case.row} ({said[:300]})"
    if case.expected == "right" and case.kind == "virtual":
        return f"refused what is right ({said[:300]})"
    return "refused"


def _accepted(case: Case, entrance: str, found: Any, path: Path) -> str:
    x, mask, _ = truth()
    if case.expected == "refused":
        return "silent"
    if case.expected == "none":
        empty = found is not None and not len(found[0] if isinstance(found, tuple) else found)
        return "right" if empty else "silent"
    if case.expected == "row" and entrance not in ("like", "evaluate"):
        return "silent"
    if found is None:
        return "right"
    if isinstance(found, tuple):
        if _same(found, (x, mask)):
            return "right"
        if case.kind in ("flip", "attribute") and _same(found, direct(path)):
            return "another"
        return "another" if case.kind == "other" else "silent"
    if np.array_equal(found, mask.sum(1)):
        return "right"
    if case.kind in ("flip", "attribute") and np.array_equal(found, direct(path)[1].sum(1)):
        return "another"
    return "silent"


def _scored(case: Case, out: Path, status: int) -> str:
    with h5py.File(out) as file:
        log_p, number = file["log_prob"][:], file["n_objects"][:]
        reasons = file["reason"].asstr()[:]
    none = len(log_p) > 0 and not np.isfinite(log_p).any()
    if (~np.isfinite(log_p) & (reasons == "")).any() or status != int(none):
        return "silent"
    if case.expected == "row":
        lacking = np.flatnonzero(~np.isfinite(log_p)).tolist()
        return "row" if lacking == [case.row] else "silent"
    good = number >= 0
    if case.kind == "flip" and not good.all():
        return "row"
    return _accepted(case, "score", number[good], case.path)


# --- one process ---


def watched(work: Callable[[], str], limit: float = LIMIT) -> tuple[str, float]:
    """Return the outcome of work in a process of its own, and the most memory that it took.

    That process begins with what this one holds, which is not counted.
    """
    sys.stdout.flush()
    held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.close(reads)
        outcome = "crash"
        page.compare = compare_little  # in this process alone
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            warnings.simplefilter("ignore")
            outcome = work()
        except BaseException:
            outcome = f"traceback ({traceback.format_exc()[-1500:]})"
        finally:
            with contextlib.suppress(BaseException):
                os.write(writes, outcome.encode()[:4000])
            os._exit(0)
    os.close(writes)
    ready, _, _ = select.select([reads], [], [], limit)
    if not ready:
        os.kill(child, signal.SIGKILL)
    outcome = os.read(reads, 4000).decode() if ready else "hang"
    os.close(reads)
    _, status, used = os.wait4(child, 0)
    if not outcome:
        outcome = f"crash (status {os.waitstatus_to_exitcode(status)})"
    return outcome, used.ru_maxrss * 1024 - held


def compare_little(generated: SetBatch, reference: SetBatch, *_: Any, **options: Any) -> Any:
    """Compare without drawing, and by W1 alone: it is the reading that is looked at."""
    return compare(generated, reference, **{**options, "measures": ("w1",), "pairs": 2})


def make_model(folder: Path) -> None:
    torch.manual_seed(0)
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    scaler = Standardizer(3, mean=[0, 0, 0.5], std=[0.1, 0.1, 0.2])
    cardinality = setflow.EmpiricalCardinality(counts=[0] + [1] * SLOTS)
    setflow.SetFlow(field, scaler=scaler, cardinality=cardinality).eval().save(folder / "model")


class Found(NamedTuple):
    """What came of a case at an entrance."""

    seed: int
    kind: str
    entrance: str
    outcome: str
    memory: float


def fuzz(seeds: range, entrances: int = len(ENTRANCES), seconds: float = 1e9) -> Iterator[Found]:
    """Yield what comes of damaged files, each by some entrances in turn, until the time is over."""
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        make_model(root)
        for seed in seeds:
            folder = root / f"{seed}"
            folder.mkdir()
            case = make_case(folder, seed)
            turn = seed // len(KINDS)
            for k in range(entrances):
                entrance = ENTRANCES[(turn + k) % len(ENTRANCES)]
                outcome, memory = watched(partial(enter, entrance, case, folder))
                if outcome.split(" ")[0] in GOOD and memory > MEMORY:
                    outcome = f"memory ({memory / 2**20:.0f} MiB)"
                yield Found(seed, case.kind, entrance, outcome, memory)
                if time.monotonic() > end:
                    return
            shutil.rmtree(folder)


def _main() -> None:
    told = argparse.ArgumentParser(description="Damage files of events, and read them.")
    told.add_argument("--files", type=int, default=600)
    told.add_argument("--seed", type=int, default=0, help="the number of the first file")
    given = told.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    largest, failures, say = 0.0, 0, sys.stdout.write
    for one in fuzz(range(given.seed, given.seed + given.files)):
        counts[one.kind, one.outcome.split(" ")[0]] += 1
        largest = max(largest, one.memory)
        if one.outcome not in GOOD:
            failures += 1
            say(f"file {one.seed} ({one.kind}) by {one.entrance}: {one.outcome}\n")
            sys.stdout.flush()
    words = sorted({word for _, word in counts})
    say(f"{'':12}" + "".join(f"{word:>12}" for word in words) + "\n")
    for kind in dict.fromkeys(KINDS):
        say(f"{kind:12}" + "".join(f"{counts[kind, word]:12}" for word in words) + "\n")
    say(
        f"{given.files} files by {len(ENTRANCES)} entrances: {failures} failures; at most "
        f"{largest / 2**20:.0f} MiB\n"
    )
    sys.exit(failures > 0)


if __name__ == "__main__":
    _main()
