"""What files hold and what cannot be: the files of the field, and those wrong on purpose."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import setflow
from data.formats.test_convert import GIVEN
from data.formats.written import WRITTEN, WRONG, J, P
from setflow.data.formats.convert import InputFile, inputs_of
from setflow.data.formats.named import Given
from setflow.jobs.check import check_files
from setflow.jobs.sample import sample_to_hdf5

FAULTS = {
    "order_pt_eta_phi": [],
    "jet_TeV": [],
    "pt_abs_GeV": ["limits", "ptrel"],
    "mask_ones": ["limits", "counts", "zeros"],
    "mask_half": ["mask"],
    "normalised": ["mask"],
    "numparticles_frac": ["counts"],
}


def checked(path: Path, given: Given | None = None):
    (one,) = check_files([InputFile(path, None)], given or Given())
    return one


@pytest.mark.parametrize("name", WRITTEN)
def test_a_good_file_has_no_faults(name, tmp_path):
    one = checked(WRITTEN[name](tmp_path / "a.h5"), GIVEN[name])
    assert one.faults == []
    assert one.tally.n == 120
    assert one.title.startswith("120 ")


def test_every_wrong_file_is_met():
    assert FAULTS.keys() == WRONG.keys()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_found(name, tmp_path):
    path = WRONG[name](tmp_path / "a.h5")
    one = checked(path)
    assert [fault.name for fault in one.faults] == FAULTS[name]
    if name == "mask_ones":
        padding = int((P[..., 3] == 0).sum())
        assert f"{padding:,} of 3,600 real particles (0.32) are all 0" in one.faults[2].text
    if name == "pt_abs_GeV":
        assert "ptrel sums to 800" in one.faults[1].text
    if name == "jet_TeV":
        (doubt,) = one.doubts
        assert "pt from TeV to GeV, mass from TeV to GeV" in doubt
    if name in ("jet_TeV", "order_pt_eta_phi"):  # read as what they are
        low, high = J[:, 0].min(), J[:, 0].max()
        spread = one.table["pt [GeV], of a jet"]
        np.testing.assert_allclose([spread.low, spread.high], [low, high], rtol=1e-6)
        spread = one.table["ptrel"]
        assert spread.high == pytest.approx(P[..., 2].max())


@pytest.mark.parametrize("name", ["int_mask", "vlen", "offsets"])
def test_numbers_are_compared_in_other_formats(name, tmp_path):
    path = WRITTEN[name](tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["jet_features"][7, 3] += 1
    (fault,) = checked(path, GIVEN[name]).faults
    assert fault.name == "counts"
    assert "1 of 120 jets have another number of particles than they say: row 7" in fault.text


def test_a_mask_that_a_mapping_does_not_fit_is_a_fault(tmp_path):
    path = WRONG["mask_half"](tmp_path / "a.h5")
    node = {
        "arrays": {"particle_features": ["a", "b", "c", "flag"]},
        "objects": {"a": "a"},
        "mask": {"field": "flag"},
    }
    (fault,) = checked(path, Given("custom", node)).faults
    assert "flag is 0.5, expected 1" in fault.text


def test_events_that_stand_in_several_files(tmp_path):
    one, other = WRITTEN["jetnet"](tmp_path / "a.h5"), tmp_path / "b.h5"
    with h5py.File(one) as file, h5py.File(other, "w") as turned:
        x = file["particle_features"][:][::-1, ::-1][:30]  # longer, turned around, without jets
        turned["particle_features"] = np.pad(x, ((0, 0), (5, 0), (0, 0)))
    first, second = check_files(inputs_of([str(one), str(other)]), Given())
    assert first.doubts == []
    assert second.doubts == [f"30 of 30 jets also stand in {one}"]


def test_a_sample_is_kept_as_the_model_has_made_it(tmp_path):
    path = WRONG["pt_abs_GeV"](tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["particle_features"][..., 2] /= np.float32(700)
        file["particle_features"][0, 0, 2] = -1
        file.attrs["weights_sha256"], file.attrs["unphysical"] = "0", "1 value of ptrel"
    one = checked(path)
    assert one.faults == []
    assert "that a model has sampled" in one.title
    assert (
        "kept as they are, as the file says: 1 of 120 jets hold 1 value of ptrel" in one.doubts[0]
    )


def scores(path: Path, log_p: list[float], reasons: list[str], **told: object) -> Path:
    with h5py.File(path, "w") as file:
        file["log_prob"] = np.array(log_p)
        file["reason"] = np.array(reasons, h5py.string_dtype())
        file["log_prob"].attrs["unit"] = "nats"
        for name, value in {"complete": True, "n": len(log_p), **told}.items():
            file.attrs[name] = value
    return path


def test_scores(tmp_path):
    nan = float("nan")
    path = scores(tmp_path / "s.h5", [40.0, 41.0, nan, -np.inf], ["", "", "the mask is 7", ""])
    one = checked(path)
    assert (one.faults, one.title) == ([], "log-densities of 4 jets")
    assert one.table["log_prob [nats]"].high == 41
    assert any("1 row could not be scored: the mask is 7" in doubt for doubt in one.doubts)
    (fault,) = checked(scores(path, [40.0, nan, np.inf], ["", "", ""])).faults
    assert "2 of 3 log-densities are NaN or inf" in fault.text
    (fault,) = checked(scores(path, [40.0], [""], complete=False, n=0)).faults
    assert "not finished: 0 of 1 rows" in fault.text


def test_a_sample_is_compared_with_its_manifest(tmp_path):
    flow = setflow.SetFlow.load("top30")
    folder = sample_to_hdf5(
        flow, tmp_path / "run", events=30, solver=setflow.Euler(1), progress=False
    )
    (path,) = folder.glob("*.h5")
    assert checked(path).faults == []
    (entry,) = inputs_of([str(folder)])
    assert entry.path == path
    with h5py.File(path, "r+") as file:
        file["particle_features"][3, 0, 0] = 0.01
    own, of_folder = checked(path).faults
    assert own.name == of_folder.name == "manifest"
    assert "the values of 'particle_features' are not those of its manifest" in own.text
    assert f"{folder}: '{path.name}' is not the file of the manifest" in of_folder.text


def test_a_file_larger_than_its_blocks(tmp_path, monkeypatch):
    import setflow.data.rows as rows

    path = WRITTEN["jetnet_gzip"](tmp_path / "a.h5")
    whole = checked(path)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 20_000)
    parts = checked(path)
    assert [*parts.table] == [*whole.table]
    for label, spread in whole.table.items():
        assert (parts.table[label].quantiles([0.1, 0.9]) == spread.quantiles([0.1, 0.9])).all()
    assert parts.lines == whole.lines


def test_what_a_mask_does_not_tell_is_neither_counted_nor_compared(tmp_path):
    """With -0.5 and 0.5 no number of particles is known, and none is as many as the file says."""
    path = WRONG["mask_half"](tmp_path / "a.h5")
    one = checked(path)
    (mask,) = [text for label, text in one.lines if label == "mask"]
    assert mask == (
        "120 of 120 jets hold something else than 1 and 0, so that their particles are not counted"
    )
    assert one.table["particles of a jet"].n == 0
    path = WRITTEN["jetnet"](tmp_path / "b.h5")
    with h5py.File(path, "a") as file:
        file["particle_features"][5, 0, 3] = 0.5
    some = [text for label, text in checked(path).lines if label == "mask"]
    assert some[0].startswith("1 of 120 jets hold something else")
    assert some[1].startswith("0 of 119 jets have none")
    assert some[1].endswith("; as many as the file says")
