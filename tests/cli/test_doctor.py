"""`setflow doctor`: what there is, what is missing, the command that mends it, and the status."""

from __future__ import annotations

import re
import shlex
import sys

import h5py
import pytest
import torch

import setflow
from cli.shell import run
from setflow import requirements, shipped
from setflow.cli import doctor
from setflow.requirements import Need


@pytest.fixture
def healthy(monkeypatch):
    """Requirements that are met, and an extra that is not."""
    found = {
        "": [Need("torch", "torch>=2.10", torch.__version__, True)],
        "train": [Need("lightning", "lightning>=2.6.6", "2.6.6", True)],
        "fast": [Need("swift", "swift>=2", None, False)],
    }
    monkeypatch.setattr(requirements, "needs", lambda: {k: list(v) for k, v in found.items()})
    return found


def said(capsys, status: int) -> str:
    if status:
        with pytest.raises(SystemExit) as stop:
            run("doctor")
        assert stop.value.code == status
    else:
        run("doctor")
    return " ".join(capsys.readouterr().out.split())


def test_it_says_what_there_is_on_one_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    run("doctor")
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 32
    assert max(map(len, out.splitlines())) <= 100
    text = " ".join(out.split())
    for part in (
        f"setflow {setflow.__version__}",
        f"torch {torch.__version__}",
        f"h5py {h5py.__version__}",
        "extra train complete: ",
        "CUDA",
        "Apple MPS",
        "attention cpu",
        "gzip",
        "recipes: 4, files of jets and events: 4",
        "nothing that is needed is missing",
    ):
        assert part in text
    kernels = re.search(r"attention cpu float32: ([\w, ]+);", text)[1].split(", ")
    assert "math" in kernels


def test_an_extra_that_is_missing_is_no_problem_and_has_its_command(healthy, capsys, monkeypatch):
    text = said(capsys, 0)
    assert "extra fast swift is missing: pip install -e " in text
    (command,) = re.findall(r"pip install -e (\S+)", text)
    assert shlex.split(command)[0].endswith("[fast]")
    monkeypatch.setattr(doctor, "clone", lambda: None)
    assert "swift is missing: pip install 'setflow[fast]'" in said(capsys, 0)


@pytest.mark.parametrize(
    ("need", "message"),
    [
        (Need("scipy", "scipy>=1.13", None, False), "scipy is missing: pip install --upgrade"),
        (
            Need("scipy", "scipy>=1.13", "1.12", False),
            "scipy is 1.12, expected >=1.13: pip install --upgrade 'scipy>=1.13'",
        ),
    ],
)
def test_what_is_needed_and_missing_or_too_old_is_a_problem(healthy, capsys, need, message):
    healthy[""].append(need)
    text = said(capsys, 1)
    assert f"problem: {message}" in text
    assert text.endswith("1 problem to mend")


def test_a_compromised_upload_is_a_problem_once(healthy, capsys):
    bad = Need("lightning", "lightning>=2.6.6", "2.6.3", False, compromised=True)
    healthy["train"] = [bad]
    healthy["dev"] = [bad]
    text = said(capsys, 1)
    problem = "problem: lightning 2.6.3 is a compromised upload, remove it at once: pip install "
    assert text.count(problem + "--upgrade 'lightning>=2.6.6'") == 1
    assert text.endswith("1 problem to mend")


@pytest.mark.parametrize("module", ["torch", "h5py", "packaging.requirements"])
def test_a_package_that_cannot_be_imported_does_not_end_it(module, healthy, capsys, monkeypatch):
    for name in list(sys.modules):
        if name in (module, "setflow.requirements", "setflow.data.filters"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(setflow, "requirements", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    text = said(capsys, 1)
    assert f"problem: {module.partition('.')[0]}" in text
    assert "pip install" in text


def test_a_filter_that_files_are_written_with_is_needed(healthy, capsys, monkeypatch):
    avail = h5py.h5z.filter_avail
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: code != 1 and avail(code))
    assert "problem: HDF5 lacks the filter gzip" in said(capsys, 1)


def test_an_installation_without_what_is_shipped_has_a_problem(healthy, capsys, monkeypatch):
    monkeypatch.setattr(shipped, "_COPIES", shipped._COPIES / "none")
    monkeypatch.setattr(shipped, "clone", lambda: None)
    assert "problem: the shipped recipes" in said(capsys, 1)
