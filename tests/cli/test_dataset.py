"""`setflow dataset check`, `split` and `show`."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from cli.shell import fails, run, write_jets
from data.formats.written import WRITTEN, WRONG
from setflow.data import read_header


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    return int(stop.value.code)


def test_check_prints_what_was_read(capsys):
    write_jets(Path("jets.h5"))
    run("dataset", "check", "jets.h5")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "jets.h5: 200 jets in the layout of JetNet"
    with h5py.File("jets.h5") as file:
        x = file["particle_features"][:]
    phi = x[..., 1][x[..., 3] == 1]
    low, first, middle, last, high = np.quantile(phi, [0, 0.01, 0.5, 0.99, 1])
    numbers = [f"{value:.4g}" for value in (low, first, middle, last, high)]
    assert ["phirel", "[rad]", *numbers] in [line.split() for line in lines]
    assert "all 0" in out
    assert "as many as the file says" in out
    assert lines[-1].split() == ["wrong", "nothing"]
    assert all(len(line) <= 100 for line in lines)
    assert err == ""


def test_check_ends_with_status_1_on_what_cannot_be(capsys):
    WRONG["mask_ones"](Path("ones.h5"))
    WRITTEN["jetnet"](Path("good.h5"))
    assert status("dataset", "check", "good.h5", "ones.h5") == 1
    out, err = capsys.readouterr()
    good, ones = out.split("ones.h5: ")
    assert "wrong                     nothing" in good
    assert "1,154 of 3,600 real particles (0.32) are all 0" in " ".join(ones.split())
    assert "Traceback" not in err
    assert "no.h5 does not exist" in fails(capsys, "dataset", "check", "no.h5")
    Path("a.h5").write_bytes(b"root" + bytes(100))
    told = fails(capsys, "dataset", "check", "a.h5")
    assert "a ROOT file" in told


def test_check_reads_other_formats_and_warns(capsys):
    path = WRITTEN["energyflow"](Path("qg"))
    run("dataset", "check", str(path), "--format", "energyflow")
    out = capsys.readouterr().out
    assert "120 jets in the format energyflow" in out
    assert "gluon 60, quark 60" in out
    told = fails(capsys, "dataset", "check", str(path), "--columns", "a")
    assert "--columns belongs to" in told
    WRITTEN["jetnet"](Path("a.h5"))
    with h5py.File("a.h5", "a") as file:
        file["mc_weight"] = np.linspace(-1, 1, 120)
    WRITTEN["no_jets"](Path("b.h5"))
    run("dataset", "check", "a.h5", "b.h5")
    out, err = capsys.readouterr()
    assert "smallest -1" in out
    assert "warning: a.h5: weights (mc_weight) count only where they are named" in err
    assert "warning: b.h5: 120 of 120 jets also stand in a.h5" in err


def test_split(capsys):
    write_jets(Path("jets.h5"))
    split = ("dataset", "split", "jets.h5", "--out", "a.h5", "b.h5", "--fractions", "0.8,0.2")
    run(*split)
    counts = [read_header(name).n for name in ("a.h5", "b.h5")]
    assert sum(counts) == 200
    assert f"wrote a.h5 b.h5: {counts[0]}, {counts[1]} jets" in capsys.readouterr().out
    assert "a.h5 exists already" in fails(capsys, *split)
    run(*split[:-1], "0.8", "0.2", "--force")
    assert [read_header(name).n for name in ("a.h5", "b.h5")] == counts
    run("dataset", "check", "a.h5", "b.h5")
    assert "also stand" not in capsys.readouterr().err
    for arguments, told in (
        (("0.8",), "2 files to write and 1 fraction (0.8)"),
        (("0.8,0.3",), "expected positive ones that sum to 1"),
        (("0.8,x",), "'x' is no number"),
        (("0.8,nan",), "expected positive ones that sum to 1"),
    ):
        assert told in fails(capsys, *split[:-1], *arguments, "--force")
    for out, told in (
        (("jets.h5", "b.h5"), "jets.h5 is the file that is shared out; write to another"),
        (("c.h5", "c.h5"), "error: c.h5 is given twice; give each file once"),
    ):
        assert told in fails(capsys, *split[:4], *out, *split[6:], "--force")
    WRITTEN["omnilearn"](Path("theirs.h5"))
    told = fails(capsys, "dataset", "split", "theirs.h5", *split[3:], "--force")
    assert "setflow dataset convert theirs.h5 --format omnilearn" in told


def test_show(capsys):
    write_jets(Path("jets.h5"))
    run("dataset", "show", "jets.h5", "--out", "jets.png")
    out = capsys.readouterr().out
    assert "wrote jets.png: 8 spectra of 200 jets" in out
    assert "next: setflow dataset check jets.h5" in out
    assert Path("jets.png").read_bytes().startswith(b"\x89PNG")
    assert "jets.png exists already" in fails(
        capsys, "dataset", "show", "jets.h5", "--out", "jets.png"
    )
    told = fails(capsys, "dataset", "show", "jets.h5", "--out", "jets.gif")
    assert "ends in .png, .pdf or .svg" in told
    write_jets(Path("more.h5"))
    for several in ("*.h5", "."):  # a pattern, and a folder
        told = fails(capsys, "dataset", "show", several, "--out", "all.png")
        assert f"{several} are 2 files, " in told
        assert "draw them one by one" in told
