"""The last lines of every command, and what it refuses to write or read by its name."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import setflow
from cli.shell import UNPHYSICAL, fails, run
from setflow.data import read_jets

pytestmark = UNPHYSICAL


def last_lines(capsys) -> tuple[str, str]:
    *_, wrote, following = capsys.readouterr().out.splitlines()
    assert re.match(r"wrote .*, in \d", wrote)
    assert following.startswith("next: ")
    return wrote, following.removeprefix("next: ")


def test_sample_evaluate_and_score_name_what_comes_next_and_it_runs(model, capsys):
    sample = ("sample", model, "--events", 110, "--steps", 1, "--out", "new.h5")
    run(*sample)
    wrote, following = last_lines(capsys)
    assert wrote.startswith("wrote new.h5: 110 jets, in ")
    words = shlex.split(following)
    assert words[:2] == ["setflow", "score"]
    run(*words[1:], "--events", 4, "--steps", 1)
    lines = capsys.readouterr().out.splitlines()
    (told,) = (line for line in lines if line.startswith("log p of a jet: "))
    with h5py.File("new-scores.h5") as file:
        log_p = file["log_prob"][:]
    mean, error = re.match(r"log p of a jet: (\S+) ± (\S+) nats, .* of 4 of 4 rows", told).groups()
    assert float(mean) == pytest.approx(log_p.mean(), abs=float(error) / 5)
    assert float(error) == pytest.approx(log_p.std(ddof=1) / 2, rel=0.06)
    assert "0 rows could not be scored" in lines
    assert lines[-2].startswith("wrote new-scores.h5: log-densities of 4 jets")
    look = shlex.split(lines[-1].removeprefix("next: "))
    shown = subprocess.run([sys.executable, *look[1:]], capture_output=True, text=True, check=True)
    assert f"{log_p[0]:.2f}"[:4] in shown.stdout

    run("sample", model, "--like", "jets.h5", "--steps", 1, "--out", "like.h5")
    _, following = last_lines(capsys)
    words = shlex.split(following)
    assert words == ["setflow", "evaluate", "like.h5", "jets.h5", "--fast", "--out", "like-report"]
    run(*words[1:])
    wrote, following = last_lines(capsys)
    assert wrote.startswith(
        "wrote like-report: report.html, report.pdf, metrics.json and 14 pictures"
    )
    assert following == "setflow info like-report"
    run("sample", model, "--like", "jets.h5", "--steps", 1, "--out", "like.h5", "--force")
    assert last_lines(capsys)[1].endswith("--out like-report-2")  # so that it can be copied


def test_rows_that_cannot_be_scored_are_counted(model, capsys):
    with h5py.File("jets.h5", "r+") as file:
        particles = file["particle_features"][:]
        particles[2, 0, 0] = np.nan
        particles[:, :, 3][2, 0] = 1
        file["particle_features"][:] = particles
    run("score", model, "jets.h5", "--events", 5, "--steps", 1, "--out", "scores.h5")
    out = capsys.readouterr().out
    assert "4 of 5 rows" in out
    assert re.search(r"1 row could not be scored: .*etarel", out)


def test_a_data_set_is_followed_by_a_training(folder, capsys, monkeypatch):
    from setflow.data import recipes

    def make(recipe, *, events, out, **_):
        shutil.copy("jets.h5", out)
        return Path(out)

    monkeypatch.setattr(recipes, "make_dataset", make)
    run("dataset", "make", "pythia-top", "--events", "2e2", "--out", "top.h5")
    wrote, following = last_lines(capsys)
    assert wrote.startswith("wrote top.h5: 200 jets")
    assert following == "setflow fit --config top30 --data.train top.h5 --name top"
    words = shlex.split(following)
    run(*words[1:], "--trainer.max_steps", 1, "--trainer.log_every_n_steps", 1)
    assert Path("runs/top/model/manifest.json").is_file()


@pytest.mark.usefixtures("no_pictures")
def test_an_evaluation_of_a_file_with_itself_warns(folder, capsys):
    Path("same.h5").symlink_to("jets.h5")
    run("evaluate", "same.h5", "jets.h5", "--out", "report", "--events", 50)
    out, err = capsys.readouterr()
    warnings = [line for line in err.splitlines() if line.startswith("setflow: warning: ")]
    assert "the same file" in warnings[0]
    assert "50 jets on a side are fewer than 100" in warnings[1]
    assert len(warnings) == 2
    assert "same file" not in out  # once is enough


@pytest.mark.parametrize("name", ["x.root", "x.npz", "x.csv", "x", "x.h5.gz"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_hdf5_is_not_written_or_read_under_another_name(folder, capsys, name, overwrite):
    if overwrite:
        Path(name).write_text("of another kind")
    Path("m").mkdir()
    more = ("--force",) if overwrite else ()
    sampled = [("sample", "m", "--events", 3, "--out", name, *more)]
    for arguments in (
        *(sampled if "." in name else []),  # else a folder of files is meant
        ("score", "m", "jets.h5", "--out", name, *more),
        ("dataset", "make", "m", "--events", 3, "--out", name, *more),
        ("evaluate", name, "jets.h5", "--out", "report"),
        ("evaluate", "jets.h5", name, "--out", "report"),
        ("score", "m", name, "--out", "a.h5"),
        ("sample", "m", "--like", name, "--out", "a.h5"),
    ):
        message = fails(capsys, *arguments)
        assert ".h5 or .hdf5" in message, arguments
        assert name in message
    assert Path(name).exists() == overwrite
    assert not overwrite or Path(name).read_text() == "of another kind"


def test_both_names_of_hdf5_are_taken(model):
    run("sample", model, "--events", 2, "--steps", 1, "--out", "a.hdf5")
    run("score", model, "a.hdf5", "--steps", 1, "--out", "b.H5")
    assert len(read_jets("a.hdf5")) == 2


@pytest.mark.parametrize(
    ("options", "solver"),
    [
        (("--solver", "dopri5", "--rtol", "1e-3"), setflow.Dopri5(1e-3, 1e-4)),
        (("--solver", "dopri5", "--rtol", "1e-3", "--atol", 1e-2), setflow.Dopri5(1e-3, 1e-2)),
        (("--solver", "dopri5", "--atol", 1e-4, "--steps", 1e2),
         setflow.Dopri5(1e-5, 1e-4, max_nfe=602)),
        (("--solver", "heun", "--steps", "2e0"), setflow.Heun(2)),
    ],
)  # fmt: skip
def test_sample_takes_every_solver(model, options, solver):
    run("sample", model, "--events", 9, "--out", "new.h5", "--seed", 4, *options)
    expected = setflow.SetFlow.load(model).sample(9, seed=4, solver=solver)
    torch.testing.assert_close(read_jets("new.h5").particles.x, expected.x)
    with h5py.File("new.h5") as file:
        assert file.attrs["solver"] == repr(solver)


def test_a_tolerance_that_is_not_reached_is_told_in_words_of_the_shell(model, capsys):
    message = fails(
        capsys,
        "sample",
        model,
        "--events",
        9,
        "--out",
        "new.h5",
        "--solver",
        "dopri5",
        "--steps",
        1,
    )
    assert "dopri5 does not get 9 events beyond t = " in message
    assert "--solver midpoint" in message
    assert not Path("new.h5").exists()


@pytest.mark.parametrize(
    "arguments", [["doctor"], ["--help"], ["fit", "--help"], ["info", "top30"]]
)
def test_who_reads_no_further_gets_no_error(arguments):
    """As in `setflow doctor | head -1`: the status is that of a command that SIGPIPE ends.

    Python that does not buffer its output lets a parser print a help text into nothing.
    """
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "setflow.cli", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(writing, "w") as nobody:
        done = subprocess.run(
            command, stdout=nobody, stderr=subprocess.PIPE, text=True, check=False, env=buffered
        )
    status = 128 + signal.SIGPIPE
    assert (done.returncode, done.stderr) == (status, "")


def test_files_and_folders_in_the_wrong_place_are_named(folder, capsys):
    with h5py.File("scores.h5", "w") as file:
        file.attrs["data"] = "jets.h5"
        for name in ("log_prob", "objects", "reason"):  # the term of the objects is one of them
            file.create_dataset(name, data=np.zeros(3))
    said = "scores.h5 holds scores of the jets of jets.h5, as setflow score writes them, and no"
    for command in (
        ["evaluate", "scores.h5", "jets.h5", "--out", "report"],
        ["evaluate", "jets.h5", "scores.h5", "--out", "report"],
        ["score", "top30", "scores.h5", "--out", "new.h5"],
        ["sample", "top30", "--like", "scores.h5", "--out", "new.h5"],
        ["fit", "--config", "config.yaml", "--data.train", "scores.h5"],
    ):
        assert said in fails(capsys, *command)
    swapped = fails(capsys, "score", "jets.h5", "top30", "--out", "new.h5")
    assert "the model comes before the events: setflow score top30 jets.h5" in swapped
    few = fails(capsys, "sample", "top30", "--like", "jets.h5", "--events", 500, "--out", "new.h5")
    assert "jets.h5 holds 200 jets, and 500 are asked for; ask for at most 200 (--e" in few
    few = fails(capsys, "score", "top30", "jets.h5", "--events", 500, "--out", "new.h5")
    assert (
        "jets.h5 holds 200 jets, and 500 of them are to be scored; ask for at most 200 (--ev" in few
    )
    exists = fails(capsys, "sample", "top30", "--events", 1, "--out", "jets.h5")
    assert "or overwrite it with --force\n" in exists
