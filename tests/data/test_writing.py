"""Writing files of jets: what comes back, bytes, attributes, and what leaves nothing behind."""

from __future__ import annotations

import hashlib
import math
import os
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from data.samples import make_sample, write_sample
from setflow.data import EventWriter, read_events
from setflow.data.contexts import read_context
from setflow.data.hdf5 import read_jets, screen_events
from setflow.data.header import read_header
from setflow.data.writing import JetWriter
from setflow.schema import RELATIVE_JET_UNITS, Feature, Schema
from setflow.sets.batch import SetBatch

PI32 = float(np.float32(math.pi))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    sample = make_sample(700)
    back = read_jets(write_sample(tmp_path / "a.h5", sample, sizes=[1, 299, 400]), with_types=True)
    mask = sample.particles.mask
    assert not mask[-1].any(), "the sample has an empty jet"
    assert (mask[:, 1:] & ~mask[:, :-1]).any(), "the sample has holes"
    assert torch.equal(back.particles.mask, mask)
    assert torch.equal(back.particles.x[mask], sample.particles.x[mask])
    assert (back.particles.x[~mask] == 0).all()
    assert torch.equal(back.jets, sample.jets)
    assert back.particle_type is not None
    assert sample.particle_type is not None
    assert torch.equal(back.particle_type[mask], sample.particle_type[mask])
    assert (back.particle_type[~mask] == 0).all()
    assert back.event_number is not None
    assert sample.event_number is not None
    assert torch.equal(back.event_number, sample.event_number)


def test_the_file_is_what_jetnet_readers_expect(tmp_path: Path) -> None:
    sample = make_sample(10)
    with JetWriter(tmp_path / "a.h5", objects=30) as writer:
        writer.write(sample.particles, sample.jets)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert set(file) == {"particle_features", "jet_features"}
        particles, jets = file["particle_features"], file["jet_features"]
        assert particles.dtype == jets.dtype == np.float32
        assert particles.shape == (10, 30, 4)
        assert np.array_equal(particles[..., 3], sample.particles.mask.numpy())
        assert np.array_equal(jets[:], sample.jets.numpy())


def test_attributes_say_names_units_and_completeness(tmp_path: Path) -> None:
    path = write_sample(
        tmp_path / "a.h5",
        make_sample(10),
        jet_units=RELATIVE_JET_UNITS,
        attributes={"model": "tops", "seed": 3},
    )
    with h5py.File(path, "r") as file:
        assert list(file["particle_features"].attrs["features"]) == [
            "etarel",
            "phirel",
            "ptrel",
            "mask",
        ]
        assert list(file["particle_features"].attrs["units"]) == ["", "rad", "", ""]
        assert list(file["jet_features"].attrs["features"]) == [
            "pt",
            "eta",
            "mass",
            "num_particles",
        ]
        assert list(file["jet_features"].attrs["units"]) == ["jet pT", "", "jet pT", ""]
        assert "1 = photon" in list(file["particle_type"].attrs["codes"])
        assert file.attrs["complete"]
        assert file.attrs["n"] == 10
    header = read_header(path)
    assert (header.n, header.objects, header.event_units) == (10, 30, RELATIVE_JET_UNITS)
    assert header.attributes == {"model": "tops", "seed": 3}
    assert header.keys == ("particle_features", "jet_features", "particle_type", "event_number")
    assert read_jets(path).jet_units == RELATIVE_JET_UNITS


@pytest.mark.parametrize(("objects", "rows"), [(150, 256), (30, 2048), (10**6, 1)])
def test_chunks_hold_whole_jets_and_up_to_a_megabyte(
    tmp_path: Path, objects: int, rows: int
) -> None:
    with JetWriter(tmp_path / "a.h5", objects=objects):
        pass
    with h5py.File(tmp_path / "a.h5", "r") as file:
        particles = file["particle_features"]
        assert particles.chunks == (rows, objects, 4)
        assert particles.compression == "gzip"
        assert particles.compression_opts == 4
        assert particles.shuffle
    superblock = (tmp_path / "a.h5").read_bytes()[8]
    assert superblock == 0, "the oldest format, which every reader opens"
    assert len(read_jets(tmp_path / "a.h5")) == 0


def test_compression_is_an_argument(tmp_path: Path) -> None:
    sample = make_sample(300)
    sizes = {
        k: write_sample(tmp_path / f"{k}.h5", sample, compression=k).stat().st_size for k in (0, 9)
    }
    assert sizes[9] < 0.8 * sizes[0]
    with pytest.raises(ValueError, match="compression is 10, expected a gzip level from 0 to 9"):
        JetWriter(tmp_path / "b.h5", objects=3, compression=10)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    sample = make_sample(5000)
    options: dict[str, Any] = {"attributes": {"recipe": "a text", "seed": 1}}
    first = _digest(write_sample(tmp_path / "a.h5", sample, **options))
    time.sleep(1.1)  # HDF5 keeps times in seconds
    cut = write_sample(tmp_path / "b.h5", sample, sizes=[1, 2047, 2049, 0, 900, 3], **options)
    assert _digest(cut) == first
    assert _digest(write_sample(tmp_path / "c.h5", make_sample(5000, seed=1), **options)) != first


def test_angles_of_events_are_wrapped_on_writing(tmp_path: Path) -> None:
    """What a model is asked for beyond half a turn can be read again."""
    phi, axis = torch.tensor([[4.0], [-4.0], [0.5]]), Feature("axis", "rad", "angle")
    expected = [4 - 2 * math.pi, 2 * math.pi - 4, 0.5]
    objects = SetBatch(torch.rand(3, 2, 3) + 0.1)
    with EventWriter(tmp_path / "a.h5", Schema([*map(Feature, "xyz")], [axis])) as writer:
        writer.write(objects, phi)
    assert read_events(tmp_path / "a.h5").event[:, 0].tolist() == pytest.approx(expected)
    with JetWriter(tmp_path / "b.h5", objects=2, context=[axis]) as jets:
        jets.write(objects, torch.full((3, 4), 2.0), context=phi)
    assert read_context(tmp_path / "b.h5", [axis])[:, 0].tolist() == pytest.approx(expected)
    assert phi[0, 0] == 4


def test_angles_are_wrapped_on_writing_and_others_kept_to_the_bit(tmp_path: Path) -> None:
    angles = [math.pi, -math.pi, 3.5, -3.5, 100.0, 0.1, -1e-20, math.nextafter(math.pi, 0)]
    x = torch.full((1, len(angles), 3), 0.1, dtype=torch.float64)
    x[0, :, 1] = torch.tensor(angles, dtype=torch.float64)
    with JetWriter(tmp_path / "a.h5", objects=len(angles)) as writer:
        writer.write(SetBatch(x, torch.ones(1, len(angles))), torch.full((1, 4), len(angles)))
    phi = read_jets(tmp_path / "a.h5").particles.x[0, :, 1]
    assert ((phi >= -PI32) & (phi < PI32)).all()
    assert torch.allclose(phi.double().cos(), x[0, :, 1].cos(), atol=1e-5)
    assert torch.allclose(phi.double().sin(), x[0, :, 1].sin(), atol=1e-5)
    assert phi[5:7].tolist() == x[0, 5:7, 1].float().tolist()


def test_gradients_and_other_dtypes_can_be_written(tmp_path: Path) -> None:
    x = torch.full((2, 3, 3), 0.5, dtype=torch.float16, requires_grad=True)
    with JetWriter(tmp_path / "a.h5", objects=3) as writer:
        writer.write(SetBatch(x, torch.ones(2, 3)), torch.full((2, 4), 3))
    assert (read_jets(tmp_path / "a.h5").particles.x == 0.5).all()


def test_writing_does_not_change_what_it_is_given(tmp_path: Path) -> None:
    x, jets = torch.ones(2, 3, 3, dtype=torch.float32), torch.full((2, 4), 3.0, dtype=torch.float32)
    x[..., 1] = 4.0  # which is wrapped in the file
    with JetWriter(tmp_path / "a.h5", objects=3) as writer:
        writer.write(SetBatch(x, torch.ones(2, 3)), jets)
        jets.zero_()  # nor does what is done to it later change the file
    assert (x[..., 1] == 4.0).all()
    assert (read_jets(tmp_path / "a.h5").jets == 3).all()


def test_slots_beyond_the_file_must_be_padding(tmp_path: Path) -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    with JetWriter(tmp_path / "a.h5", objects=2) as writer:
        writer.write(SetBatch(torch.ones(2, 4, 3), mask), [[1, 0, 0, 2], [1, 0, 0, 1]])
        mask = mask.clone()
        mask[1, 3] = 1
        with pytest.raises(ValueError, match=r"jet 3 has a particle in slot 3, the file has 2"):
            writer.write(SetBatch(torch.ones(2, 4, 3), mask), torch.ones(2, 4))
    assert read_jets(tmp_path / "a.h5").particles.mask.tolist() == [[True, True], [True, False]]


def test_what_the_writer_refuses(tmp_path: Path) -> None:
    particles, jets = SetBatch(torch.ones(2, 3, 3), torch.ones(2, 3)), torch.full((2, 4), 3.0)
    with JetWriter(tmp_path / "a.h5", objects=3) as writer:
        with pytest.raises(ValueError, match=r"event has shape \(1, 4\), expected \(2, 4\)"):
            writer.write(particles, jets[:1])
        with pytest.raises(ValueError, match=r"event_number is given, .*with_events=False"):
            writer.write(particles, jets, event_number=torch.zeros(2))
        for column, name, value in ((2, "ptrel", torch.nan), (1, "phirel", torch.inf)):
            x = particles.x.clone()
            x[1, 2, column] = value
            with pytest.raises(ValueError, match=f"row 1, particle 2, column '{name}' holds nan"):
                writer.write(SetBatch(x, particles.mask), jets)
        with pytest.raises(ValueError, match="row 0, column 'eta' of jet_features holds inf"):
            writer.write(particles, torch.tensor([[1.0, torch.inf, 1.0, 1.0]] * 2))
        with pytest.raises(ValueError, match=r"mask has shape \(3,\), expected \(b, M\)"):
            writer.write(particles[0], jets[0])
        assert writer.n == 0
    with (
        JetWriter(tmp_path / "b.h5", objects=3, with_types=True) as writer,
        pytest.raises(ValueError, match=r"particle_type is missing, .*with_types=True"),
    ):
        writer.write(particles, jets)
    with pytest.raises(RuntimeError, match="the writer is not open; use it as `with JetWriter"):
        writer.write(particles, jets)
    with pytest.raises(ValueError, match="objects must be a whole number of at least 1"):
        JetWriter(tmp_path / "c.h5", objects=0)
    with pytest.raises(ValueError, match="jet_units has 2 entries"):
        JetWriter(tmp_path / "c.h5", objects=1, jet_units=("GeV", ""))
    with pytest.raises(ValueError, match=r"attributes \['n'\] are written by the writer"):
        JetWriter(tmp_path / "c.h5", objects=1, attributes={"n": 3})


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_target_as_it_was(
    tmp_path: Path, error: type[BaseException], exists: bool
) -> None:
    path = tmp_path / "a.h5"
    if exists:
        path.write_text("old")

    def write_half() -> None:
        with JetWriter(path, objects=30, overwrite=True) as writer:
            writer.write(make_sample(3000).particles, make_sample(3000).jets)
            assert len(os.listdir(tmp_path)) == 1 + exists
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        write_half()
    assert os.listdir(tmp_path) == (["a.h5"] if exists else [])
    assert not exists or path.read_text() == "old"


@pytest.mark.parametrize("when", ["os.fsync", "os.replace"])
def test_an_error_at_the_end_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(when, fail)
    with pytest.raises(OSError, match="no space left"), JetWriter(tmp_path / "a.h5", objects=3):
        pass
    assert os.listdir(tmp_path) == []


def test_attributes_that_hdf5_cannot_hold_leave_nothing(tmp_path: Path) -> None:
    writer = JetWriter(tmp_path / "a.h5", objects=3, attributes={"why": object()})
    with pytest.raises(TypeError, match="no native HDF5 equivalent"), writer:
        pass
    assert os.listdir(tmp_path) == []


# --- what cannot be ---

IMPOSSIBLE = {  # column of the particle or jet, value, what is said
    "ptrel of 0": (2, 0.0, "column 'ptrel' holds 0, expected above 0 and at most 2"),
    "ptrel that float32 makes 0": (2, 1e-60, "column 'ptrel' holds 0, expected above 0"),
    "ptrel in GeV": (2, 80.0, "column 'ptrel' holds 80, .*in units of the jet pT"),
    "etarel": (0, -20.5, "column 'etarel' holds -20.5, expected from -20 to 20"),
    "pt": (3, -1.0, "column 'pt' of jet_features holds -1, expected above 0"),
    "mass": (5, -1.0, "column 'mass' of jet_features holds -1, expected at least 0"),
    "num_particles": (6, 2.0, "'num_particles' of jet_features holds 2, the mask says 3"),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_what_cannot_be_is_not_written(tmp_path: Path, kind: str) -> None:
    column, value, message = IMPOSSIBLE[kind]
    x, jets = torch.full((2, 3, 3), 0.5, dtype=torch.float64), torch.full((2, 4), 3.0)
    if column < 3:
        x[1, 2, column] = value
    else:
        jets[1, column - 3] = value
    with JetWriter(tmp_path / "a.h5", objects=5) as writer:
        with pytest.raises(ValueError, match=f"row 1, .*{message}"):
            writer.write(SetBatch(x, torch.ones(2, 3)), jets)
        assert writer.n == 0


def test_a_sample_is_written_whatever_it_holds_and_counted(tmp_path: Path) -> None:
    x = torch.full((4, 3, 3), 0.5, dtype=torch.float32)
    x[0, 0, 2], x[1, 1, 2], x[2, 0, 0], x[3, 2, 2] = -0.1, 3.0, 25.0, torch.nan
    mask = torch.ones(4, 3)
    mask[1, 2] = 0
    x[1, 2] = torch.nan  # padding is not counted
    jets = torch.full((4, 4), 3.0)
    jets[1, 3] = 2
    with JetWriter(tmp_path / "a.h5", objects=3, keep_unphysical=True) as writer:
        for k in range(4):
            writer.write(SetBatch(x, mask)[k : k + 1], jets[k : k + 1])
    assert writer.unphysical == {
        "ptrel": 2,
        "etarel": 1,
        "not finite": 1,
    }
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["unphysical"] == (
            "1 value of etarel that is not from -20 to 20, 1 value not finite, "
            "2 values of ptrel that are not above 0 and at most 2"
        )
        assert np.array_equal(
            file["particle_features"][:, :, 2][mask == 1], x[..., 2][mask == 1], equal_nan=True
        )
    assert sorted(screen_events(tmp_path / "a.h5").reasons) == [0, 1, 2, 3]
    kept = read_jets(tmp_path / "a.h5", stop=3, keep_unphysical=True)
    assert torch.equal(kept.particles.x[mask[:3] == 1], x[:3][mask[:3] == 1])
    with pytest.raises(ValueError, match="row 3, particle 2, column 'ptrel' holds nan"):
        read_jets(tmp_path / "a.h5", keep_unphysical=True)


def test_a_clean_sample_says_nothing_of_unphysical_values(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.h5", make_sample(5), keep_unphysical=True)
    with h5py.File(tmp_path / "a.h5") as file:
        assert "unphysical" not in file.attrs


def test_an_event_number_that_does_not_fit_is_not_turned_negative(tmp_path: Path) -> None:
    particles, jets = SetBatch(torch.ones(2, 3, 3)), torch.full((2, 4), 3.0)
    numbers = torch.tensor([1, 2**63 + 1], dtype=torch.uint64)
    with JetWriter(tmp_path / "a.h5", objects=3, with_events=True) as writer:
        with pytest.raises(ValueError, match="row 1, event_number is 9223372036854775809, expec"):
            writer.write(particles, jets, event_number=numbers)
        writer.write(particles, jets, event_number=[1, 2**63 - 1])
    assert read_jets(tmp_path / "a.h5").event_number.tolist() == [1, 2**63 - 1]
