"""`setflow dataset convert`, and what other commands say of a file that is to be converted."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cli.shell import fails, run, write_jets
from data.formats.written import FLAGS, GENERIC, HERE, WRITTEN, hdf5
from setflow.cli.arguments import FORMATS
from setflow.data import EventWriter, read_events, read_header
from setflow.data.formats.named import FORMATS as NAMED
from setflow.schema import Feature, Schema
from setflow.sets.batch import SetBatch

MAPPING = """
arrays: {x: [a, b, c, d, e]}
objects:
  a: a
  b: {value: 1000 * b, unit: MeV}
  kind: {value: type - 1, kind: "category(one, two, three)"}
mask: {field: mask}
weight: 2
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_shell_knows_the_formats():
    assert FORMATS == NAMED


def test_a_mapping_of_ones_own(capsys):
    WRITTEN["types"](Path("theirs.h5"))
    Path("map.yaml").write_text(MAPPING)
    convert = ("dataset", "convert", "theirs.h5", "--format", "custom", "--mapping", "map.yaml")
    run(*convert, "--out", "ours.h5")
    printed = capsys.readouterr().out
    assert "wrote ours.h5: 120 events" in printed
    assert "next: setflow info ours.h5" in printed
    events = read_events("ours.h5", features=["a", "b"], weight="weight")
    assert events.schema.object("b").unit == "GeV"
    np.testing.assert_allclose(
        events.objects.x.numpy()[events.objects.mask.numpy()], GENERIC[FLAGS][:, :2], rtol=1e-6
    )
    assert events.objects.weight.tolist() == [2.0] * 120
    assert "ours.h5 exists" in fails(capsys, *convert, "--out", "ours.h5")
    run(*convert, "--out", "ours.h5", "--force")
    Path("map.yaml").write_text(MAPPING.replace("1000 * b", "1000 * bb"))
    error = fails(capsys, *convert, "--out", "b.h5")
    assert "there is no 'bb'" in error
    assert "did you mean 'b'?" in error
    Path("map.yaml").write_text("a: [")
    assert "map.yaml is no YAML" in fails(capsys, *convert, "--out", "b.h5")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--format", "jetnett", "--out", "b.h5"], "did you mean jetnet?"),
        (["--format", "jetnet", "--out", "b.txt"], "ends in .h5 or .hdf5, .root or .parquet"),
        (
            ["--format", "jetnet", "--columns", "a", "--out", "b.h5"],
            "--columns belongs to",
        ),
        (["--shape", "3,4", "--out", "b.h5"], "not to files that need no format"),
        (["--format", "custom", "--out", "b.h5"], "needs a mapping, --mapping FILE.yaml"),
        (
            ["--format", "calo", "--voxels", "v", "--shape", "3", "--out", "b.h5"],
            "give one of them",
        ),
        (["--format", "calo", "--shape", "3,x", "--out", "b.h5"], "'x' is no whole number"),
        (
            ["--format", "custom", "--mapping", "no.yaml", "--out", "b.h5"],
            "--mapping: no.yaml does not exist, expected a YAML file; check the path",
        ),
        (
            ["--format", "calo", "--voxels", ".", "--out", "b.h5"],
            "--voxels: . is a folder, expected a table of text or .npy; check the path",
        ),
        (["--out", "b.h5"], "setflow dataset convert jets.h5 --format omnilearn --out jets-conv"),
    ],
)
def test_what_cannot_be_is_told(arguments, told, capsys):
    WRITTEN["omnilearn"](Path("jets.h5"))
    assert told in fails(capsys, "dataset", "convert", "jets.h5", *arguments)
    assert "does not exist" in fails(capsys, "dataset", "convert", "no.h5", "--out", "b.h5")


ALIENS = {  # what a file holds, the name that it has, and the format that is proposed
    "root": ("jetclass.root", "jetclass.root", "jetclass"),
    "root named h5": ("jetclass.root", "jets.h5", "jetclass"),
    "parquet": ("jetclass.parquet", "jets.parquet", "jetclass"),
    "pandas": ("toptag", "jets.h5", "toptag"),
    "npz": ("energyflow", None, "energyflow"),
    "npy": ("mpgan", None, "npy"),
    "omnilearn": ("omnilearn", "jets.h5", "omnilearn"),
    "ftag": ("ftag", "jets.hdf5", "ftag"),
    "lhco": ("lhco", "jets.h5", "lhco"),
    "calo": ("calo", "jets.h5", "calo"),
    "offsets": ("offsets", "jets.h5", "ragged"),
    "generic": ("generic", "jets.h5", "npy"),
    "vlen": ("vlen", "jets.h5", "jetnet"),
    "mask": ("int_mask", "jets.h5", "jetnet"),
}


@pytest.mark.parametrize("case", ALIENS)
def test_a_file_of_another_kind_is_met_with_what_converts_it(case, capsys):
    layout, name, kind = ALIENS[case]
    written = WRITTEN[layout](Path("made.h5"))
    if name is not None:
        shutil.copy(written, name)
    path = name or str(written.relative_to(Path.cwd()) if written.is_absolute() else written)
    told = re.compile(rf"setflow dataset convert {re.escape(path)} --format {kind} .*--out (\S+)")
    commands = [
        ("score", "top30", path, "--out", "s.h5"),
        ("evaluate", path, "pythia-top/heldout.h5", "--out", "report"),
        ("sample", "top30", "--like", path, "--out", "s.h5"),
        ("info", path),
    ]
    if case in ("root", "pandas", "vlen"):
        commands.append(("fit", "--config", "demo", "--data.train", path, "--name", "a"))
    for command in commands:
        error = fails(capsys, *command)
        found = told.search(error)
        assert found is not None, (command, error)
        assert not Path(found[1]).exists()
    if "NAME" not in found[0] and "FILE" not in found[0]:  # the command works as it stands
        run(*shlex.split(found[0])[1:])
        assert read_header(found[1]).n == 120


def test_other_marks_are_not_ours(capsys):
    path = WRITTEN["jetnet"](Path("jets.h5"))
    with h5py.File(path, "a") as file:
        file.attrs["layout_version"], file.attrs["format"] = "2024-b", "hdf5"
    assert read_header(path).n == 120
    # without jets nothing that is there is to be renamed
    hdf5(Path("a.h5"), {"jet_features": np.ones((3, 4)), "weights": np.ones(3)})
    error = fails(capsys, "info", "a.h5")
    assert "Rename" not in error
    assert "--format custom --mapping FILE.yaml" in error


def test_what_no_command_converts_is_named(capsys):
    Path("a.h5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    assert "a.h5 is a pointer of Git LFS, not the file itself" in fails(capsys, "info", "a.h5")
    assert (HERE / "truth.npz").exists()


@pytest.mark.parametrize("ending", ["root", "parquet"])
@pytest.mark.parametrize("jets", [True, False])
def test_what_a_conversion_wrote_is_told_by_which_mapping_it_is_read_back(ending, jets, capsys):
    if jets:
        write_jets(Path("a.h5"), 20)
    else:
        schema = Schema([Feature("x"), Feature("y")], [Feature("radius")])
        with EventWriter("a.h5", schema, objects=4) as writer:
            x, mask = torch.rand(9, 4, 2), torch.arange(4) < torch.randint(1, 5, (9, 1))
            writer.write(SetBatch(x, mask), torch.rand(9, 1))
    run("dataset", "convert", "a.h5", "--out", f"b.{ending}")
    error = fails(capsys, "dataset", "convert", f"b.{ending}", "--out", "c.h5")
    told = ("--format", "jetclass", "--out", "c.h5")  # as errors of other commands say
    assert fails(capsys, "dataset", "convert", f"b.{ending}", *told) == error
    met = fails(capsys, "sample", "top30", "--like", f"b.{ending}", "--out", "s.h5")
    assert (
        f"(of one that setflow wrote it tells the mapping): setflow dataset convert b.{ending}"
        in met
    )
    found = re.search(r"by a mapping: setflow (.*), where FILE.yaml holds (\{.*\}), with", error)
    assert found, error
    Path("FILE.yaml").write_text(found[2])
    run(*shlex.split(found[1]))
    samples = [read_events(path) for path in ("a.h5", "b.h5")]
    for one, other in zip(*(sample.objects.to_ragged() for sample in samples), strict=True):
        assert torch.equal(one, other)


def test_what_is_converted_tells_the_model_that_made_it():
    """A sample stays one, of known weights, of which a report can be promoted."""
    write_jets(Path("plain.h5"), 20)
    weights = {"weights_sha256": "ab" * 32, "solver": "Midpoint(steps=2)", "seed": 3}
    for name, more in (("a.h5", {"like": "x.h5"}), ("b.h5", {"like": "y.h5"})):
        with h5py.File("plain.h5") as plain, h5py.File(name, "w") as file:
            for key in plain:
                plain.copy(key, file)
            file.attrs.update({**plain.attrs, **weights, **more, "manifest": "{}"})
    for arguments in ((), ("--format", "jetnet")):
        run("dataset", "convert", "a.h5", *arguments, "--out", "one.h5", "--force")
        told = read_header("one.h5").attributes
        assert {key: told[key] for key in weights} == weights
        assert told["like"] == "x.h5"
        assert told["converted_from"] == "a.h5"
        with h5py.File("one.h5") as file:
            assert "manifest" not in file.attrs
    run("dataset", "convert", "a.h5", "b.h5", "--out", "both.h5")
    told = read_header("both.h5").attributes
    assert {key: told[key] for key in weights} == weights
    assert "like" not in told
    run("dataset", "convert", "a.h5", "plain.h5", "--out", "mixed.h5")
    assert not {*weights} & {*read_header("mixed.h5").attributes}


def test_a_class_without_a_name_is_an_error(capsys):
    write_jets(Path("a.h5"), 20)
    error = fails(capsys, "dataset", "convert", "=a.h5", "--out", "b.h5")
    assert "=a.h5 has no class in front of =; write CLASS=a.h5" in error
