"""Files of the field, converted: the values of the jets that they were made from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import setflow
from collisions import batch, row
from data.formats.written import (
    FLAGS,
    GENERIC,
    HERE,
    INCIDENT,
    KINDS,
    REAL,
    SHOWERS,
    WRITTEN,
    J,
    P,
    T,
    absolute,
    hdf5,
)
from each import each
from setflow.data import EventWriter, read_events, read_header, read_jets
from setflow.data.contexts import context_features, read_context
from setflow.data.formats import convert as module
from setflow.data.formats import sources
from setflow.data.formats.convert import convert, inputs_of
from setflow.data.formats.named import FORMATS, TABLE, Given
from setflow.schema import COLLISIONS
from setflow.sets.batch import SetBatch

COLUMNS = ("etarel", "phirel", "ptrel")
FIVE = tuple("abcde")
GIVEN = {
    "jetnet": Given("jetnet"),
    "jetnet_gzip": Given("jetnet"),
    "no_jets": Given("jetnet"),
    "int_mask": Given("jetnet"),
    "fifth": Given("jetnet"),
    "vlen": Given("jetnet"),
    "offsets": Given("ragged", columns=COLUMNS),
    "mpgan": Given("mpgan"),
    "epic": Given("epic"),
    "omnilearn": Given("omnilearn"),
    "ftag": Given("ftag"),
    "jetclass.root": Given("jetclass"),
    "jetclass.parquet": Given("jetclass"),
    "toptag": Given("toptag"),
    "energyflow": Given("energyflow"),
    "lhco": Given("lhco"),
    "calo": Given("calo", shape=(23, 16)),
    "generic": Given("npy", columns=FIVE, mask="field:mask"),
    "no_mask": Given("npy", columns=FIVE, mask=f"nonzero:{','.join(FIVE)}"),
    "types": Given(
        "custom",
        {
            "arrays": {"x": list(FIVE)},
            "objects": {name: name for name in FIVE}
            | {"kind": {"value": "type - 1", "kind": "category(one, two, three)"}},
            "mask": {"field": "mask"},
        },
    ),
}
OTHERS = ("ftag", "toptag", "energyflow", "lhco", "calo", "generic", "no_mask", "types")
FULL = [name for name in GIVEN if name not in OTHERS]
JETLESS = ("no_jets", "mpgan", "epic")


def converted(name: str, folder: Path, given: Given | None = None, out: str = "out.h5") -> Path:
    path = WRITTEN[name](folder / f"{name}.h5")
    return convert(inputs_of([str(path)]), folder / out, given or GIVEN[name]).path


def relative_to_the_sum() -> tuple[Any, Any]:
    """The particles and the jets relative to the sum of the particles, by hand."""
    pt, eta, phi = absolute()
    pt = np.where(REAL, pt, 0)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    e = (pt * np.cosh(eta)).sum(1)
    px, py, pz = px.sum(1), py.sum(1), pz.sum(1)
    axis = np.hypot(px, py), np.arcsinh(pz / np.hypot(px, py)), np.arctan2(py, px)
    difference = phi - axis[2][:, None]
    x = [eta - axis[1][:, None], np.arctan2(np.sin(difference), np.cos(difference))]
    x.append(pt / axis[0][:, None])
    mass = np.sqrt(e**2 - px**2 - py**2 - pz**2)
    return np.where(REAL[..., None], np.stack(x, -1), 0), np.stack([*axis[:2], mass], -1)


def close(got: Any, expected: Any, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(got), expected, rtol=tolerance, atol=tolerance)


def test_every_format_has_its_file():
    assert {*FORMATS} == {given.format for given in GIVEN.values()}
    assert GIVEN.keys() == WRITTEN.keys()


@pytest.mark.parametrize("name", FULL)
@pytest.mark.filterwarnings("ignore:.*converted in reading")
def test_jets_relative_to_the_full_jet(name, tmp_path):
    path = converted(name, tmp_path)
    jets = read_jets(path)
    slots = jets.particles.mask.shape[1]
    assert slots >= 30
    mask = np.pad(REAL, ((0, 0), (0, slots - 30)))
    assert (jets.particles.mask.numpy() == mask).all()
    close(jets.particles.x[:, :30], np.where(REAL[..., None], P[..., :3], 0))
    if name in JETLESS:
        assert jets.jet_units[0] == "jet pT"
        assert (jets.jets[:, 3].numpy() == J[:, 3]).all()
    else:
        # the file of JetClass holds the energy in float32, of which the mass is a difference
        tolerance = 3e-5 if name.startswith("jetclass") else 1e-6
        close(jets.jets[:, [0, 1, 3]], J[:, [0, 1, 3]])
        close(jets.jets[:, 2], J[:, 2], tolerance)
    told = read_header(path).attributes.get("axis")
    assert told == (None if name.startswith(("jetnet", "no_jets", "fifth")) else "the full jet")


@pytest.mark.parametrize("name", ["toptag", "energyflow"])
def test_jets_relative_to_the_sum_of_what_is_stored(name, tmp_path):
    path = converted(name, tmp_path)
    jets = read_jets(path, with_types=True)
    x, axis = relative_to_the_sum()
    assert (jets.particles.mask[:, :30].numpy() == REAL).all()
    assert not jets.particles.mask[:, 30:].any()
    close(jets.particles.x[:, :30], x)
    close(jets.jets[:, :2], axis[:, :2])
    # of four-momenta in float32 the mass is a difference of large numbers
    close(jets.jets[:, 2], axis[:, 2], 3e-5 if name == "toptag" else 1e-6)
    assert read_header(path).attributes["axis"] == "the sum of what is stored"
    (label,) = context_features(path)
    codes = read_context(path, [label])[:, 0]
    if name == "toptag":
        assert (str(label.kind), codes.tolist()) == ("category(qcd, top)", [1] * 120)
    else:
        assert (str(label.kind), codes.tolist()) == ("category(gluon, quark)", [0, 1] * 60)
        assert (jets.particle_type[:, :30].numpy() == T).all()


def test_tracks_of_flavour_tagging(tmp_path):
    events = read_events(converted("ftag", tmp_path))
    assert events.features == ("etarel", "phirel", "d0", "z0_sin_theta", "q_over_p")
    real = events.objects.mask.numpy()
    close(events.objects.x.numpy()[real][:, :2], P[REAL][:, :2])
    close(events.objects.x.numpy()[real][:, 4], 1.0)  # 0.001 / MeV
    close(events.context(["pt", "eta", "mass"]), J[:, :3])  # from MeV
    assert events.schema.of_event("pt").unit == "GeV"
    assert events.context(["class"])[:, 0].tolist() == [0, 1, 2] * 40


def test_particles_of_the_olympics(tmp_path):
    events = read_events(converted("lhco", tmp_path), features=["pt", "eta", "phi"])
    expected = np.stack(absolute(), -1)[REAL]
    expected[:, 2] = (expected[:, 2] + np.pi) % (2 * np.pi) - np.pi
    close(events.objects.x.numpy()[events.objects.mask.numpy()], expected)
    assert str(events.schema.object("phi").kind) == "angle"
    assert events.context(["class"])[:, 0].tolist() == [0, 1] * 60


def test_voxels_have_coordinates(tmp_path):
    path = converted("calo", tmp_path)
    events = read_events(path)
    assert events.features == ("layer", "cell1", "energy")
    dense = np.zeros_like(SHOWERS)
    for k, (x, real) in enumerate(zip(events.objects.x, events.objects.mask, strict=True)):
        layer, cell, energy = x[real].numpy().T
        dense[k, (16 * layer + cell).astype(int)] = 1000 * energy
    close(dense, SHOWERS)
    close(1000 * events.event, INCIDENT)
    # a table in any order
    table = tmp_path / "voxels.csv"
    rows = [f"{k},{k + 0.5},{-k},{k * k}" for k in reversed(range(368))]
    table.write_text("number,x,y,z\n" + "\n".join(rows))
    events = read_events(converted("calo", tmp_path, Given("calo", voxels=table), "b.h5"))
    assert events.features == ("x", "y", "z", "energy")
    x = events.objects.x[0][events.objects.mask[0]].numpy()
    number = np.flatnonzero(SHOWERS[0])
    close(x[:, :3], np.stack([number + 0.5, -number, number**2], -1))
    table.write_text("\n".join(rows[1:]))
    with pytest.raises(ValueError, match=r"shape \(367, 4\), expected \(368, 4\)"):
        converted("calo", tmp_path, Given("calo", voxels=table), "c.h5")


@each("name", ["generic", "no_mask", "types"])
def test_events_of_five_features(name, tmp_path_factory):
    path = converted(name, tmp_path_factory.mktemp("generic"))
    events = read_events(path, features=[*FIVE, *(["kind"] if name == "types" else [])])
    real = events.objects.mask.numpy()
    assert (real.sum(1) == FLAGS.sum(1)).all()
    close(events.objects.x.numpy()[real][:, :5], GENERIC[FLAGS])
    if name == "types":
        assert (events.objects.x.numpy()[real][:, 5] + 1 == KINDS[FLAGS]).all()


def test_the_sign_of_jetclass_is_undone(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    stored = parquet.read_table(HERE / "jetclass.parquet", columns=["part_deta", "jet_eta"])
    backward = stored["jet_eta"].to_numpy() < 0
    first = np.array([row[0] for row in stored["part_deta"].to_pylist()])
    assert 10 < backward.sum() < 110
    close(first[backward], -P[backward, 0, 0])  # so they stand in the file


@pytest.mark.filterwarnings("ignore:.*converted in reading")
@pytest.mark.parametrize("name", ["jetnet_gzip", "vlen", "jetclass.root", "energyflow", "offsets"])
def test_blocks_do_not_matter(name, tmp_path, monkeypatch):
    whole = read_jets(converted(name, tmp_path), with_types=True)
    for place in (sources, module, sys.modules["setflow.data.formats.trees"]):
        monkeypatch.setattr(place, "BLOCK_BYTES", 20_000)
    parts = read_jets(converted(name, tmp_path, out="parts.h5"), with_types=True)
    assert (whole.particles.x == parts.particles.x).all()
    assert (whole.jets == parts.jets).all()


# --- classes, several files, and the other way ---


def test_a_class_for_each_file(tmp_path):
    top, _ = WRITTEN["jetnet"](tmp_path / "t.h5"), WRITTEN["vlen"](tmp_path / "g.h5")
    files = inputs_of([f"top={top}", f"gluon={tmp_path}/g*.h5"])
    assert [entry.label for entry in files] == ["top", "gluon"]
    done = convert(files, tmp_path / "all.h5", Given("jetnet"))
    (label,) = context_features(done.path)
    assert str(label.kind) == "category(top, gluon)"
    assert read_context(done.path, [label])[:, 0].tolist() == [0] * 120 + [1] * 120
    jets = read_jets(done.path)
    assert (jets.particles.x[:120] == jets.particles.x[120:]).all()


def test_files_that_do_not_go_together_are_told_by_what_differs(tmp_path):
    there = WRITTEN["jetnet"](tmp_path / "a.h5")
    relative = tmp_path / "b.h5"
    relative.write_bytes((tmp_path / "a.h5").read_bytes())
    with h5py.File(relative, "a") as file:
        file["jet_features"].attrs["units"] = ["jet pT", "", "jet pT", ""]
        file["jet_features"].attrs["features"] = ["pt", "eta", "mass", "num_particles"]
    with pytest.raises(ValueError, match=r"with pt in jet pT .*, mass in jet pT .* pt in GeV") as e:
        convert(inputs_of([str(tmp_path / "a.h5"), str(relative)]), tmp_path / "c.h5", Given())
    assert "same units" in str(e.value)
    assert there


@each(
    ("given", "told"),
    [
        (["no-such-*.h5"], "does not exist"),
        (["a.h5", "b.h5"], None),
        (["top=a.h5", "b.h5"], "b.h5 has none; write CLASS=b.h5"),
        (["a.h5", "./a.h5"], "given twice"),
        (["."], None),
        (["empty"], "is a folder without HDF5 files"),
    ],
)
def test_the_files_that_are_meant(given, told, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("inputs"))
        for name in "ab":
            Path(f"{name}.h5").touch()
        Path("empty").mkdir()
        if told is None:
            assert len(inputs_of(given)) == 2
            return
        with pytest.raises((OSError, ValueError), match=told):
            inputs_of(given)


def test_names_of_classes(tmp_path):
    path = converted("omnilearn", tmp_path)
    assert str(context_features(path)[0].kind) == "category('0', '1', '2', '3')"
    named = Given("omnilearn", classes=("g", "q", "w", "t"))
    (label,) = context_features(converted("omnilearn", tmp_path, named, "b.h5"))
    assert str(label.kind) == "category(g, q, w, t)"
    with pytest.raises(ValueError, match="codes up to 3, and 2 names: g, q"):
        converted("omnilearn", tmp_path, Given("omnilearn", classes=("g", "q")), "c.h5")
    with pytest.raises(ValueError, match="the files tell none"):
        converted("jetnet", tmp_path, Given("jetnet", classes=("g",)), "d.h5")


@pytest.mark.parametrize("suffix", ["root", "parquet"])
def test_there_and_back(suffix, tmp_path):
    there = converted("energyflow", tmp_path, out=f"jets.{suffix}")
    names = {"etarel": "part_etarel", "phirel": "part_phirel", "ptrel": "part_ptrel"}
    node = {
        "axis": "sum",
        "sum": {"pt": "part_ptrel", "eta": "part_etarel", "phi": "part_phirel"},
        "objects": names,
        "mask": "jagged",
        "event": {"pt": "jet_pt", "eta": "jet_eta", "mass": "jet_mass"},
        "class": {"value": "jet_class", "names": ["gluon", "quark"]},
        "types": {"codes": "part_type"},
    }
    back = convert(inputs_of([str(there)]), tmp_path / "back.h5", Given("custom", node)).path
    some, other = (read_jets(path, with_types=True) for path in (back, _again(tmp_path)))
    assert (some.particles.x == other.particles.x[:, :30]).all()
    assert (some.jets == other.jets).all()
    assert (some.particle_type == other.particle_type[:, :30]).all()
    (label,) = context_features(back)
    assert (read_context(back, [label])[:, 0] == np.arange(120) % 2).all()


def _again(folder: Path) -> Path:
    return converted("energyflow", folder, out="again.h5")


@pytest.mark.parametrize("suffix", ["root", "parquet"])
def test_files_of_setflow_need_no_format(suffix, tmp_path):
    path = converted("types", tmp_path)
    tree = convert(inputs_of([str(path)]), tmp_path / f"a.{suffix}", Given()).path
    source = sys.modules["setflow.data.formats.trees"]
    opened = (source.RootSource if suffix == "root" else source.ParquetSource)(tree)
    (block,) = opened.blocks(["object_a", "object_kind"])
    opened.close()
    close(block["object_a"].values, GENERIC[FLAGS][:, 0])
    assert (block["object_kind"].values + 1 == KINDS[FLAGS]).all()
    again = convert(inputs_of([str(path)]), tmp_path / "again.h5", Given()).path
    some, other = read_events(path), read_events(again)
    assert some.schema == other.schema
    assert (some.objects.x == other.objects.x).all()


@pytest.mark.parametrize("suffix", ["root", "parquet"])
def test_whole_events_are_one_collection_with_a_type(suffix, tmp_path):
    events = [
        [row("muon", 30, 1, 2, charge=2), row("jet", 90, -1, 0.5, 5, b=1)],
        [],
        [row("missing_momentum", 40, phi=-3)],
    ]
    made = batch(*events)
    context = torch.tensor([[4.0, 400, 90], [0, 500, 0], [3, 600, 0]])
    with EventWriter(tmp_path / "a.h5", COLLISIONS) as writer:
        writer.write(SetBatch(made.x.float(), made.mask), context)
    tree = convert(inputs_of([str(tmp_path / "a.h5")]), tmp_path / f"a.{suffix}", Given()).path
    columns = [feature.name for feature in COLLISIONS.objects]
    if suffix == "root":
        with pytest.importorskip("uproot").open(tree) as file:
            held = file["tree"]
            branches = held.keys()
            counters = [name for name in branches if name.startswith("n")]
            assert counters == ["nobject"], "one collection, and not one for each feature"
            assert "object_type: 0 electron, 1 muon, 2 photon, 3 jet, 4 missing_mo" in held.title
            assert "event_class: 0 all_hadronic, 1 electron_jets" in held.title
            found = {name: held[name].array(library="np") for name in branches}
        assert found["nobject"].tolist() == [2, 0, 1]
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(tree).to_pydict()
        found = {name: [np.array(part) for part in values] for name, values in table.items()}
    for k, name in enumerate(columns):
        for event, objects in enumerate(events):
            expected = np.array([one[k] for one in objects], "f4")
            assert np.allclose(found[f"object_{name}"][event], expected), name
    assert found["object_type"][0].dtype.kind == "i"
    assert [int(code) for code in found["event_class"]] == [4, 0, 3]


# --- traps ---


def test_the_rule_of_the_mask_can_be_told(tmp_path):
    """A mask of -0.5 and 0.5, and features that are scaled by their maxima."""
    scales = np.abs(P[..., :3]).max((0, 1))
    half = np.concatenate([P[..., :3] / scales, P[..., 3:] - 0.5], -1).astype("f4")
    path = hdf5(tmp_path / "half.h5", {"particle_features": half, "jet_features": J})
    with pytest.raises(ValueError, match=r"'mask' holds 0\.5, expected 1 \(real\) or 0"):
        convert(inputs_of([str(path)]), tmp_path / "out.h5", Given("jetnet"))
    node = {
        "arrays": {
            "particle_features": ["a", "b", "c", "flag"],
            "jet_features": ["jet_pt", "jet_eta", "jet_mass", "_"],
        },
        "axis": "full",
        "objects": {n: f"{c} * {s}" for n, c, s in zip(COLUMNS, "abc", scales, strict=True)},
        "mask": {"field": "flag"},
        "event": {"pt": "jet_pt", "eta": "jet_eta", "mass": "jet_mass"},
    }
    with pytest.raises(ValueError, match=r"flag is 0\.5, expected 1 .*above: {flag: VALUE}"):
        convert(inputs_of([str(path)]), tmp_path / "out.h5", Given("custom", node))
    node["mask"] = {"above": {"flag": 0}}
    jets = read_jets(convert(inputs_of([str(path)]), tmp_path / "o.h5", Given("custom", node)).path)
    close(jets.particles.x, np.where(REAL[..., None], P[..., :3], 0))
    close(jets.jets, J)


@pytest.mark.parametrize("name", ["int_mask", "vlen", "offsets", "jetnet"])
def test_numbers_that_are_not_those_of_the_mask_are_refused(name, tmp_path):
    path = WRITTEN[name](tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["jet_features"][7, 3] += 1
    told = r"row 7, column 'num_particles' of jet_features holds \d+, the mask says \d+"
    with pytest.raises(ValueError, match=told):
        convert(inputs_of([str(path)]), tmp_path / "out.h5", GIVEN[name])


def test_a_fifth_column_may_be_the_type(tmp_path):
    node = {
        "arrays": {"particle_features": [*COLUMNS, "flag", "kind"]},
        "axis": "full",
        "objects": {name: name for name in COLUMNS},
        "mask": {"field": "flag"},
        "types": {"codes": "kind"},
    }
    jets = read_jets(converted("fifth", tmp_path, Given("custom", node)), with_types=True)
    assert (jets.particle_type.numpy() == T).all()


def test_a_particle_of_one_gev_is_real(tmp_path):
    data = np.zeros((1, 3, 4), "f4")
    data[0, :2] = [[0.1, 0.2, 5.0, 5.1], [0.3, -0.1, 0.0, 0.2]]
    told = np.array([[160.0, 0.5, 20.0, 2.0]], "f4")
    path = hdf5(tmp_path / "one.h5", {"data": data, "global": told})
    jets = read_jets(convert(inputs_of([str(path)]), tmp_path / "o.h5", Given("omnilearn")).path)
    assert jets.particles.lengths.tolist() == [2]
    close(jets.particles.x[0, 1], [0.3, -0.1, 1 / 160])


def test_a_ptrel_of_zero_is_refused_or_counted(tmp_path):
    x = P[..., :3].copy()
    x[3, 1, 2] = 0
    path = tmp_path / "clipped.npy"
    np.save(path, x)
    files = inputs_of([str(path)])
    with pytest.raises(ValueError, match=r"clipped\.npy, of the rows from 0: .*row 3, particle 1"):
        convert(files, tmp_path / "o.h5", Given("mpgan"))
    assert not (tmp_path / "o.h5").exists()
    done = convert(files, tmp_path / "o.h5", Given("mpgan"), keep_unphysical=True)
    assert "kept as they are: 1 value of ptrel" in done.notes[-1]


def test_an_unknown_code_of_the_particle_data_group(tmp_path):
    path = WRITTEN["energyflow"](tmp_path / "q.npz")
    contents = dict(np.load(path))
    contents["X"][0, 0, 3] = 25
    np.savez(path, **contents)
    with pytest.raises(ValueError, match="PDG code 25, which is none of the particles"):
        convert(inputs_of([str(path)]), tmp_path / "o.h5", Given("energyflow"))


@each(
    ("name", "given", "told"),
    [
        ("calo", Given("calo"), "368 voxels, and not where these are; give one of --voxels FILE"),
        ("calo", Given("calo", shape=(3, 4)), "12 voxels, and .* holds showers of 368"),
        ("generic", Given("npy", columns=FIVE), "needs the rule .*, --mask RULE"),
        ("generic", Given("npy", mask="all"), "needs the names of the columns"),
        ("generic", Given("npy", columns=FIVE, mask="first"), "expected nonzero:NAME"),
        ("generic", Given("npy", columns=(*FIVE, "f"), mask="all"), "has 5 columns, and --colu"),
        ("generic", Given("npy", columns=FIVE[:4], mask="all"), "5 columns, and --columns names 4"),
        ("generic", Given("npy", columns=(*FIVE[:4], "a"), mask="all"), "the name 'a' twice"),
        ("generic", Given("custom"), "needs a mapping"),
        ("generic", Given("jetclass"), "there is no 'part_deta'; there are"),
        ("generic", Given("toptag"), r"no 'table/table'"),
        ("no_jets", Given("omnilearn"), "no 'data', .* what those of jetnet have, so give that"),
        ("jetclass.root", Given("jetnet"), "no 'particle_features', .* those of jetclass have"),
        ("energyflow", Given("toptag"), "no 'table/table', .* those of energyflow have"),
        ("generic", Given("npy", columns=FIVE, mask="nonzero:aa"), "'aa'.*did you mean 'a'"),
        ("generic", Given("npy", columns=FIVE, mask="all", features=("aa",)), "did you mean 'a'"),
        ("offsets", Given("ragged", columns=("a", "b", "c", "d")), "has 3 columns"),
        ("offsets", Given("ragged", columns=("a", "b")), "has 3 columns, and --columns names 2"),
    ],
)
def test_what_does_not_fit_is_told(name, given, told, tmp_path_factory):
    with pytest.raises(ValueError, match=told):
        converted(name, tmp_path_factory.mktemp("wrong"), given)


def test_a_variant_without_a_mask_is_not_guessed(tmp_path):
    path = hdf5(tmp_path / "a.h5", {"particle_features": P[..., :3]})
    with pytest.raises(ValueError, match="the mask is jagged, and no array has rows of any length"):
        convert(inputs_of([str(path)]), tmp_path / "o.h5", Given("jetnet"))


def test_objects_of_python_are_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}, []], object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", X=np.array([{}, []], object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(ValueError, match="cannot be read as an array of numbers"):
            convert(inputs_of([str(tmp_path / name)]), tmp_path / "o.h5", Given("epic"))


def test_damaged_files_are_told(tmp_path):
    for name, kind in (("jetclass.root", "ROOT"), ("jetclass.parquet", "parquet")):
        path = tmp_path / name
        whole = (HERE / name).read_bytes()
        for damaged in (whole[:2000], whole[:9000] + bytes(4000) + whole[13000:]):
            path.write_bytes(damaged)
            with pytest.raises(OSError, match=f"cannot be read as a {kind} file"):
                convert(inputs_of([str(path)]), tmp_path / "o.h5", Given("jetclass"))


def test_a_damaged_archive_is_told(tmp_path):
    whole = WRITTEN["energyflow"](tmp_path / "q.npz").read_bytes()
    for place in (2000, len(whole) - 300):
        (tmp_path / "q.npz").write_bytes(whole[:place] + bytes(200) + whole[place + 200 :])
        with pytest.raises((OSError, ValueError), match=r"damaged|cannot be read"):
            convert(inputs_of([str(tmp_path / "q.npz")]), tmp_path / "o.h5", Given("energyflow"))
    np.save(tmp_path / "a.npy", P[..., :3])
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-100])
    with pytest.raises(OSError, match=r"a\.npy ends too early"):
        convert(inputs_of([str(tmp_path / "a.npy")]), tmp_path / "o.h5", Given("mpgan"))


MISSING = """
import importlib, importlib.util, pathlib, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in {names} else found(name, *a)
for name in {names}:
    sys.modules[name] = None
from setflow.data.formats.convert import convert, inputs_of
from setflow.data.formats.named import Given
try:
    convert(inputs_of([{path!r}]), pathlib.Path("out.h5"), Given({kind!r}))
except (ImportError, OSError) as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "kind", "package", "told"),
    [
        ("jetclass.root", "jetclass", "uproot", "pip install 'setflow[root]'"),
        ("jetclass.parquet", "jetclass", "pyarrow.parquet", "pip install 'setflow[parquet]'"),
        ("toptag_table.h5", "toptag", "hdf5plugin", "blosc, which HDF5 lacks here; pip install hd"),
    ],
)
def test_a_missing_package_is_named(name, kind, package, told, tmp_path):
    code = MISSING.format(names=[package], path=str(HERE / name), kind=kind)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PYTHONPATH": str(Path(setflow.__file__).parents[1]), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert told in done.stdout
    assert not (tmp_path / "out.h5").exists()


def test_the_table_holds_mappings():
    from setflow.data.formats.mapping import mapping_of

    for name, node in TABLE.items():
        assert mapping_of(node, name).of_file()
    with h5py.File(HERE / "toptag_table.h5") as file:
        assert sources._pickled_texts(bytes(file["table/table"].attrs["values_block_1_kind"])) == [
            "ttv",
            "is_signal_new",
        ]
