"""Files of strangers: refused before they hang, fill the memory or lead elsewhere."""

from __future__ import annotations

import os
import socket

import h5py
import numpy as np
import pytest

from data.layouts import truth, write
from setflow.cli import main
from setflow.data import read_events, read_header
from setflow.data.header import open_events
from setflow.data.inspection import following_links, of_hdf5


def refused(path, match, error=(OSError, ValueError)):
    with pytest.raises(error, match=match) as caught:
        read_events(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device"])
def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path, kind, monkeypatch):
    path = tmp_path / "a.h5"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        monkeypatch.chdir(tmp_path)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("a.h5")
    else:
        path.symlink_to("/dev/zero")
    refused(path, f"is {kind}, expected a regular file", OSError)


SHELL = (
    "sample demo --like {} --out o.h5",
    "sample demo --context-from {} --out o.h5",
    "score demo {} --out o.h5",
    "evaluate {} pythia-top/heldout.h5 --out report",
    "evaluate pythia-top/heldout.h5 {} --out report",
    "info {}",
    "dataset check {}",
    "dataset show {} --out o.png",
    "dataset split {} --out a.h5 b.h5 --fractions 0.5,0.5",
    "dataset convert {} --out o.h5",
    "dataset convert {} --format npy --out o.h5",
    "dataset merge {} --out o.h5",
    "fit --config top30 --data.train {} --name a",
)


@pytest.mark.parametrize("command", SHELL)
def test_a_pipe_is_refused_at_every_entrance(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.h5")
    with pytest.raises(SystemExit) as stop:
        main(command.format("pipe.h5").split())
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "pipe.h5 is a pipe, expected a regular file" in said
    assert "Traceback" not in said


def test_what_the_file_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    for options, match in (
        ({"shape": (10**9, 30, 4), "chunks": (1000, 30, 4)}, "chunks, and the file has"),
        ({"shape": (10**9, 30, 4)}, "never written"),
        ({"shape": (100, 30, 4), "chunks": (10, 30, 4)}, "in 10 chunks, and 0 were written"),
        (
            {"shape": (10**7, 30, 4), "chunks": (10**7, 30, 4), "compression": 1},
            "expected at most 268,435,456",
        ),
    ):
        with h5py.File(path, "w") as file:
            file.create_dataset("particle_features", dtype="f4", **options)
        refused(path, match, OSError)
    with h5py.File(path, "w") as file:
        file["values"], offsets = np.ones((10**5, 1), "f4"), np.zeros(10**4, "i8")
        offsets[-1] = 10**5
        file["offsets"] = offsets
        file["values"].attrs["features"] = ["x"]
    refused(path, "with its padding, stands for", OSError)


def virtual(path, sources, shape):
    layout = h5py.VirtualLayout(shape, "f4")
    at = 0
    for name, rows, told in sources:
        layout[at : at + rows] = h5py.VirtualSource(name, "p", told)
        at += rows
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("particle_features", layout)
        file["jet_features"] = truth()[1]
    return path


def test_a_virtual_data_set_is_read_if_all_of_it_is_there(tmp_path):
    particles, _ = truth()
    n, half = len(particles), len(particles) // 2
    tail = particles.shape[1:]
    for name, rows in (("a.h5", particles[:half]), ("b.h5", particles[half:])):
        with h5py.File(tmp_path / name, "w") as file:
            file["p"] = rows
    path, shape = tmp_path / "v.h5", (n, *tail)
    parts = [("a.h5", half, (half, *tail)), ("b.h5", n - half, (n - half, *tail))]
    virtual(path, parts, shape)
    whole = write(tmp_path / "whole.h5")
    assert np.array_equal(read_events(path).objects.x, read_events(whole).objects.x)
    virtual(path, parts[:1], shape)
    refused(path, "its sources hold .* values of it; expected all", ValueError)
    virtual(path, parts, shape)
    (tmp_path / "b.h5").rename(tmp_path / "c.h5")
    refused(path, "is made of 'b.h5', which does not exist", FileNotFoundError)
    os.mkfifo(tmp_path / "b.h5")
    with pytest.raises(OSError, match=r"b\.h5 is a pipe"):
        read_events(path)
    (tmp_path / "b.h5").unlink()
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["p"] = particles[half + 1 :]
    refused(path, "b.h5: p', which has shape", ValueError)


def test_links_to_other_files_are_followed_only_if_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = write(tmp_path / "whole.h5")
    particles, jets = truth()
    with h5py.File("linked.h5", "w") as file:
        file["particle_features"] = h5py.ExternalLink("whole.h5", "/particle_features")
        file["jet_features"] = jets
    particles.astype("f4").tofile("raw.bin")
    with h5py.File("stored.h5", "w") as file:
        file.create_dataset(
            "particle_features", particles.shape, "f4", external=[("raw.bin", 0, particles.nbytes)]
        )
        file["jet_features"] = jets
    for name in ("linked.h5", "stored.h5"):
        with pytest.raises(ValueError, match=f"{name}: particle_features .* which is not read"):
            read_events(name)
        with following_links():
            assert read_header(name).n == len(jets)
        main(["dataset", "convert", name, "--follow-links", "--out", f"plain-{name}"])
        expected = read_events(whole).objects
        assert np.array_equal(read_events(f"plain-{name}").objects.x, expected.x)
    capsys.readouterr()
    whole.unlink()
    os.mkfifo(whole)
    with pytest.raises(SystemExit):
        main(["dataset", "convert", "linked.h5", "--follow-links", "--out", "again.h5"])
    assert "whole.h5 is a pipe" in capsys.readouterr().err


def test_what_stands_in_the_place_of_numbers_is_told(tmp_path):
    path = tmp_path / "a.h5"
    for content, match in (
        (h5py.Empty("f4"), "a dataset without values"),
        (np.dtype("f4"), "is a type of data, expected a dataset"),
        (h5py.SoftLink("/particle_features"), "cannot be read, the file is damaged"),
        (h5py.SoftLink("/nothing"), "cannot be read, the file is damaged"),
        (np.zeros((2, 2, 4), "S1"), "has dtype"),
    ):
        with h5py.File(path, "w") as file:
            file["particle_features"] = content
        refused(path, match)
    with h5py.File(path, "w") as file:
        dtype = h5py.enum_dtype({"off": 0, "on": 1})
        file["particle_features"] = np.zeros((2, 2, 4), "f4")
        file.create_dataset("event_number", data=np.zeros(2, "i4"), dtype=dtype)
    refused(path, "has the names 'off, on' for numbers")


def test_errors_of_hdf5_name_the_file_and_others_stay(tmp_path):
    path = write(tmp_path / "a.h5")
    with pytest.raises(OSError, match=r"a\.h5 cannot be read"), open_events(path) as file:
        file["nothing"]
    with pytest.raises(KeyError) as caught, open_events(path) as file:
        dict(file)["nothing"]
    assert not of_hdf5(caught.value)
