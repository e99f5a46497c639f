"""Names decide: no order of columns, dtype, chunk or byte order of a file changes a number."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from data.layouts import JET, JETS, PARTICLE, SLOTS, permuted, truth, write, wrong
from each import each
from setflow.data import JetWriter, read_header, read_jets, screen_events
from setflow.data.sample import EventSample
from setflow.data.summary import summarize_events
from setflow.schema import JET_UNITS, JETNET, RELATIVE_JET_UNITS


def assert_true(sample: EventSample, rtol: float = 0.0) -> None:
    particles, jets = truth()
    assert np.array_equal(sample.objects.mask.numpy(), particles[..., 3] == 1)
    np.testing.assert_allclose(sample.objects.x.numpy(), particles[..., :3], rtol=rtol)
    np.testing.assert_allclose(sample.event.numpy(), jets, rtol=rtol)
    assert sample.features == PARTICLE[:3]
    assert sample.event_features == JET
    assert sample.event_units == JET_UNITS


# --- the law ---

BYTES = {"features": np.array(PARTICLE, "S"), "units": np.array(["", "rad", "", "1"], "S")}
OBJECTS = {"features": np.array([b"etarel", b"phirel", b"ptrel", b"mask"], object)}
SAME: dict[str, Callable[[Path], Path]] = {
    "as JetNet's": write,
    "permuted": permuted,
    "float64": lambda p: write(p, *(part.astype("f8") for part in truth())),
    "big-endian": lambda p: permuted(p, more={"event_number": np.arange(JETS).astype(">u8")}),
    "big-endian floats": lambda p: write(p, *(part.astype(">f4") for part in truth())),
    "big-endian float64": lambda p: write(p, *(part.astype(">f8") for part in truth())),
    "long doubles": lambda p: write(p, *(part.astype(np.longdouble) for part in truth())),
    "chunks of one row": lambda p: permuted(p, chunks=True, maxshape=None),
    "gzip, shuffled": lambda p: permuted(p, compression="gzip", shuffle=True, fletcher32=True),
    "lzf": lambda p: permuted(p, compression="lzf"),
    "a fifth column": lambda p: write(p, np.dstack([truth()[0], np.full((JETS, SLOTS), np.nan)])),
    "a fifth column, named": lambda p: write(
        p,
        np.dstack([np.full((JETS, SLOTS), np.nan, "f4"), truth()[0]]),
        particle_attributes={"features": ["d0", *PARTICLE], "units": ["mm", "", "rad", "", ""]},
    ),
    "names in bytes": lambda p: write(p, particle_attributes=BYTES),
    "names in objects of bytes": lambda p: write(
        p, particle_attributes={"features": h5_bytes(OBJECTS["features"])}
    ),
    "names in one text": lambda p: write(
        p,
        particle_attributes={"features": "etarel, phirel,ptrel, mask"},
        jet_attributes={"units": b"GeV,,GeV,"},
    ),
    "an empty attribute": lambda p: write(p, particle_attributes={"features": h5py.Empty("S1")}),
    "no number of particles": lambda p: write(
        p, jets=truth()[1][:, :3], jet_attributes={"features": JET[:3]}
    ),
}


def h5_bytes(values: Any) -> Any:
    return np.array(values, dtype=h5py.string_dtype("ascii"))


@pytest.mark.parametrize("kind", SAME)
def test_how_a_file_is_laid_out_changes_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = SAME[kind](tmp_path / "a.h5")
    sample = read_jets(path)
    assert_true(sample)
    monkeypatch.setattr("setflow.data.rows.BLOCK_BYTES", 1)
    assert_true(screen_events(path, JETNET, max_objects=SLOTS).sample)
    assert read_header(path).event_units == JET_UNITS


def test_one_name_is_no_list_of_letters() -> None:
    for options in ({"features": "ptrel"}, {"conditions": "pt"}):
        with pytest.raises(ValueError, match=r"expected a sequence of names, such as \['p"):
            read_jets("pythia-top/heldout.h5", stop=1, **options)


def test_features_come_in_the_order_asked_for(tmp_path: Path) -> None:
    particles, _ = truth()
    for path in (write(tmp_path / "a.h5"), permuted(tmp_path / "b.h5")):
        sample = read_jets(path, features=("ptrel", "etarel"), max_objects=4)
        assert np.array_equal(sample.particles.x.numpy(), particles[:, :4][..., [2, 0]])
        assert sample.features == ("ptrel", "etarel")
        one = read_jets(path, features=["phirel"], max_objects=4)  # cut by ptrel all the same
        assert np.array_equal(one.particles.x.numpy(), particles[:, :4, 1:2])
        assert sample[1:3].features == sample.features


def test_the_number_of_particles_is_that_of_the_mask(tmp_path: Path) -> None:
    particles, jets = truth()
    particles[:2, :, 2:] = [0.1, 1]
    jets[:2, 3] = 88  # they were cut to the slots
    path = write(tmp_path / "a.h5", particles, jets)
    for most in (None, 7, 100):
        sample = read_jets(path, max_objects=most)
        assert torch.equal(sample.jets[:, 3], sample.particles.lengths.float())


def test_integers_and_halves_are_read_as_what_holds_them(tmp_path: Path) -> None:
    particles, jets = truth()
    halves = particles.astype(np.float16)
    sample = read_jets(write(tmp_path / "a.h5", halves, np.rint(jets).astype(np.int32)))
    assert sample.particles.x.dtype == torch.float32
    assert sample.jets.dtype == torch.float64
    assert np.array_equal(sample.particles.x.numpy(), halves[..., :3].astype("f4"))
    assert np.array_equal(sample.jets.numpy(), np.rint(jets))


@each(("dtype", "read"), [(">u8", torch.uint64), ("u8", torch.uint64), ("i4", torch.int64)])
def test_event_numbers_do_not_turn_negative(dtype: str, read: torch.dtype, tmp_path: Path) -> None:
    numbers = np.array([*range(JETS - 1), 2**63 + 5 if "8" in dtype else 7]).astype(dtype)
    sample = read_jets(write(tmp_path / "a.h5", more={"event_number": numbers}))
    assert sample.event_number is not None
    assert sample.event_number.dtype == read
    assert sample.event_number.tolist() == numbers.tolist()


# --- units ---


def units(*, particle: Any = None, jet: Any = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["particle_attributes"] = {"units": particle} if particle else None
    found["jet_attributes"] = {"units": jet} if jet else None
    return found


@each(("unit", "factor"), [("TeV", 1e3), ("MeV", 1e-3), ("keV", 1e-6)])
def test_known_units_are_converted_and_told(unit: str, factor: float, tmp_path: Path) -> None:
    jets = truth()[1] / np.float32([factor, 1, factor, 1])
    path = write(tmp_path / "a.h5", jets=jets, **units(jet=[unit, "", unit, ""]))
    told = rf"a\.h5: jet_features: pt from {unit} to GeV, mass from {unit} to GeV: converted"
    with pytest.warns(UserWarning, match=told):
        assert_true(read_jets(path), rtol=2e-7)
    assert read_header(path).event_units == JET_UNITS  # as they are read, which tells it


def test_degrees_are_converted_and_told(tmp_path: Path) -> None:
    particles, _ = truth()
    particles[..., 1] = np.degrees(particles[..., 1])
    particles[0, 0, 1] = -180
    path = write(tmp_path / "a.h5", particles, **units(particle=["", "deg", "", ""]))
    with pytest.warns(UserWarning, match="phirel from deg to rad"):
        phi = read_jets(path).particles.x[..., 1].numpy()
    assert phi[0, 0] == -np.float32(math.pi)
    np.testing.assert_allclose(phi[1:], truth()[0][1:, :, 1], rtol=2e-7)


def test_a_conversion_is_told_once_for_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", truth()[0], truth()[1], **units(jet=["MeV", "", "MeV", ""]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for start in range(5):
            screen_events(path, start=start)
    assert len(told) == 1


@each(
    ("attributes", "message"),
    [
        (units(jet=["GeV/c", "", "GeV", ""]), "pt stands in units of 'GeV/c', expected 'GeV'; kn"),
        (units(jet=["GeV", "", "", ""]), "mass stands in units of '', expected 'GeV'; known are"),
        (units(particle=["", "turns", "", ""]), "phirel stands in units of 'turns', expected 'rad"),
        (units(particle=["", "rad", "GeV", ""]), "ptrel stands in units of 'GeV', expected none:"),
        (units(particle=["", "rad", ""]), "has 4 columns, and its attribute units names 3 units"),
        ({"particle_attributes": {"features": PARTICLE[:3]}}, "has 4 columns, .* features names"),
        ({"particle_attributes": {"features": 4}}, "4 columns, and its attribute features names 4"),
        ({"particle_attributes": {"features": [1, 2, 3, 4]}}, "features holds .1 2 3 4., expected"),
        (
            {"particle_attributes": {"features": ["etarel", "etarel", "ptrel", "mask"]}},
            "attribute features names etarel, etarel, ptrel, mask; expected one name for each",
        ),
        (
            {"particle_attributes": {"features": ["etarel", "phirel", "pt_rel", "mask"]}},
            "no column 'ptrel', .*etarel, phirel, pt_rel, mask; did whoever .* by 'pt_rel'",
        ),
        (
            {"particle_attributes": {"features": ["etarel", "phirel", "ptrel", "valid"]}},
            "names etarel, phirel, ptrel, valid and no 'mask', which says what is real",
        ),
    ],
)
def test_a_unit_or_name_that_is_not_known_is_an_error(
    attributes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.h5", **attributes)
    with pytest.raises(ValueError, match=message):
        read_jets(path)


def test_a_sample_of_a_model_keeps_its_relative_units(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", **units(jet=["jet pT", "", "jet pT", ""]))
    assert read_jets(path).jet_units == RELATIVE_JET_UNITS
    with pytest.raises(ValueError, match="pt in units of 'jet pT', expected 'GeV'"):
        read_jets(path).context(["pt"])


def test_a_feature_that_is_not_there_is_told_with_what_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    with pytest.raises(ValueError, match="no column 'px', which is asked for; it names none, so"):
        read_jets(path, features=("px", "py", "pz"))
    with pytest.raises(ValueError, match=r"no column 'phi', .*etarel, phirel.*; did .*'phirel'\?"):
        read_jets(path, features=("etarel", "phi", "ptrel"))
    with pytest.raises(ValueError, match="jet_features has no column 'tau21', which is asked for"):
        read_jets(path, conditions=("pt", "tau21"))


def test_features_that_the_layout_does_not_know_are_found_by_name(tmp_path: Path) -> None:
    particles, jets = truth()
    d0 = np.random.default_rng(0).normal(size=(JETS, SLOTS, 1)).astype("f4")
    path = write(
        tmp_path / "a.h5",
        np.concatenate([d0, particles], -1),
        np.c_[jets[:, 0] / 2000, jets].astype("f4"),
        particle_attributes={"features": ["d0", *PARTICLE]},
        jet_attributes={"features": ["tau21", *JET], "units": ["", "GeV", "", "GeV", ""]},
    )
    sample = read_jets(path, features=("d0", "ptrel"), conditions=("tau21", "mass"))
    real = particles[..., 3:] == 1
    assert np.array_equal(sample.particles.x[..., :1].numpy(), np.where(real, d0, 0))
    assert sample.jet_features == (*JET, "tau21")
    context = sample.context(("tau21", "mass"))
    assert torch.equal(sample.context("mass"), sample.context(["mass"]))
    assert np.array_equal(context.numpy(), np.c_[jets[:, 0] / 2000, jets[:, 2]].astype("f4"))


# --- what cannot be ---


@each(
    ("kind", "message"),
    [
        ("ptrel holds GeV", r"row 0, particle 0, column 'ptrel' holds \d+.*units of the jet pT"),
        ("mask of ones", "column 'ptrel' holds 0, expected above 0 .*; it is all 0: is it padding"),
        ("mask of halves", "column 'mask' holds 0.5, expected 1 .real. or 0 .padding"),
        ("normalised", "column 'mask' holds 0.5, expected 1 .real. or 0 .padding"),
        ("num_particles is a share", r"'num_particles' of jet_features holds 0\.\d+, the mask sa"),
        ("phirel in degrees", "'phirel' holds .*, expected radians in .-pi, pi.; wrap the angl"),
    ],
)
def test_files_with_something_wrong_are_refused_with_what_it_is(
    kind: str, message: str, tmp_path: Path
) -> None:
    path = wrong(tmp_path / "a.h5", kind)
    with pytest.raises(ValueError, match=message):
        read_jets(path)
    reasons = screen_events(path).reasons
    assert len(reasons) >= JETS / 2
    assert sum(summarize_events(path).reasons.values()) == len(reasons)


def test_an_empty_jet_needs_no_momentum(tmp_path: Path) -> None:
    particles, jets = truth()
    particles[3], jets[3] = 0, 0
    assert int(read_jets(write(tmp_path / "a.h5", particles, jets)).particles.lengths[3]) == 0
    jets[3, 0] = -1
    assert list(screen_events(write(tmp_path / "a.h5", particles, jets)).reasons) == [3]


# --- jets without features ---


def test_a_file_without_jet_features_can_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", jets=np.empty(0))
    sample, (particles, _) = read_jets(path), truth()
    assert np.array_equal(sample.particles.x.numpy(), particles[..., :3])
    assert sample.jet_features == ("num_particles",)
    assert sample.jets[:, 0].tolist() == particles[..., 3].sum(1).tolist()
    assert torch.equal(sample.context(["num_particles"]), sample.jets)
    with pytest.raises(ValueError, match="no dataset 'jet_features' that could hold pt, on which"):
        read_jets(path, conditions=["pt", "num_particles"])
    assert set(summarize_events(path).ranges) == {"etarel", "phirel", "ptrel"}


def test_a_misspelt_dataset_of_jets_is_not_taken_for_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", jets=np.empty(0), more={"jet_feature": truth()[1]})
    with pytest.raises(ValueError, match=r"no dataset 'jet_features'; .* mean it by 'jet_feature'"):
        read_jets(path)


def test_what_the_writer_writes_is_read_by_its_names(tmp_path: Path) -> None:
    sample = read_jets(permuted(tmp_path / "a.h5"))
    with JetWriter(tmp_path / "b.h5", objects=SLOTS) as writer:
        writer.write(sample.particles, sample.jets)
    with h5py.File(tmp_path / "b.h5", "r+") as file:  # whose attributes are read
        for key, order in (("particle_features", [3, 1, 0, 2]), ("jet_features", [2, 3, 0, 1])):
            file[key][:] = file[key][:][..., order]
            for name in ("features", "units"):
                file[key].attrs[name] = file[key].attrs[name][order]
    assert_true(read_jets(tmp_path / "b.h5"))
