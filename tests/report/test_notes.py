"""What speaks against a comparison is told: the same file, shared jets, few jets."""

from __future__ import annotations

import io
import json
import shutil

import h5py
import pytest
import torch
from rich.console import Console

from setflow import SetBatch
from setflow.data import JetWriter
from setflow.physics import jet_features
from setflow.report import figures
from setflow.report.page import compare, evaluate


def jets(n: int, seed: int, slots: int = 6) -> SetBatch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, slots, 3, generator=generator) + 0.01
    return SetBatch(x, torch.rand(n, slots, generator=generator) < 0.8)


def write(path, sample):
    with JetWriter(path, objects=sample.mask.shape[1]) as writer:
        writer.write(sample, jet_features(sample.x, sample.mask))
    return path


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(figures, "draw_jets", lambda *_, **__: {})


@pytest.mark.parametrize("how", ["path", "symlink", "copy", "hard link"])
def test_a_file_beside_itself(tmp_path, how):
    file = write(tmp_path / "jets.h5", jets(120, 1))
    other = tmp_path / "other.h5"
    make = {"symlink": other.symlink_to, "hard link": other.hardlink_to}.get(how)
    if make is not None:
        make(file)
    elif how == "copy":
        shutil.copy(file, other)
    report = evaluate(file, file if how == "path" else other, tmp_path / "report", pairs=2)
    assert len(report.notes) == 1
    assert "the same file" in report.notes[0]
    assert json.loads((tmp_path / "report/metrics.json").read_text())["notes"] == [*report.notes]
    console = Console(width=80, file=io.StringIO())
    console.print(report.table())
    assert "note: generated and reference are the same file" in console.file.getvalue()


def test_files_that_differ_have_no_note(tmp_path):
    files = [write(tmp_path / f"{seed}.h5", jets(120, seed)) for seed in (1, 2)]
    assert evaluate(*files, tmp_path / "report", pairs=2).notes == ()


def test_shared_jets_are_counted_whatever_their_place_order_and_padding():
    generated, reference = jets(150, 1), jets(150, 2)
    taken = reference[40:47]
    turned = SetBatch(taken.x.flip(1), taken.mask.flip(1))
    padded = torch.nn.functional.pad(turned.x, (0, 0, 3, 0), value=9.0)
    mask = torch.nn.functional.pad(turned.mask, (3, 0))
    wide = torch.nn.functional.pad(generated.x, (0, 0, 0, 3))
    x = torch.cat([padded, wide])
    mask = torch.cat([mask, torch.nn.functional.pad(generated.mask, (0, 3))])
    countable = int((taken.lengths > 1).sum())
    (note,) = compare(SetBatch(x, mask), reference, pairs=2).notes
    assert note.startswith(f"{countable} of 157 generated jets stand in the reference too")


def test_jets_of_one_particle_are_alike_and_say_nothing():
    one = SetBatch(torch.tensor([[[0.0, 0.0, 1.0]]]).repeat(3, 6, 1), torch.eye(6)[:3] > 0)
    sides = [
        SetBatch(torch.cat([side.x, one.x]), torch.cat([side.mask, one.mask]))
        for side in (jets(120, 1), jets(120, 2))
    ]
    assert compare(*sides, pairs=2).notes == ()


@pytest.mark.parametrize(("n", "m", "few"), [(99, 200, 99), (200, 30, 30), (100, 100, None)])
def test_few_jets_are_called_few(n, m, few):
    notes = compare(jets(n, 1), jets(m, 2), pairs=2).notes
    assert [f"{few} jets on a side are fewer than 100" in note for note in notes] == [True] * (
        few is not None
    )


def test_sides_that_were_swapped_are_noticed(tmp_path):
    """The file of the reference says that a model has sampled it."""
    true, sampled = (write(tmp_path / f"{seed}.h5", jets(120, seed)) for seed in (1, 2))
    with h5py.File(sampled, "r+") as file:
        file.attrs["weights_sha256"] = "0123"
    assert evaluate(sampled, true, tmp_path / "report", pairs=2).notes == ()
    swapped = evaluate(true, sampled, tmp_path / "swapped", pairs=2)
    assert [note.partition(",")[0] for note in swapped.notes] == [
        "the reference was sampled by a model"
    ]
    assert swapped.to_dict()["reference"]["weights_sha256"] == "0123"


def test_one_jet_is_one_jet():
    assert compare(jets(1, 1), jets(200, 2), pairs=2).notes[0].startswith("1 jet on a side")
