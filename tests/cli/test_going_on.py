"""Long commands in a queue: signals, parts, full disks, and the same command once more."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
import torch

import setflow
from cli.shell import fails, run, write_jets
from each import each
from setflow.cli.parsing import part_of_run
from setflow.data import Standardizer
from setflow.jobs import pieces
from setflow.jobs.pieces import written_in
from setflow.jobs.score import rows_in


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder with a model and jets."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    scaler = Standardizer(3, mean=[0, 0, 0.5], std=[0.1, 0.1, 0.05])
    cardinality = setflow.EmpiricalCardinality(counts=[0, 1, 1, 2])
    setflow.SetFlow(field, scaler=scaler, cardinality=cardinality).eval().save("model")
    write_jets(Path("jets.h5"), jets=40, slots=3)
    return tmp_path


def started(*arguments: str) -> subprocess.Popen[str]:
    code = (
        "import sys\nfrom setflow.jobs import sample, score, pieces\nfrom setflow.cli import main\n"
        "sample._BLOCK, pieces._SECONDS, score.BLOCK_ROWS['cpu'] = 8, 0.0, 1\n"
        f"main({[str(argument) for argument in arguments]!r})\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], text=True, stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["sample", "score"])
def test_a_signal_is_told_in_one_line_and_the_same_command_goes_on(tiny, command, number):
    arguments = ["sample", "model", "--events", "100000", "--steps", "20", "--out", "a.h5"]
    done = written_in
    if command == "score":
        write_jets(Path("many.h5"), jets=20_000, slots=3)
        arguments = ["score", "model", "many.h5", "--steps", "20", "--out", "a.h5"]
        done = rows_in
    process = started(*arguments)
    while not done(Path("a.h5")):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == 128 + number, said
    (line,) = [line for line in said.splitlines() if "outside" not in line]
    what = "events" if command == "sample" else "rows"
    name = signal.Signals(number).name
    assert line.startswith(f"setflow: stopped by {name}; ")
    assert f"{what} are written in a.h5.part; go on with: setflow {' '.join(arguments)}" in line
    assert int(line.split("; ")[1].split()[0].replace(",", "")) > 0
    assert not Path("a.h5").exists()


def test_the_same_command_once_more_finds_its_output(tiny, capsys):
    for arguments in (
        ("sample", "model", "--events", 8, "--steps", 1, "--out", "a.h5"),
        ("sample", "model", "--events", 8, "--steps", 1, "--out", "folder"),
        ("score", "model", "jets.h5", "--steps", 1, "--out", "s.h5"),
    ):
        run(*arguments)
        assert "wrote " in capsys.readouterr().out
        run(*arguments)
        assert "is written already: " in capsys.readouterr().out
        message = fails(capsys, *arguments, "--seed", 1)
        assert "was made otherwise: seed was 0, is 1" in message
        assert "--force" in message
        run(*arguments, "--seed", 1, "--force")
        assert "wrote " in capsys.readouterr().out


def test_a_second_writer_is_refused_in_one_line(tiny, capsys):
    arguments = ("sample", "model", "--events", 100_000, "--steps", 20, "--out", "a.h5")
    process = started(*arguments)
    while not list(Path().glob("a.h5.part/0*")):
        time.sleep(0.01)
        assert process.poll() is None
    begun = time.monotonic()
    assert "a.h5.part is in use by another process" in fails(capsys, *arguments)
    assert time.monotonic() - begun < 10
    process.kill()
    process.communicate()


def test_parts_are_named_and_put_together(tiny, capsys, monkeypatch):
    monkeypatch.setattr(pieces, "SHARD", 2048)
    options = ("--steps", 1, "--events", 11)
    run("sample", "model", *options, "--out", "whole.h5")
    for k in range(3):
        run("sample", "model", *options, "--out", "a.h5", "--part", f"{k}/3")
        assert f"next: setflow dataset check a-{k}-of-3.h5" in capsys.readouterr().out
    assert sorted(path.name for path in Path().glob("a*")) == [f"a-{k}-of-3.h5" for k in range(3)]
    run("dataset", "merge", *Path().glob("a-*.h5"), "--out", "a.h5")
    assert "wrote a.h5: the events of 3 files" in capsys.readouterr().out
    with h5py.File("a.h5") as one, h5py.File("whole.h5") as other:
        assert one["particle_features"].shape == other["particle_features"].shape
        assert abs(one["particle_features"][:] - other["particle_features"][:]).max() < 1e-5
    for k in range(2):
        run("score", "model", "jets.h5", "--steps", 1, "--out", "s.h5", "--part", f"{k}/2")
    run("dataset", "merge", "s-0-of-2.h5", "s-1-of-2.h5", "--virtual", "--out", "s.h5")
    with h5py.File("s.h5") as file:
        assert len(file["log_prob"]) == 40
    message = fails(capsys, "dataset", "merge", "s-0-of-2.h5", "--out", "t.h5")
    assert "the events from 20 to 40 are in none of the files" in message


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_of_a_sample_is_known_by_what_reads_files(tiny, capsys):
    run("sample", "model", "--steps", 1, "--events", 4, "--out", "a", "--part", "1/2")
    assert "next: setflow dataset check a-1-of-2" in capsys.readouterr().out
    run("info", "a-1-of-2")  # a part of a run cannot be merged alone, and can be checked
    out = capsys.readouterr().out
    assert "a-1-of-2, the events from 2 to 4 of a run, in a file" in out
    assert "next: setflow dataset check a-1-of-2" in out
    run("sample", "model", "--steps", 1, "--events", 4, "--out", "whole folder")
    capsys.readouterr()
    advice = "setflow dataset merge 'whole folder' --out 'whole folder.h5'"
    for command in (
        ("evaluate", "whole folder", "jets.h5", "--out", "report"),
        ("score", "model", "whole folder", "--out", "s.h5"),
        ("sample", "model", "--like", "whole folder", "--out", "b.h5"),
        ("dataset", "split", "whole folder", "--out", "c.h5", "d.h5", "--fractions", "0.5,0.5"),
    ):
        told = fails(capsys, *command)
        assert f"expected an HDF5 file of events; make one of its files: {advice}" in told
    run(*shlex.split(advice)[1:])
    assert "name one" in fails(capsys, "score", "model", "model", "--out", "s.h5")
    run("info", "model")
    assert "model, a SetFlow" in capsys.readouterr().out


def test_which_part_is_told_by_a_job_array(monkeypatch):
    assert part_of_run("0/1") == (0, 1)
    for task, expected in ((5, (0, 3)), (9, (2, 3))):
        for name, value in (("ID", task), ("MIN", 5), ("MAX", 9), ("STEP", 2)):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        assert part_of_run("slurm") == expected


@each("text", ["3/3", "-1/3", "a/3", "3", "1/0", "1/2/3"])
def test_what_is_no_part_is_told_at_once(text, tiny, capsys):
    message = fails(capsys, "sample", "model", "--events", 3, "--out", "a.h5", f"--part={text}")
    assert "is no part of a run, expected K/M with K from 0 to M - 1" in message


def test_without_a_job_array_there_is_no_part_of_it(tiny, capsys, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    message = fails(capsys, "sample", "model", "--events", 3, "--out", "a.h5", "--part", "slurm")
    assert "slurm asks for SLURM_ARRAY_TASK_ID" in message


def test_outputs_that_cannot_be_are_refused_before_the_work(tiny, capsys, monkeypatch):
    monkeypatch.setattr(setflow.SetFlow, "load", pytest.fail)
    Path("foreign").mkdir()
    Path("foreign/text").touch()
    for command in (("sample", "model", "--events", 3), ("score", "model", "jets.h5")):
        for out, told in (
            ("/proc/a.h5", "no file can be made in the folder /proc"),
            ("/dev/null/a.h5", "is a file, expected a folder"),
            ("nowhere/a.h5", "there is no folder nowhere"),
            ("a.txt", "is not named like an HDF5 file"),
        ):
            assert told in fails(capsys, *command, "--out", out, "--force"), (command, out)
    assert os.listdir("foreign") == ["text"]


def test_a_folder_that_is_not_ours_is_not_replaced(tiny, capsys, monkeypatch):
    monkeypatch.setattr(setflow.SetFlow, "sample", pytest.fail)
    message = fails(capsys, "sample", "model", "--events", 3, "--out", "model", "--force")
    assert "model is not a folder that this command made" in message
    assert sorted(os.listdir("model")) == [
        "README.md", "config.yaml", "manifest.json", "weights.safetensors"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_what_is_no_part_of_ours_is_told_in_one_line_and_stays(tiny, capsys, kind):
    part = Path("a.h5.part")
    part.write_text("mine") if kind == "file" else os.mkfifo(part)
    message = fails(capsys, "sample", "model", "--events", "8", "--steps", "2", "--out", "a.h5")
    assert "a.h5.part is not a folder that this command made" in message
    told = fails(capsys, "score", "model", "jets.h5", "--steps", "2", "--out", "a.h5")
    assert "a.h5.part cannot be continued, it is damaged" in told
    assert message.count("\n") == told.count("\n") == 1
    assert part.exists()


def test_progress_comes_as_json(tiny, capsys):
    run("sample", "model", "--events", 8, "--steps", 1, "--out", "a.h5", "--progress", "json")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert json.loads(lines[-1]).items() >= {"doing": "sampling", "done": 8, "total": 8}.items()
    run("score", "model", "a.h5", "--steps", 1, "--out", "s.h5", "--progress", "none")
    assert capsys.readouterr().out.startswith("log p of a jet")
