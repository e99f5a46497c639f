"""What `setflow fit` says of its data, what it refuses, and what may be accepted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from cli.shell import fails, run
from data.formats.written import WRITTEN, WRONG
from setflow.data import EventWriter
from setflow.schema import Feature, Schema
from setflow.sets.batch import SetBatch

SETS = Schema([Feature("x", "mm"), Feature("y", "mm"), Feature("z", "mm")])
FIT = ("fit", "--config", "config.yaml", "--trainer.max_epochs", "1", "--force")


@pytest.fixture(autouse=True)
def _config(folder):
    return folder


def spoil(change) -> None:
    with h5py.File("jets.h5", "a") as file:
        x, jets = file["particle_features"][:], file["jet_features"][:]
        change(x, jets)
        file["particle_features"][:], file["jet_features"][:] = x, jets


def sets(path: str, n: int = 100, zeros: int = 0, seed: int = 0) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 6, 3)).astype("f4"))
    x[:, :zeros] = 0
    with EventWriter(path, SETS, objects=6) as writer:
        writer.write(SetBatch(x, torch.ones(n, 6)))
    config = yaml.safe_load(Path("config.yaml").read_text())
    config["model"]["flow"]["init_args"].pop("scaler")
    config["data"]["train"] = path
    Path("config.yaml").write_text(yaml.safe_dump(config))


def test_three_lines_of_the_data(capsys):
    run(*FIT)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data: ")]
    assert len(lines) == 3
    assert re.match(
        r"data: 150 jets to train on, 50 to validate on; of 98% of the particles etarel -0\.\d+ to "
        r"0\.\d+, phirel -0\.\d+ to 0\.\d+ rad, ptrel \S+ to 0\.\d+$",
        lines[0],
    )
    assert re.match(
        r"data: 1 to 8 particles of a jet, 4\.\d+ on average; 0 of \d+ are all 0$", lines[1]
    )
    assert re.match(
        r"data: ptrel sums to 0\.\d+ to 1 over a jet; 0 jets are the same .*, 0 on both sides",
        lines[2],
    )


def test_events_of_one_size_have_no_range_of_sizes(capsys):
    sets("sets.h5")
    run(*FIT)
    assert "data: 6 objects in each event; 0 of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("--init", "nothere"), "no model folder at nothere"),
        (("--data.batch_size", "0"), "batch_size must be a whole number of at least 1, got 0"),
        (("--data.max_objects", "0"), "max_objects must be a whole number of at least 1, got 0"),
    ],
)
def test_what_the_data_have_no_part_in_is_refused_before_they_are_read(given, expected, capsys):
    spoil(lambda x, jets: x.__setitem__((0, 0, 0), np.nan))
    assert "setflow dataset check jets.h5" in fails(capsys, *FIT)
    assert expected in fails(capsys, *FIT, *given)


def test_a_folder_is_no_configuration(capsys):
    Path("one").mkdir()
    Path("config.yaml").rename("one/config.yaml")
    assert "did you mean --config one/config.yaml?" in fails(capsys, "fit", "--config", "one")


def test_a_ptrel_that_sums_above_the_jet(capsys):
    def double(x, jets):
        x[..., 2] = np.where(x[..., 3] == 1, 1.9 / np.maximum(x[..., 3].sum(1), 1)[:, None], 0)

    spoil(double)
    error = fails(capsys, *FIT)
    assert "ptrel sums to 1.9 over a jet (the median), expected at most 1.5" in error
    assert "setflow dataset check jets.h5 says more, and --accept ptrel goes on" in error
    run(*FIT, "--accept", "zeros,ptrel")
    assert "warning: ptrel sums to 1.9" in capsys.readouterr().err


def test_numbers_that_are_not_those_of_the_mask(capsys):
    def fraction(x, jets):
        jets[:, 3] /= 8

    spoil(fraction)
    error = fails(capsys, *FIT)
    assert "the mask says" in error
    assert "setflow dataset check jets.h5 counts all that is wrong, and --accept counts" in error
    run(*FIT, "--accept", "counts")


def test_objects_that_are_all_0(capsys):
    sets("sets.h5", zeros=2)
    error = fails(capsys, *FIT)
    assert "150 of 450 real objects (0.33) are all 0; are they padding" in error
    assert "--accept zeros goes on all the same" in error
    run(*FIT, "--accept", "zeros")


def test_the_same_events_on_both_sides(capsys):
    with h5py.File("jets.h5") as file, h5py.File("val.h5", "w") as val:
        val["particle_features"] = file["particle_features"][:50]  # another file of the same
        several = int((val["particle_features"][..., 3].sum(1) > 1).sum())
    same = (*FIT, "--data.val", "val.h5")
    error = fails(capsys, *same)
    # those of one particle, which may be alike by chance, are left out
    assert f"{several} of 50 jets to validate on are trained on, too" in error
    assert "--accept same goes on all the same" in error
    run(*same, "--accept", "same")
    assert f"{several} on both sides" in capsys.readouterr().out
    whole = (*FIT, "--data.val", "jets.h5")
    assert "the validation file jets.h5 is the training file" in fails(capsys, *whole)
    run(*whole, "--accept", "same")


def test_duplicates_are_warned_of(capsys):
    def repeat(x, jets):
        x[100:110], jets[100:110] = x[:10], jets[:10]

    spoil(repeat)
    run(*FIT)
    out, err = capsys.readouterr()
    found = re.search(r"; (\d+) jets are the same as one before, (\d+) on both sides", out)
    several = sum(map(int, found.groups()))
    assert 5 <= several <= 10  # those of one particle may be alike by chance, and are left out
    assert "warning:" in err


def test_data_that_a_model_has_sampled_are_told(capsys):
    run(*FIT)
    assert "sampled by a model" not in capsys.readouterr().err
    shutil.copy("jets.h5", "more.h5")
    spoil(lambda x, jets: x[..., :3].__imul__(0.999))  # so that the two are not the same
    with h5py.File("more.h5", "a") as file:
        file.attrs["weights_sha256"] = "0" * 64
    run(*FIT, "--data.val", "more.h5")
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "sampled by" in line]
    assert told.startswith("setflow: warning: more.h5 was sampled by a model, as the file says")
    run(*FIT, "--data.train", "more.h5", "--data.in_memory", "false")
    assert "warning: more.h5 was sampled by a model" in capsys.readouterr().err


def test_what_cannot_be_accepted_is_told(capsys):
    error = fails(capsys, *FIT, "--accept", "zero")
    assert "--accept is 'zero', did you mean zeros?; expected one of zeros (real" in error
    assert "counts (numbers of objects that are not those of the mask)" in error


def test_a_run_goes_on_without_being_told_again(capsys):
    def fraction(x, jets):
        jets[:, 3] /= 8

    spoil(fraction)
    run(*FIT, "--accept", "counts")
    run("fit", "--resume", "--name", "tiny", "--trainer.max_epochs", "2")
    assert "2 steps" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pt_abs_GeV", "mask_ones", "mask_half", "normalised"])
def test_files_that_are_wrong_are_refused(name, capsys):
    WRONG[name](Path("wrong.h5"))
    error = fails(capsys, *FIT, "--data.train", "wrong.h5", "--data.max_objects", "30")
    assert "wrong.h5: row 0, particle" in error
    assert "setflow dataset check wrong.h5 counts all that is wrong" in error


def test_a_configuration_names_the_format_of_its_files(folder, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    WRITTEN["energyflow"](folder / "a.npz")
    run(*FIT, "--data.train", "a.npz", "--data.format", "energyflow", "--data.val_fraction", "0.3")
    assert "84 jets to train on, 36 to validate on" in capsys.readouterr().out
    config = yaml.safe_load(next(folder.glob("runs/*/config.yaml")).read_text())
    assert (config["data"]["train"], config["data"]["format"]) == ("a.npz", "energyflow")
    assert len(list(folder.glob("cache/setflow/converted/*/a.h5"))) == 1
    error = fails(capsys, *FIT, "--data.train", "a.npz", "--data.format", "energyfow")
    assert "did you mean 'energyflow'" in error
