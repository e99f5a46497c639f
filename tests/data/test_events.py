"""Files of events of any schema: how they lie in a file changes no number; what is refused."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from data.rings import RINGS, make_rings, store, write_rings
from each import each
from setflow.data import EventWriter, JetWriter, read_events, read_header, screen_events
from setflow.data.contexts import read_context
from setflow.data.sample import EventSample
from setflow.data.summary import summarize_events
from setflow.files import file_sha256
from setflow.schema import JETNET, Feature, Schema
from setflow.sets.batch import SetBatch

N, SLOTS = 12, 8
NAMES = tuple(feature.name for feature in RINGS.objects)
UNITS = tuple(feature.unit for feature in RINGS.objects)
PERMUTED = (4, 6, 0, 2, 5, 1, 3)
SCHEMA = {"schema": json.dumps(RINGS.node())}
OURS = {"format": "setflow"}


def truth(dtype: str = "f4") -> Any:
    return make_rings(N, SLOTS, dtype=dtype)


def assert_true(sample: EventSample, features: tuple[str, ...] = NAMES, rtol: float = 0) -> None:
    x, mask, event = truth()
    assert np.array_equal(sample.objects.mask.numpy(), mask)
    real = np.where(mask[..., None], x, 0)[..., [NAMES.index(name) for name in features]]
    np.testing.assert_allclose(sample.objects.x.numpy(), real, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(sample.event.numpy(), event, rtol=rtol)
    assert sample.features == features
    assert sample.schema.event == RINGS.event
    known = {feature.name: feature for feature in RINGS.objects}
    assert sample.schema.objects == tuple(known[name] for name in features)


# --- the law ---


def padded(p: Path, dtype: str = "f4", order: Any = None, more: Any = None, **storage: Any) -> Path:
    x, mask, event = truth()
    order = range(len(NAMES)) if order is None else order
    told = {"objects": {"features": [NAMES[k] for k in order], "units": [UNITS[k] for k in order]}}
    contents = {
        "objects": x[..., [*order]].astype(dtype),
        "mask": mask,
        "context": event,
        **(more or {}),
    }
    return store(p, contents, told, SCHEMA, **storage)


def ragged(p: Path, offsets: str = "i8", **storage: Any) -> Path:
    """One event behind the other: with a mask that has holes, only the real ones stand there."""
    x, mask, event = truth()
    ends = np.concatenate([[0], mask.sum(1).cumsum()]).astype(offsets)
    contents = {"values": x[mask], "offsets": ends, "context": event}
    return store(p, contents, {}, SCHEMA, **storage)


SAME: dict[str, Callable[[Path], Path]] = {
    "as h5py stores it": padded,
    "names by the schema alone": lambda p: store(
        p, dict(zip(("objects", "mask", "context"), truth(), strict=True)), {}, SCHEMA
    ),
    "permuted": lambda p: padded(p, order=PERMUTED),
    "float64": lambda p: padded(p, "f8"),
    "big-endian": lambda p: padded(p, ">f4", more={"event_number": np.arange(N).astype(">u8")}),
    "big-endian float64": lambda p: padded(p, ">f8", PERMUTED),
    "long doubles": lambda p: padded(p, "longdouble"),
    "chunks of one row": lambda p: padded(p, order=PERMUTED, chunks=True, maxshape=None),
    "gzip, shuffled": lambda p: padded(p, compression="gzip", shuffle=True, fletcher32=True),
    "lzf": lambda p: padded(p, order=PERMUTED, compression="lzf"),
    "a mask of whole numbers": lambda p: padded(p, more={"mask": truth()[1].astype("u1")}),
    "a mask of floats": lambda p: padded(p, more={"mask": truth()[1].astype(">f8")}),
    "our own writer": lambda p: write_rings(p, N, SLOTS),
    "our own writer, uncompressed": lambda p: write_rings(p, N, SLOTS, compression=0),
}


@pytest.mark.parametrize("kind", SAME)
def test_how_a_file_is_laid_out_changes_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = SAME[kind](tmp_path / "a.h5")
    assert_true(read_events(path, features=NAMES))
    monkeypatch.setattr("setflow.data.rows.BLOCK_BYTES", 1)
    assert_true(screen_events(path, RINGS, features=NAMES).sample)
    assert_true(read_events(path), RINGS.generated)
    header = read_header(path)
    assert (header.n, header.objects, header.schema) == (N, SLOTS, RINGS)


RAGGED: dict[str, Callable[[Path], Path]] = {
    "as h5py stores it": ragged,
    "unsigned offsets": lambda p: ragged(p, "u4"),
    "big-endian offsets": lambda p: ragged(p, ">i8"),
    "chunks and checksums": lambda p: ragged(p, chunks=True, fletcher32=True, compression="gzip"),
    "our own writer": lambda p: write_rings(p, N, SLOTS, objects=None),
}


@pytest.mark.parametrize("kind", RAGGED)
@pytest.mark.parametrize("block", [1, 2**24])
def test_events_one_behind_the_other_are_those_in_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, block: int
) -> None:
    monkeypatch.setattr("setflow.data.rows.BLOCK_BYTES", block)
    one = read_events(RAGGED[kind](tmp_path / "a.h5"), features=NAMES)
    other = read_events(padded(tmp_path / "b.h5"), features=NAMES)
    assert torch.equal(one.objects.lengths, other.objects.lengths)
    assert torch.equal(one.objects.x[one.objects.mask], other.objects.x[other.objects.mask])
    assert torch.equal(one.event, other.event)
    assert one.schema == other.schema
    for most in (1, 3, SLOTS):  # largest first, so that holes do not matter
        cut = [read_events(tmp_path / f"{name}.h5", max_objects=most) for name in "ab"]
        assert torch.equal(cut[0].objects.x, cut[1].objects.x)
        assert torch.equal(cut[0].objects.mask, cut[1].objects.mask)
    some = [
        read_events(tmp_path / f"{name}.h5", start=3, stop=9, max_objects=SLOTS) for name in "ab"
    ]
    assert torch.equal(some[0].objects.x, some[1].objects.x)


def test_events_without_objects_and_files_without_events(tmp_path: Path) -> None:
    assert read_events(padded(tmp_path / "a.h5")).objects.lengths[1] == 0
    for objects in (4, None):
        path = tmp_path / f"{objects}.h5"
        with EventWriter(path, RINGS, objects=objects):
            pass
        sample, header = read_events(path, features=NAMES), read_header(path)
        assert (len(sample), header.n) == (0, 0)
        assert sample.schema == header.schema == RINGS
        assert summarize_events(path).ranges["x"][0] == "mm"
    for objects in (4, None):  # events, and none of them has an object
        with EventWriter(path, RINGS, objects=objects, overwrite=True) as writer:
            writer.write(SetBatch(torch.zeros(3, 2, 7), torch.zeros(3, 2)), torch.ones(3, 2))
        assert read_events(path).objects.lengths.tolist() == [0, 0, 0]


def test_float64_stays_and_event_numbers_and_classes_come_back(tmp_path: Path) -> None:
    x, mask, event = map(torch.from_numpy, make_rings(N, SLOTS, dtype="f8"))
    numbers = torch.tensor([2**63 + 5, *range(N - 1)], dtype=torch.uint64)
    target = torch.arange(N) % 3
    for objects in (SLOTS + 2, None):
        path = tmp_path / f"{objects}.h5"
        with EventWriter(path, RINGS, objects=objects) as writer:
            for rows in (slice(0, 5), slice(5, N)):
                writer.write(
                    SetBatch(x, mask)[rows], event[rows],
                    event_number=numbers[rows], target=target[rows],
                )  # fmt: skip
        sample = read_events(path, features=NAMES)
        assert sample.objects.x.dtype == sample.event.dtype == torch.float64
        assert torch.equal(sample.objects.x[sample.objects.mask], x[mask])
        assert sample.event_number.tolist() == numbers.tolist()
        assert torch.equal(sample.target, target)
        assert sample[[3, 0]].target.tolist() == [0, 0]
        with h5py.File(path) as file:
            assert file["event_number"].dtype == np.uint64


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    with h5py.File(write_rings(tmp_path / "a.h5", attributes={"seed": 3, "model": "m"})) as file:
        assert set(file) == {"objects", "mask", "context"}
        assert file["mask"].dtype == np.bool_
        assert list(file["objects"].attrs["features"]) == list(NAMES)
        assert list(file["objects"].attrs["units"]) == list(UNITS)
        assert list(file["context"].attrs["features"]) == ["radius", "noise"]
        assert (file.attrs["format"], file.attrs["layout_version"]) == ("setflow", 2)
        assert file.attrs["complete"]
        assert file.attrs["n"] == 40
        assert Schema.from_node(json.loads(file.attrs["schema"])) == RINGS
        assert all(file[key].fletcher32 for key in file)
    assert read_header(tmp_path / "a.h5").attributes == {"seed": 3, "model": "m"}
    with h5py.File(write_rings(tmp_path / "b.h5", objects=None)) as file:
        assert set(file) == {"values", "offsets", "context"}
        assert file["offsets"].shape == (41,)
        assert all(file[key].fletcher32 for key in file)


@pytest.mark.parametrize("objects", [8, None])
def test_the_same_content_gives_the_same_bytes(tmp_path: Path, objects: int | None) -> None:
    x, mask, event = map(torch.from_numpy, make_rings(9000, 8))

    def written(name: str, sizes: list[int]) -> str:
        with EventWriter(tmp_path / name, RINGS, objects=objects) as writer:
            start = 0
            for size in sizes:
                rows = slice(start, start + size)
                writer.write(SetBatch(x, mask)[rows], event[rows])
                start += size
            assert writer.n == start == 9000
        return file_sha256(tmp_path / name)

    first = written("a.h5", [9000])
    time.sleep(1.1)  # HDF5 keeps times in seconds
    assert written("b.h5", [1, 4095, 4097, 0, 800, 7]) == first
    sample = read_events(tmp_path / "b.h5", features=NAMES).objects
    assert torch.equal(sample.x[sample.mask], x[mask])


@pytest.mark.parametrize("objects", [8, None])
def test_a_flipped_byte_is_found(tmp_path: Path, objects: int | None) -> None:
    path = write_rings(tmp_path / "a.h5", n=200, objects=objects, compression=0)
    with h5py.File(path) as file:
        keys = list(file)
        places = {
            key: file[key].id.get_chunk_info(0).byte_offset
            + file[key].id.get_chunk_info(0).size // 2
            for key in keys
        }
    whole = path.read_bytes()
    for key, place in places.items():
        broken = bytearray(whole)
        broken[place] ^= 1
        path.write_bytes(broken)
        with pytest.raises(OSError, match=r"the file is damaged .*; fetch or make it again"):
            read_events(path)
        assert key in keys


def test_weights_come_back_and_are_told_where_nobody_asks_for_them(tmp_path: Path) -> None:
    x, mask, event = map(torch.from_numpy, truth())
    weight = torch.linspace(-1, 2, N, dtype=torch.float64)
    for objects in (SLOTS, None):
        path = tmp_path / f"{objects}.h5"
        with EventWriter(path, RINGS, objects=objects) as writer:
            writer.write(SetBatch(x, mask, weight=weight), event)
        assert torch.equal(read_events(path, weight="weight").objects.weight, weight)
        told = "holds weights of its events that are not used .weight."
        with pytest.warns(UserWarning, match=told):
            assert read_events(path).objects.weight is None
        with pytest.raises(ValueError, match=r"no dataset 'weights' of weights; .* holds weight"):
            read_events(path, weight="weights")


# --- names, order and units ---


def test_features_come_in_the_order_asked_for(tmp_path: Path) -> None:
    path = padded(tmp_path / "a.h5", order=PERMUTED)
    assert_true(read_events(path, features=("time", "side", "x")), ("time", "side", "x"))
    assert read_events(path).features == RINGS.generated
    model = Schema([Feature("energy", "MeV", "positive"), Feature("x", "cm")])
    with pytest.warns(UserWarning, match="energy from GeV to MeV, x from mm to cm: converted in r"):
        sample = read_events(path, model)
    x, mask, _ = truth()
    expected = x[mask][:, [2, 0]].astype("f8") * [1e3, 0.1]
    np.testing.assert_allclose(sample.objects.x[sample.objects.mask].numpy(), expected, rtol=1e-6)
    assert sample.schema.objects[0].unit == "MeV"
    assert sample.event_features == ("radius", "noise")  # which are checked, whoever asks


def test_a_category_of_other_names_is_refused(tmp_path: Path) -> None:
    path = padded(tmp_path / "a.h5")
    other = Schema([Feature("side", kind="category(right, left)")])
    with pytest.raises(ValueError, match=r"side is of kind category\(left, right\) in the file"):
        read_events(path, other, features=["side"])

    plain = Schema([Feature("side")])
    with pytest.raises(
        ValueError, match=r"side is of kind category\(left, right\) in the file, ex"
    ):
        read_events(path, plain, features=["side"])


def test_categories_of_events_are_found_by_their_names(tmp_path: Path) -> None:
    """The codes of the file are checked by its own names, and come as those asked for."""
    path, held = padded(tmp_path / "a.h5"), truth()[2]
    swapped = Schema(RINGS.objects, [Feature("noise", kind="category(loud, other, quiet)")])
    sample = read_events(path, swapped)
    assert sample.event_features == ("noise", "radius")
    np.testing.assert_array_equal(sample.event[:, 0].numpy(), 2 - 2 * held[:, 1])
    assert sample.context(["noise"]).dtype == torch.float32

    fewer = Schema(RINGS.objects, [Feature("noise", kind="category(quiet)")])
    first = int(held[:, 1].argmax())
    told = f"row {first}, column 'noise' of context is 'loud', expected one of quiet"
    with pytest.raises(ValueError, match=told):
        read_events(path, fewer)
    reasons = screen_events(path, fewer).reasons
    assert set(reasons) == set(np.flatnonzero(held[:, 1]).tolist())
    with h5py.File(path, "r+") as file:
        file["context"][3, 1] = 2
    with pytest.raises(ValueError, match=r"row 3, .*holds 2, .*from 0 to 1, one of quiet, loud"):
        read_events(path, swapped)


def test_a_category_of_events_is_none_where_numbers_are_asked_for(tmp_path: Path) -> None:
    path = padded(tmp_path / "a.h5")
    for wanted in (Feature("noise"), Feature("radius", "mm", "category(small, large)")):
        with pytest.raises(ValueError, match=f"{wanted.name} is of kind .*, expected {wanted.kind}"
                           .replace("(", r"\(").replace(")", r"\)")):  # fmt: skip
            read_events(path, Schema(RINGS.objects, [wanted]))


def test_the_name_of_a_dataset_is_not_guessed_from_another_of_the_layout(tmp_path: Path) -> None:
    path = store(tmp_path / "a.h5", {"jet_features": np.ones((3, 4), "f4")}, {})
    with pytest.raises(
        ValueError, match=r"no dataset 'particle_features'; it holds \['jet_f"
    ) as told:
        read_events(path)
    assert "did whoever" not in str(told.value)


def test_without_an_order_the_first_objects_are_kept(tmp_path: Path) -> None:
    x, mask, _ = truth()
    plain = Schema(RINGS.objects[:2])
    sample = read_events(padded(tmp_path / "a.h5"), plain, max_objects=3).objects
    for k in range(N):
        assert np.array_equal(sample.x[k][sample.mask[k]], x[k][mask[k]][:3, :2])
    hardest = read_events(tmp_path / "a.h5", RINGS, features=["x"], max_objects=3).objects
    for k in range(N):
        order = np.argsort(-x[k][mask[k]][:, 2], kind="stable")[:3]
        assert np.array_equal(hardest.x[k][hardest.mask[k]][:, 0], x[k][mask[k]][order, 0])


def test_conditions_must_be_there(tmp_path: Path) -> None:
    path = padded(tmp_path / "a.h5")
    sample = read_events(path, RINGS, conditions=["noise", "num_particles"])
    assert sample.event_features == ("radius", "noise", "num_particles")
    counts = sample.context(["num_particles"])[:, 0]
    assert torch.equal(counts, sample.objects.lengths.to(counts))
    with pytest.raises(ValueError, match=r"context has no column 'radus', .* by 'radius'\?"):
        read_events(path, conditions=["radus"])
    with pytest.raises(ValueError, match=r"no feature of an event 'radus'.*did you mean 'radius'"):
        sample.context(["radus"])
    x, mask, _ = truth()
    path = store(tmp_path / "b.h5", {"objects": x[..., :2], "mask": mask},
                 {"objects": {"features": ["x", "y"]}})  # fmt: skip
    with pytest.raises(ValueError, match="no dataset 'context' that could hold radius, on which"):
        read_events(path, conditions=["radius"])
    assert read_events(path).schema == Schema([Feature("x"), Feature("y")])


@pytest.mark.parametrize("form", ["padded", "ragged"])
def test_a_file_that_tells_units_and_no_schema_is_read_in_these(tmp_path: Path, form: str) -> None:
    x, mask, _ = truth()
    contents = {"objects": x[..., :3], "mask": mask}
    if form == "ragged":
        offsets = np.concatenate([[0], mask.sum(1).cumsum()])
        contents = {"values": x[mask][:, :3], "offsets": offsets}
    told = {next(iter(contents)): {"features": NAMES[:3], "units": ["mm", "mm", "MeV"]}}
    path = store(tmp_path / "a.h5", contents, told)
    held = Schema([Feature("x", "mm"), Feature("y", "mm"), Feature("energy", "MeV")])
    sample = read_events(path)
    assert sample.schema == read_header(path).schema == held
    real = sample.objects.mask.numpy()
    assert np.array_equal(sample.objects.x.numpy()[real], x[mask][:, :3])
    wanted = Schema([Feature("energy", "GeV"), Feature("x", "mm")])
    with pytest.warns(UserWarning, match="energy from MeV to GeV"):
        again = read_events(path, wanted)
    np.testing.assert_allclose(again.objects.x.numpy()[real][:, 0], x[mask][:, 2] / 1000, rtol=1e-6)


def test_jets_in_this_layout_are_read_by_their_names(tmp_path: Path) -> None:
    from setflow.data import read_jets

    jets = read_jets("pythia-top/heldout.h5", stop=20, max_objects=30)
    with EventWriter(tmp_path / "a.h5", JETNET, objects=30) as writer:
        writer.write(jets.particles, jets.jets)
    again = read_jets(tmp_path / "a.h5", max_objects=30)
    assert again.particles == jets.particles
    assert torch.equal(again.jets, jets.jets)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["context"][3, 3] = 1
    with pytest.raises(ValueError, match=r"row 3, .*'num_particles' of context holds 1, the mask"):
        read_jets(tmp_path / "a.h5")


# --- what is refused ---

BAD: dict[str, tuple[Any, str]] = {
    "not finite": ((0, np.nan), "column 'x' holds nan though the object is real; expected a fin"),
    "not positive": ((2, 0.0), "column 'energy' holds 0, expected above 0"),
    "at the bound": ((3, 1.0), "column 'share' holds 1, expected between 0 and 1"),
    "beyond its limits": ((4, 101.0), "column 'time' holds 101, expected from -100 to 100"),
    "an angle in degrees": (
        (5, 90.0),
        r"column 'phi' holds 90, expected radians in \[-pi, pi\); w",
    ),
    "a code in between": ((6, 0.5), "column 'side' holds 0.5, expected a whole number from 0 to 1"),
    "a code beyond": ((6, 2.0), "column 'side' holds 2, .* from 0 to 1, one of left, right"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_value_that_cannot_be_is_refused_in_reading_and_writing(
    tmp_path: Path, kind: str
) -> None:
    (column, value), told = BAD[kind]
    x, mask, event = truth()
    assert mask[0, 3]
    x[0, 3, column] = value
    path = store(tmp_path / "a.h5", {"objects": x, "mask": mask, "context": event}, {}, SCHEMA)
    with pytest.raises(ValueError, match=f"a.h5: row 0, object 3, {told}"):
        read_events(path, features=NAMES)
    screened = screen_events(path, features=NAMES)
    assert list(screened.reasons) == [0]
    assert not screened.sample.objects.mask[0].any()
    batch, event = SetBatch(torch.from_numpy(x), mask), torch.from_numpy(event)
    with EventWriter(tmp_path / "b.h5", RINGS) as writer:
        if "angle" in kind:  # which is wrapped
            writer.write(batch, event)
        else:
            with pytest.raises(ValueError, match=f"this batch: row 0, object 3, {told}"):
                writer.write(batch, event)
            assert writer.n == 0
    if "angle" not in kind:
        with EventWriter(tmp_path / "c.h5", RINGS, keep_unphysical=True) as writer:
            writer.write(batch, event)
        assert sum(writer.unphysical.values()) == 1
        assert "1 value" in read_header(tmp_path / "c.h5").attributes.get("unphysical", "1 value")


@each(
    ("column", "value", "told"),
    [(0, -1.0, "'radius' of context holds -1, exp"), (1, 0.5, "'noise' of context holds 0.5, expe"),
     (0, np.inf, "'radius' of context holds inf; expected a finite")],
)  # fmt: skip
def test_an_event_that_cannot_be_is_refused(
    column: int, value: float, told: str, tmp_path: Path
) -> None:
    x, mask, event = truth()
    event[2, column] = value
    path = store(tmp_path / "a.h5", {"objects": x, "mask": mask, "context": event}, {}, SCHEMA)
    with pytest.raises(ValueError, match=f"row 2, column {told}"):
        read_events(path)


def test_float32_pi_is_minus_pi(tmp_path: Path) -> None:
    x, mask, event = truth()
    x[0, 0, 5] = np.float32(math.pi)
    for dtype in ("f4", "f8"):
        contents = {"objects": x.astype(dtype), "mask": mask, "context": event}
        path = store(tmp_path / "a.h5", contents, {}, SCHEMA)
        phi = read_events(path, features=["phi"]).objects.x[0, 0, 0]
        assert phi == -torch.tensor(math.pi, dtype=phi.dtype)


def change(**changes: Any) -> Callable[[Path], Path]:
    """Return what writes rings with other datasets, None leaving one out, and attributes."""

    def written(path: Path) -> Path:
        x, mask, event = truth()
        contents = {"objects": x, "mask": mask, "context": event}
        contents |= {k: v for k, v in changes.items() if k not in ("told", "attributes")}
        contents = {key: values for key, values in contents.items() if values is not None}
        told, attributes = changes.get("told", {}), changes.get("attributes", SCHEMA)
        return store(path, contents, told, attributes)

    return written


X, REAL, EVENT = truth()
LENGTHS = REAL.sum(1)
OFFSETS = np.concatenate([[0], LENGTHS.cumsum()])
FALLING = [0, 1, 3, 2, *range(4, 13)]
LACKS = {"objects": [{"name": name} for name in (*NAMES[:-1], "sides")]}
MALFORMED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no mask": (change(mask=None), "has no dataset 'mask'; it holds"),
    "a mask by another name": (change(mask=None, masks=REAL), "by 'masks'. Rename it"),
    "a misspelt context": (change(context=None, contexts=EVENT), "no dataset 'context'; .*Rename"),
    "both forms": (change(values=X[REAL]), "has 'objects' and 'values', expected one of them"),
    "flat objects": (change(objects=X[0], mask=REAL[0]), r"objects has shape .*expected \(n, N, D"),
    "another mask": (change(mask=REAL[:, :3]), r"mask has shape \(12, 3\), expected \(12, 8\)"),
    "a mask of halves": (change(mask=REAL - 0.5), "'mask' holds 0.5, expected 1 .real. or 0"),
    "fewer events": (change(context=EVENT[:3]), r"context has shape \(3, 2\), expected \(12, C\)"),
    "classes as texts": (change(target=np.array([b"top"] * N)), "target has dtype .*whole numbers"),
    "numbers as floats": (change(event_number=np.zeros(N)), "event_number has dtype float64, exp"),
    "offsets that fall": (
        change(objects=None, mask=None, values=X[REAL], offsets=OFFSETS[FALLING]),
        "offsets falls from .* to .* at event 2, expected to rise from 0",
    ),
    "offsets without the end": (
        change(objects=None, mask=None, values=X[REAL], offsets=OFFSETS[:-1]),
        "offsets runs from 0 to .*, the number of rows of values",
    ),
    "no offsets": (change(objects=None, mask=None, values=X[REAL]), "has no dataset 'offsets'; it"),
    "no names": (
        change(attributes={}), "has 7 columns, and neither its attribute features nor the schema"
    ),
    "a schema of other names": (
        change(
            told={"objects": {"features": NAMES}, "context": {"features": ["a", "b"]}},
            attributes={"schema": json.dumps(LACKS)},
        ),
        "the schema of the file says that it holds 'sides'",
    ),
    "a schema that is none": (change(attributes={"schema": "{"}), "attribute schema is no JSON"),
    "a schema of an unknown kind": (
        change(attributes={"schema": json.dumps({"objects": [{"name": "x", "kind": "rael"}]})}),
        "there is no kind 'rael'.*did you mean 'real'",
    ),
    "a later version": (change(attributes=SCHEMA | OURS | {"layout_version": 3}), "up to 2; up"),
    "not finished": (
        change(attributes=SCHEMA | OURS | {"layout_version": 2, "complete": False, "n": N}),
        "was not finished: complete=False",
    ),
    "a unit that is not known": (
        change(told={"objects": {"features": NAMES, "units": ["inch", *UNITS[1:]]}}),
        "x stands in units of 'inch', expected 'mm'; known are um, mm, cm, m",
    ),
    "one name for two": (
        change(told={"objects": {"features": ("x", *NAMES[:-1])}}), "expected one name for each"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, kind: str) -> None:
    write, told = MALFORMED[kind]
    path = write(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=told):
        read_events(path, RINGS)


def test_the_context_of_a_batch_is_that_of_its_events(tmp_path: Path) -> None:
    """It was left out of the file without a word."""
    schema = Schema([Feature("x")], [Feature("energy", "GeV")])
    c = torch.arange(3.0)[:, None] + 1
    batch, plain = SetBatch(torch.rand(3, 2, 1), c=c), SetBatch(torch.rand(3, 2, 1))
    with EventWriter(tmp_path / "a.h5", schema) as writer:
        writer.write(batch)
        writer.write(plain, c)
        with pytest.raises(ValueError, match="write got event and events with a context c; give"):
            writer.write(batch, c)
        with pytest.raises(ValueError, match=r"an event, energy, and none .* shape \(3, 1\)"):
            writer.write(plain)
    assert read_events(tmp_path / "a.h5").event[:, 0].tolist() == [1, 2, 3, 1, 2, 3]
    with EventWriter(tmp_path / "b.h5", {"objects": ["x"]}) as writer:
        with pytest.raises(ValueError, match=r"event has shape \(3, 1\), expected \(3, 0\)"):
            writer.write(batch)
        writer.write(plain)
    particles, told = SetBatch(torch.rand(3, 2, 3) + 0.1, c=c), torch.full((3, 4), 2.0)
    with JetWriter(tmp_path / "c.h5", objects=2, context=schema.event) as jets:
        jets.write(particles, told)
    assert read_context(tmp_path / "c.h5", schema.event)[:, 0].tolist() == [1, 2, 3]
    missing = "context is given, but the writer was made with context=none"
    with JetWriter(tmp_path / "d.h5", objects=2) as jets, pytest.raises(ValueError, match=missing):
        jets.write(particles, told)


def test_batches_must_bring_the_same(tmp_path: Path) -> None:
    x, mask, event = map(torch.from_numpy, truth())
    batch = SetBatch(x, mask)
    with EventWriter(tmp_path / "a.h5", RINGS, objects=SLOTS) as writer:
        writer.write(batch, event, target=torch.zeros(N))
        with pytest.raises(ValueError, match="target is missing, and in the first batch it was"):
            writer.write(batch, event)
        with pytest.raises(ValueError, match=r"objects is .*float64.*in the first batch .*float32"):
            writer.write(SetBatch(x.double(), mask), event, target=torch.zeros(N))
        with pytest.raises(ValueError, match=r"event has shape \(12, 1\), expected \(12, 2\)"):
            writer.write(batch, event[:, :1], target=torch.zeros(N))
        with pytest.raises(ValueError, match=r"radius, noise, and none .* shape \(12, 2\)"):
            writer.write(batch, target=torch.zeros(N))
        with pytest.raises(ValueError, match=r"objects.x has shape \(12, 8, 3\), expected .*7"):
            writer.write(SetBatch(x[..., :3], mask), event, target=torch.zeros(N))
        with pytest.raises(
            ValueError, match=r"row 0, event_number is -1.0, expected a whole number"
        ):
            writer.write(batch, event, target=torch.zeros(N), event_number=-torch.ones(N))
        assert writer.n == N
    long = SetBatch(torch.cat([x, x], 1), torch.cat([mask, mask], 1))
    with (
        EventWriter(tmp_path / "b.h5", RINGS, objects=SLOTS) as writer,
        pytest.raises(ValueError, match="event 0 has an object in slot 15, the file has 8 slots"),
    ):
        writer.write(long, event)
    with pytest.raises(RuntimeError, match="use it as `with EventWriter"):
        writer.write(batch, event)
    with pytest.raises(ValueError, match=r"attributes \['schema'\] are written by the writer"):
        EventWriter(tmp_path / "c.h5", RINGS, attributes={"schema": ""})
    with pytest.raises(ValueError, match="objects must be a whole number of at least 1, got 0"):
        EventWriter(tmp_path / "c.h5", RINGS, objects=0)


def test_angles_are_wrapped_on_writing(tmp_path: Path) -> None:
    x, mask, event = map(torch.from_numpy, truth("f8"))
    turned = x.clone()
    turned[..., 5] += 2 * math.pi
    with EventWriter(tmp_path / "a.h5", RINGS) as writer:
        writer.write(SetBatch(turned, mask), event)
    sample = read_events(tmp_path / "a.h5", features=NAMES).objects
    torch.testing.assert_close(sample.x[sample.mask], x[mask])


def test_the_summary_counts_categories_and_gives_ranges(tmp_path: Path) -> None:
    x, mask, event = truth()
    found = summarize_events(write_rings(tmp_path / "a.h5", N, SLOTS))
    real = x[mask]
    for name in ("x", "energy", "phi"):
        unit, low, high = found.ranges[name]
        assert (low, high) == (real[:, NAMES.index(name)].min(), real[:, NAMES.index(name)].max())
        assert unit == UNITS[NAMES.index(name)]
    right = int(real[:, 6].sum())
    assert found.counts["side"] == {"left": len(real) - right, "right": right}
    assert found.counts["noise"]["loud"] == int(event[:, 1].sum())
    assert set(found.ranges) == {*NAMES[:-1], "radius"}


def test_reading_tells_a_conversion_once(tmp_path: Path) -> None:
    path = change(told={"objects": {"units": ["cm", *UNITS[1:]]}})(tmp_path / "a.h5")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        read_header(path)
        for start in range(5):
            screen_events(path, start=start)
    assert len(told) == 1
    assert "x from cm to mm" in str(told[0].message)
