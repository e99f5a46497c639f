"""`sample` and `score` by several processes of one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import setflow.cli
from cli.shell import UNPHYSICAL, fails, make_all_but_part_one, run

ROOT = Path(__file__).resolve().parents[2]
SCORE = ("score", "runs/tiny/model", "jets.h5", "--steps", "2")
SAMPLE = ("sample", "runs/tiny/model", "--events", "40", "--steps", "2")


def assert_same(one, other, tolerance=0.0):
    with h5py.File(one) as mine, h5py.File(other) as theirs:
        assert mine.keys() == theirs.keys()
        assert dict(mine.attrs).keys() == dict(theirs.attrs).keys()
        for name in mine:
            a, b = mine[name][:], theirs[name][:]
            if a.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
            else:
                assert (a == b).all()


@UNPHYSICAL
def test_two_processes_make_what_one_makes(model, capsys):
    run(*SCORE, "--out", "one.h5")
    run(*SAMPLE, "--out", "jets-one.h5")
    run(*SAMPLE, "--out", "jets-two.h5", "--devices", "2")
    assert_same("jets-one.h5", "jets-two.h5", 2e-5)  # blocks are cut in two
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:  # one of the two is killed
        patch.setattr(setflow.cli, "_make_part", make_all_but_part_one)
        told = fails(capsys, *SCORE, "--out", "two.h5", "--devices", "2")
    assert "the process of part 1/2 ended with -9" in told
    assert "1 of 2 processes did not end well; what is done is kept, and the same command" in told
    assert Path("two-0-of-2.h5").exists()
    assert not Path("two.h5").exists()
    run(*SCORE, "--out", "two.h5", "--devices", "2")
    assert_same("one.h5", "two.h5")
    assert not list(Path().glob("two-*")), "parts are gone"
    run(*SCORE, "--out", "two.h5", "--devices", "2")
    assert "is written already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--devices", "2", "--part", "0/2"), "--part makes one part of them; give one of both"),
        (("--devices", "2", "--device", "cuda:0"), "--device cuda:0 is one device, and --devices"),
        (("--devices", "5000", "--device", "cpu"), "--devices is 5000, but there are"),
        (("--devices", "0"), "--devices is 0, expected at least 1"),
    ],
)
def test_devices_that_do_not_fit_are_refused(folder, capsys, options, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    Path("runs/tiny/model").mkdir(parents=True)
    assert message in fails(capsys, *SCORE, "--out", "a.h5", *options)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.wide)]
)
def test_a_signal_ends_all_and_the_same_command_goes_on(model, number):
    long = ("score", "runs/tiny/model", "jets.h5", "--steps", "30", "--devices", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "setflow.cli", *long, "--out", "out.h5"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not Path("out-1-of-2.h5.part").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]  # the pipe is closed when all have ended
    assert "Traceback" not in told
    if number == signal.SIGTERM:
        assert process.returncode == 143
        last = told.splitlines()[-1]
        assert last.startswith("setflow: stopped by SIGTERM; ")
        assert last.endswith("--steps 30 --devices 2 --out out.h5")
    assert not Path("out.h5").exists()
    run(*long, "--out", "out.h5")
    assert not list(Path().glob("out-*"))
