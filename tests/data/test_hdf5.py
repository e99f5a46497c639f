"""Files of jets: reading, what is refused, and what is kept with its reason."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import setflow.data
from data.samples import make_sample, write_sample
from setflow.data.hdf5 import read_jets, screen_events
from setflow.data.jets import JetSample
from setflow.schema import JET_UNITS
from setflow.sets.batch import SetBatch

PI32 = float(np.float32(math.pi))


@pytest.fixture
def jetnet(tmp_path: Path) -> Callable[..., Path]:
    """Write a file as JetNet's are, with h5py alone; keywords replace or add datasets."""

    def make(n: int = 5, objects: int = 4, **replace: Any) -> Path:
        generator = np.random.default_rng(0)
        particles = generator.uniform(-0.5, 0.5, (n, objects, 4)).astype(np.float32)
        particles[..., 2] = generator.uniform(0.0, 1.0, (n, objects))
        particles[..., 3] = np.arange(objects) < generator.integers(1, objects + 1, (n, 1))
        particles *= particles[..., 3:]
        jets = generator.uniform(1.0, 2.0, (n, 4)).astype(np.float32)
        jets[:, 3] = particles[..., 3].sum(1)
        contents = {"particle_features": particles, "jet_features": jets} | replace
        path = tmp_path / "jetnet.hdf5"
        with h5py.File(path, "w") as file:
            for key, values in contents.items():
                if values is not None:
                    file.create_dataset(key, data=values)
        return path

    return make


def _contents(path: Path) -> tuple[Any, Any]:
    with h5py.File(path, "r") as file:
        return file["particle_features"][:], file["jet_features"][:]


def test_a_file_of_jetnet_opens_as_it_is(jetnet: Callable[..., Path]) -> None:
    path = jetnet()
    particles, jets = _contents(path)
    sample = read_jets(path)
    assert sample.particles.x.dtype == sample.jets.dtype == torch.float32
    assert sample.particles.mask.dtype == torch.bool
    assert np.array_equal(sample.particles.x.numpy(), particles[..., :3])
    assert np.array_equal(sample.particles.mask.numpy(), particles[..., 3] == 1)
    assert np.array_equal(sample.jets.numpy(), jets)
    assert sample.particle_type is None
    assert sample.event_number is None
    assert sample.jet_units == JET_UNITS
    assert len(sample) == 5


def test_float64_files_stay_float64(jetnet: Callable[..., Path]) -> None:
    particles, jets = _contents(jetnet())
    particles, jets = particles.astype(np.float64), jets.astype(np.float64)
    angles = [math.nextafter(math.pi, 0.0), math.pi, PI32, -PI32]
    particles[0, :, 1], particles[0, :, 2:], jets[0, 3] = angles, [0.1, 1.0], 4
    jets[1, 0] = 800.0 + 2**-40
    sample = read_jets(jetnet(particle_features=particles, jet_features=jets))
    assert sample.particles.x.dtype == sample.jets.dtype == torch.float64
    assert sample.particles.x[0, :, 1].tolist() == [angles[0], *[-math.pi] * 3]
    assert np.array_equal(sample.particles.x[1:].numpy(), particles[1:, :, :3])
    assert np.array_equal(sample.jets.numpy(), jets)


def test_what_float32_makes_of_pi_is_minus_pi(jetnet: Callable[..., Path]) -> None:
    particles, _ = _contents(jetnet())
    particles[0, 0, 1], particles[1, 0, 1] = PI32, -PI32
    sample = read_jets(jetnet(particle_features=particles))
    assert sample.particles.x[:2, 0, 1].tolist() == [-PI32, -PI32]


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 1e30, -7.0])
def test_padding_may_hold_anything_and_reads_as_zero(
    jetnet: Callable[..., Path], rubbish: float
) -> None:
    particles, _ = _contents(jetnet())
    padding = particles[..., 3] == 0
    assert padding.any()
    clean = read_jets(jetnet())
    particles[padding, :3] = rubbish
    dirty = read_jets(jetnet(particle_features=particles))
    assert torch.equal(dirty.particles.x, clean.particles.x)
    assert torch.equal(dirty.particles.mask, clean.particles.mask)
    assert (dirty.particles.x[torch.from_numpy(padding)] == 0).all()


def test_rows_are_selected(jetnet: Callable[..., Path]) -> None:
    whole = read_jets(jetnet(n=9))
    part = read_jets(jetnet(n=9), start=2, stop=7)
    assert torch.equal(part.particles.x, whole.particles.x[2:7])
    assert torch.equal(part.jets, whole.jets[2:7])
    assert len(read_jets(jetnet(n=9), start=4, stop=4)) == 0
    with pytest.raises(ValueError, match=r"holds 9 events, rows 3 to 12 were asked for"):
        read_jets(jetnet(n=9), start=3, stop=12)
    for name in ("start", "stop"):
        for row in (-1, 2.0, "2"):
            with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 0"):
                read_jets(jetnet(n=9), **{name: row})
    with pytest.raises(ValueError, match="max_objects must be a whole number of at least 1"):
        read_jets(jetnet(n=9), max_objects="2")


def test_reading_in_blocks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sample(tmp_path / "a.h5", make_sample(3000, objects=100))
    options: dict[str, Any] = {"start": 3, "max_objects": 20, "with_types": True}
    at_once = read_jets(path, **options)
    monkeypatch.setattr("setflow.data.rows.BLOCK_BYTES", 2**15)  # some ten rows
    in_blocks = read_jets(path, **options)
    assert torch.equal(at_once.particles.x, in_blocks.particles.x)
    assert torch.equal(at_once.jets, in_blocks.jets)
    assert at_once.particle_type is not None
    assert in_blocks.particle_type is not None
    assert torch.equal(at_once.particle_type, in_blocks.particle_type)


def test_max_objects_keeps_the_hardest_real_ones_hardest_first(tmp_path: Path) -> None:
    sample = make_sample(50, objects=12)
    sample.particles.x[3, :, 2] = 0.25  # ties: the first stay
    sample.particles.mask[3] = True
    sample.particles.x[3, :, 0] = torch.arange(12) / 20
    assert sample.particle_type is not None
    sample.particle_type[3] = 1
    sample.jets[3, 3] = 12
    sample.particles.x[3, :, 1] = 0
    cut = read_jets(write_sample(tmp_path / "a.h5", sample), max_objects=5, with_types=True)
    assert cut.particles.x.shape == (50, 5, 3)
    assert cut.particle_type is not None
    for k in range(50):
        real = sample.particles.mask[k]
        x, types = sample.particles.x[k][real], sample.particle_type[k][real]
        order = x[:, 2].sort(descending=True, stable=True).indices[:5]
        count = len(order)
        assert cut.particles.mask[k].tolist() == [True] * count + [False] * (5 - count)
        assert torch.equal(cut.particles.x[k, :count], x[order])
        assert torch.equal(cut.particle_type[k, :count], types[order])
        assert cut.jets[k, 3] == min(int(sample.jets[k, 3]), 5)
        assert torch.equal(cut.jets[k, :3], sample.jets[k, :3])
    assert (cut.particles.x[~cut.particles.mask] == 0).all()
    assert (cut.particle_type[~cut.particles.mask] == 0).all()


def test_max_objects_orders_a_file_with_no_more_slots_too(tmp_path: Path) -> None:
    """Else a jet would have another order in a file with more slots, and with it other noise."""
    sample = make_sample(8, objects=6)
    path = write_sample(tmp_path / "a.h5", sample)
    longer = write_sample(tmp_path / "b.h5", sample, objects=9)
    six = read_jets(longer, max_objects=6)
    for limit in (6, 100):
        assert read_jets(path, max_objects=limit).particles == six.particles
    assert six.particles != read_jets(path).particles == sample.particles
    with pytest.raises(ValueError, match="max_objects must be a whole number of at least 1, got 0"):
        read_jets(path, max_objects=0)


def test_a_sample_is_indexed_by_events(tmp_path: Path) -> None:
    sample = read_jets(write_sample(tmp_path / "a.h5", make_sample(10)))
    some = sample[torch.tensor([7, 2])]
    assert len(some) == 2
    assert torch.equal(some.particles.mask, sample.particles.mask[[7, 2]])
    assert torch.equal(some.jets, sample.jets[[7, 2]])
    assert some.event_number is not None
    assert some.event_number.tolist() == [2**40 + 3, 2**40 + 1]
    assert sample[4].particles.x.shape == (30, 3)
    assert len(sample[1:4]) == 3


def test_a_sample_refuses_shapes_that_do_not_belong_together() -> None:
    particles = SetBatch(torch.zeros(2, 5, 3), torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"event has shape \(3, 4\), expected \(2, 4\)"):
        JetSample(particles, torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"particle_type has shape \(2, 4\), expected \(2, 5\)"):
        JetSample(particles, torch.zeros(2, 4), particle_type=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"target has shape \(3,\), expected \(2,\)"):
        JetSample(particles, torch.zeros(2, 4), target=torch.zeros(3))
    with pytest.raises(ValueError, match=r"objects.x has shape \(2, 5, 2\), expected \(2, 5, 3\)"):
        JetSample(SetBatch(torch.zeros(2, 5, 2), torch.ones(2, 5)), torch.zeros(2, 4))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5 does not exist; check the path"):
        read_jets(tmp_path / "nothing.h5")
    with pytest.raises(IsADirectoryError, match="is a folder, expected an HDF5 file"):
        read_jets(tmp_path)


def test_a_misspelt_key_is_met_with_the_right_one(jetnet: Callable[..., Path]) -> None:
    particles, _ = _contents(jetnet())
    path = jetnet(particle_features=None, particle_feature=particles)
    expected = (
        r"jetnet.hdf5 has no dataset 'particle_features'; it holds \['jet_features', "
        r"'particle_feature'\]; did whoever wrote it mean it by 'particle_feature'\? Rename it"
    )
    with pytest.raises(ValueError, match=expected):
        read_jets(path)


def test_a_missing_key_without_a_close_one(jetnet: Callable[..., Path]) -> None:
    path = jetnet(particle_features=None)
    with pytest.raises(ValueError, match=r"no dataset 'particle_features'; it holds \['jet_feat"):
        read_jets(path)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(ValueError, match=r"'particle_features'; it holds nothing$"):
        read_jets(path)


def test_a_group_is_not_a_dataset(jetnet: Callable[..., Path]) -> None:
    path = jetnet(jet_features=None)
    with h5py.File(path, "a") as file:
        file.create_group("jet_features")
    with pytest.raises(ValueError, match="'jet_features' is a group, expected a dataset"):
        read_jets(path)


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4), (5, 4, 4, 1)])
def test_wrong_dimensions_of_particles(jetnet: Callable[..., Path], shape: tuple[int, ...]) -> None:
    path = jetnet(particle_features=np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"expected \(n, N, 4\) with the features etarel, phirel"):
        read_jets(path)


def test_wrong_dimensions_of_jets(jetnet: Callable[..., Path]) -> None:
    path = jetnet(jet_features=np.zeros((5, 3), np.float32))
    with pytest.raises(ValueError, match=r"jet_features has shape \(5, 3\), expected \(5, 4\)"):
        read_jets(path)


def test_another_number_of_rows(jetnet: Callable[..., Path]) -> None:
    path = jetnet(jet_features=np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match=r"jet_features .*: 4 rows beside 5 of particle_features"):
        read_jets(path)
    path = jetnet(event_number=np.zeros(6, np.int64))
    with pytest.raises(ValueError, match=r"event_number .*: 6 rows beside 5"):
        read_jets(path)
    path = jetnet(particle_type=np.zeros((5, 3), np.int8))
    with pytest.raises(ValueError, match=r"particle_type has shape \(5, 3\), expected \(5, 4\)"):
        read_jets(path)


def test_wrong_dtypes(jetnet: Callable[..., Path]) -> None:
    path = jetnet(particle_features=np.zeros((5, 4, 4), np.int64))
    with pytest.raises(ValueError, match="particle_features has dtype int64, expected float32"):
        read_jets(path)


@pytest.mark.parametrize("flag", [0.5, -1.0, 2.0, np.nan])
def test_a_mask_that_is_neither_0_nor_1(jetnet: Callable[..., Path], flag: float) -> None:
    particles, _ = _contents(jetnet())
    particles[3, 2, 3] = flag
    expected = rf"jetnet.hdf5: row 3, particle 2, column 'mask' holds {flag}, expected 1 \(real\)"
    with pytest.raises(ValueError, match=expected):
        read_jets(jetnet(particle_features=particles))


@pytest.mark.parametrize(("column", "name"), [(0, "etarel"), (1, "phirel"), (2, "ptrel")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_real_particle_that_is_not_finite(
    jetnet: Callable[..., Path], column: int, name: str, value: float
) -> None:
    particles, _ = _contents(jetnet())
    particles[4, 0, column] = value
    expected = f"row 4, particle 0, column '{name}' holds {value} though the particle is real"
    with pytest.raises(ValueError, match=expected):
        read_jets(jetnet(particle_features=particles))


def test_a_jet_that_is_not_finite(jetnet: Callable[..., Path]) -> None:
    _, jets = _contents(jetnet())
    jets[2, 2] = np.nan
    with pytest.raises(ValueError, match="row 2, column 'mass' of jet_features holds nan"):
        read_jets(jetnet(jet_features=jets))


@pytest.mark.parametrize("phi", [float(np.nextafter(np.float32(PI32), 4)), 3.2, -3.2, 6.0])
def test_an_angle_that_is_not_wrapped(jetnet: Callable[..., Path], phi: float) -> None:
    particles, _ = _contents(jetnet())
    particles[1, 0, 1] = phi
    expected = r"row 1, particle 0, column 'phirel' holds .*, expected radians in \[-pi, pi\)"
    with pytest.raises(ValueError, match=expected):
        read_jets(jetnet(particle_features=particles))


def test_the_row_of_an_error_is_that_of_the_file(
    jetnet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    particles, _ = _contents(jetnet(n=20))
    particles[17, 0, 2] = np.nan
    path = jetnet(n=20, particle_features=particles)
    monkeypatch.setattr("setflow.data.rows.BLOCK_BYTES", 3 * 4 * 4 * 4)
    with pytest.raises(ValueError, match="row 17, particle 0, column 'ptrel' holds nan"):
        read_jets(path, start=2)
    assert len(read_jets(path, stop=17)) == 17


def test_an_unknown_particle_type(jetnet: Callable[..., Path]) -> None:
    types = np.ones((5, 4), np.int8)
    types[2, 0] = 9
    path = jetnet(particle_type=types)
    with pytest.raises(ValueError, match="row 2, particle 0 of particle_type holds 9, expected"):
        read_jets(path, with_types=True)
    assert read_jets(path).particle_type is None, "they are read only if they are asked for"


def test_a_file_that_is_not_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "notes.h5"
    path.write_text("this is no HDF5 file")
    with pytest.raises(OSError, match=r"notes\.h5 is not an HDF5 file .*expected an HDF5 file of"):
        read_jets(path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = write_sample(tmp_path / "a.h5", make_sample(500))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(OSError, match=r"a\.h5 is a damaged HDF5 file .*fetch or make it again"):
        read_jets(path)


def test_damaged_content(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.h5", make_sample(500))
    with h5py.File(path, "r") as file:
        chunk = file["particle_features"].id.get_chunk_info(0)
    whole = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    whole[middle : middle + 200] = bytes(200)
    path.write_bytes(whole)
    with pytest.raises(OSError, match="rows 0 to 500 cannot be read, the file is damaged"):
        read_jets(path)


def test_a_file_that_says_it_was_not_finished(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.h5", make_sample(5))
    with h5py.File(path, "a") as file:
        file.attrs["complete"] = False
    with pytest.raises(ValueError, match="was not finished: complete=False, 5 rows of 5"):
        read_jets(path)
    with h5py.File(path, "a") as file:
        file.attrs["complete"], file.attrs["n"] = True, 6
    with pytest.raises(ValueError, match="was not finished: complete=True, 5 rows of 6"):
        read_jets(path)
    with h5py.File(path, "a") as file:
        file.attrs["layout_version"] = 3
    with pytest.raises(ValueError, match="has layout version 3, this release reads up to 2"):
        read_jets(path)


MALFORMED = {  # dataset, index within a row, value
    "mask": ("particle_features", (2, 3), 0.5),
    "mask is nan": ("particle_features", (2, 3), np.nan),
    "etarel": ("particle_features", (0, 0), np.inf),
    "phirel": ("particle_features", (0, 1), 4.0),
    "ptrel": ("particle_features", (1, 2), np.nan),
    "pt": ("jet_features", (0,), np.nan),
    "num_particles": ("jet_features", (3,), -np.inf),
    "type": ("particle_type", (1,), 9),
    "ptrel of 0": ("particle_features", (1, 2), 0.0),
    "ptrel in GeV": ("particle_features", (1, 2), 112.6),
    "etarel of the beam": ("particle_features", (0, 0), -20.5),
    "pt below 0": ("jet_features", (0,), -1.0),
    "mass below 0": ("jet_features", (2,), -0.1),
    "num_particles against the mask": ("jet_features", (3,), 1.0),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_row_stays_in_its_place_empty_with_the_reason_of_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("setflow.data.rows.BLOCK_BYTES", 2**17)  # some ten rows
    path = tmp_path / "a.h5"
    sample = make_sample(2100, objects=200)  # chunks of 256 rows
    sample.particles.mask[:, :2] = True
    x = torch.where(sample.particles.mask[..., None], sample.particles.x, 0.0)
    x[:, :2] = 0.1
    sample.particle_type[:, :2] = 1
    sample.jets[:, 3] = sample.particles.mask.sum(-1)
    write_sample(path, replace(sample, objects=SetBatch(x, sample.particles.mask)))
    clean = read_jets(path, with_types=True)
    key, index, value = MALFORMED[kind]
    bad = [3, 255, 256, 1000, 2099]
    with h5py.File(path, "r+") as file:
        for row in bad:
            file[key][row, *index] = value
    with pytest.raises(ValueError, match="row 3, ") as caught:
        read_jets(path, with_types=True)
    if kind == "type":  # which only who asks for it reads
        assert not screen_events(path).reasons
        return
    screened = screen_events(path, start=2)
    assert sorted(screened.reasons) == [row - 2 for row in bad]
    told = str(caught.value)
    assert told.startswith(f"{path}: row 3, {screened.reasons[1]}")
    assert ("tell `setflow dataset convert` the rule" in told) == kind.startswith("mask")
    good = torch.tensor([row for row in range(2, 2100) if row not in bad])
    empty = torch.tensor(bad)
    for start, got in (
        (2, screened.sample),
        (999, screen_events(path, start=999).sample),
    ):
        some = good[good >= start]
        assert torch.equal(got.objects.x[some - start], clean.particles.x[some])
        assert torch.equal(got.objects.mask[some - start], clean.particles.mask[some])
        assert torch.equal(got.event[some - start], clean.jets[some])
        there = empty[empty >= start] - start
        assert not got.objects.mask[there].any()
        for values in (got.objects.x, got.event):
            assert (values[there] == 0).all()
        assert torch.equal(got.event_number, clean.event_number[start:])


def test_screening_a_clean_file_is_reading_it(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.h5", make_sample(50, objects=12))
    for options in ({}, {"start": 3, "stop": 40}, {"max_objects": 5}):
        screened, read = screen_events(path, **options), read_jets(path, **options)
        assert screened.reasons == {}
        assert torch.equal(screened.sample.objects.x, read.particles.x)
        assert torch.equal(screened.sample.objects.mask, read.particles.mask)
        assert torch.equal(screened.sample.event, read.jets)
    with pytest.raises(ValueError, match=r"holds 50 events, rows 0 to 51 were asked for"):
        screen_events(path, stop=51)


def test_a_row_has_the_reason_that_is_found_first(jetnet: Callable[..., Path]) -> None:
    particles, jets = _contents(jetnet())
    particles[2, 0, 0], particles[2, 1, 3], jets[2, 0], jets[4, 1] = np.nan, 7, np.nan, np.nan
    path = jetnet(particle_features=particles, jet_features=jets)
    reasons = screen_events(path).reasons
    assert list(reasons) == [2, 4]
    assert reasons[2] == "particle 1, column 'mask' holds 7.0, expected 1 (real) or 0 (padding)"
    assert reasons[4] == "column 'eta' of jet_features holds nan; expected a finite value"


def test_a_file_without_the_layout_is_not_screened(jetnet: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="no dataset 'particle_features'"):
        screen_events(jetnet(particle_features=None))


def test_importing_the_package_does_not_import_h5py() -> None:
    code = (
        "import sys, setflow.data\n"
        "assert 'h5py' not in sys.modules, 'imported'\n"
        "assert 'JetWriter' in dir(setflow.data)\n"
        "setflow.data.read_jets\n"
        "assert 'h5py' in sys.modules, 'not imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_resolves() -> None:
    for name in setflow.data.__all__:
        assert getattr(setflow.data, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'read_jetz'"):
        _ = setflow.data.read_jetz
