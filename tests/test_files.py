"""Everything that writes an output goes by one protocol: it appears whole, or not at all."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml

import setflow
from setflow.data import JetWriter, Standardizer, recipes
from setflow.data.reader import EventReader
from setflow.files import (
    NewFile,
    NewFolder,
    check_hdf5_name,
    check_target,
    require_single_keys,
    write_text,
)
from setflow.jobs import sample, sampled, score
from setflow.report import document, page
from setflow.sets.batch import SetBatch

ROOT = Path(__file__).resolve().parents[1]
JETS = ROOT / "datasets/pythia-top/heldout.h5"
Hook = Callable[[], object]


# --- the writers: each calls `hook` when some of its output is written ---


def flow() -> setflow.SetFlow:
    torch.manual_seed(0)
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    scaler, cardinality = (
        Standardizer(3, mean=[0, 0, 0.5], std=[1, 0.3, 0.05]),
        setflow.EmpiricalCardinality(counts=[1] * 5),
    )
    return setflow.SetFlow(field, scaler=scaler, cardinality=cardinality)


def a_file(target: Path, overwrite: bool, hook: Hook) -> None:
    with NewFile(target, overwrite=overwrite) as part:
        part.write_text("half")
        hook()


def a_folder(target: Path, overwrite: bool, hook: Hook) -> None:
    with NewFolder(target, overwrite=overwrite, marker="marker") as part:
        (part / "marker").touch()
        hook()
        (part / "more").mkdir()
        (part / "more" / "text").write_text("whole")


def jets(target: Path, overwrite: bool, hook: Hook) -> None:
    with JetWriter(target, objects=5, overwrite=overwrite) as writer:
        writer.write(SetBatch(torch.rand(3, 5, 3), torch.ones(3, 5)), torch.full((3, 4), 5.0))
        hook()


def model(target: Path, overwrite: bool, hook: Hook) -> None:
    import safetensors.torch

    save = safetensors.torch.save
    with patch("safetensors.torch.save", lambda tensors: (save(tensors), hook())[0]):
        flow().save(target, overwrite=overwrite)


def samples(target: Path, overwrite: bool, hook: Hook) -> None:
    features = sampled.jet_features
    with patch.object(sampled, "jet_features", lambda *a: (features(*a), hook())[0]):
        sample.sample_to_hdf5(
            flow(), target, events=3, solver=setflow.Euler(1), overwrite=overwrite, progress=False
        )


def report(target: Path, overwrite: bool, hook: Hook) -> None:
    def write_document(folder: Path, *_: object) -> list[str]:
        (folder / "half.png").write_bytes(b"half")
        hook()
        return ["half.png"]

    with patch.object(document, "write_document", write_document):
        page.evaluate(JETS, JETS, target, events=20, pairs=2, overwrite=overwrite)


def dataset(target: Path, overwrite: bool, hook: Hook) -> None:
    def make_block(recipe: recipes.Recipe, *_: object) -> dict[str, np.ndarray]:
        hook()
        x, types = np.ones((1, recipe.objects, 3), "f4"), np.ones((1, recipe.objects), "i1")
        jets = np.full((1, 4), recipe.objects, "f4")
        return {"x": x, "types": types, "jets": jets, "events": np.zeros(1, int)}

    versions = patch.object(recipes, "_versions", lambda _: {})
    with patch.object(recipes, "make_block", make_block), versions:
        recipes.make_dataset(
            ROOT / "datasets/pythia-top", events=1, out=target, overwrite=overwrite, progress=False
        )


def scores(target: Path, overwrite: bool, hook: Hook) -> None:
    ordinary, blocks = EventReader.screen, iter(range(10))

    def screen(*arguments: Any, **options: Any) -> Any:
        if next(blocks):
            hook()
        return ordinary(*arguments, **options)

    with (
        patch.dict(score.BLOCK_ROWS, cpu=2),
        patch.object(EventReader, "screen", screen),
    ):
        score.score_to_hdf5(
            flow(), JETS, target, events=4, solver=setflow.Euler(1), overwrite=overwrite,
            progress=False,
        )  # fmt: skip


WRITERS = {
    write.__name__: write
    for write in (a_file, a_folder, jets, model, samples, report, dataset, scores)
}
FOLDERS = {"a_folder": "marker", "model": "manifest.json", "report": "metrics.json"}
CONTINUED = {"scores"}  # a failure keeps what is done
LEFT = {  # what is kept stands in sight
    "samples": ["out.h5.part"],
    "scores": ["out.h5.part"],
    "dataset": [".out.h5.part", "out.h5.part"],
}


@pytest.fixture(params=WRITERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def old(target: Path, name: str) -> None:
    """Make an output that stands there already."""
    if name in FOLDERS:
        target.mkdir()
        (target / FOLDERS[name]).write_text("old")
    else:
        target.write_text("old")


def is_old(target: Path, name: str) -> bool:
    path = target / FOLDERS[name] if name in FOLDERS else target
    return path.read_bytes() == b"old"


def left(name: str) -> list[str]:
    return LEFT.get(name, [".out.h5.part"])


def held(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def never() -> None:
    pytest.fail("it worked before it looked")


# --- the contract ---


def test_the_output_appears_at_the_end(tmp_path: Path, name: str) -> None:
    target = tmp_path / "out.h5"

    def looks() -> None:
        assert held(tmp_path) == left(name)

    WRITERS[name](target, False, looks)
    assert held(tmp_path) == ["out.h5"]
    assert not [path for path in tmp_path.rglob("*") if "part" in path.name]


def test_an_output_that_exists_is_refused_at_once(tmp_path: Path, name: str) -> None:
    target = tmp_path / "out.h5"
    old(target, name)
    with pytest.raises(FileExistsError, match=r"exists already; .* overwrite=True$"):
        WRITERS[name](target, False, never)
    assert is_old(target, name)
    assert held(tmp_path) == ["out.h5"]


def test_an_output_is_replaced_at_the_end(tmp_path: Path, name: str) -> None:
    target = tmp_path / "out.h5"
    old(target, name)
    seen = []
    WRITERS[name](target, True, lambda: seen.append(is_old(target, name)))
    assert seen == [True]
    assert not is_old(target, name)
    assert held(tmp_path) == ["out.h5"]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_output(
    tmp_path: Path, name: str, error: type[BaseException], exists: bool
) -> None:
    target = tmp_path / "out.h5"
    if exists:
        old(target, name)

    def fails() -> None:
        raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        WRITERS[name](target, exists, fails)
    assert held(tmp_path) == (["out.h5"] if exists else []) + left(name) * (name in CONTINUED)
    assert not exists or is_old(target, name)


@pytest.mark.parametrize("when", ["os.fsync", "os.replace"])
def test_a_failure_at_the_end_leaves_the_old_output(tmp_path: Path, name: str, when: str) -> None:
    target = tmp_path / "out.h5"
    old(target, name)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    when = "pathlib.Path.rename" if name in FOLDERS and when == "os.replace" else when
    with patch(when, fail), pytest.raises(OSError, match="no space left"):
        WRITERS[name](target, True, lambda: None)
    assert is_old(target, name)
    kept = name in CONTINUED and (tmp_path / "out.h5.part").exists()
    assert held(tmp_path) == ["out.h5"] + ["out.h5.part"] * kept


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path, name: str) -> None:
    target = tmp_path / "out.h5"
    with pytest.raises(FileExistsError, match="exists already"):
        WRITERS[name](target, False, lambda: old(target, name))
    assert is_old(target, name)


def test_a_folder_that_does_not_exist_is_named_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"there is no folder .*nowhere to write out\.h5 to"
    ):
        WRITERS[name](tmp_path / "nowhere" / "out.h5", False, never)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file, expected a folder"):
        WRITERS[name](tmp_path / "file" / "out.h5", False, never)
    assert held(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_written_to_is_named_at_once(tmp_path: Path, name: str) -> None:
    if os.geteuid():
        tmp_path.chmod(0o500)
        access = os.access
    else:  # root may write anywhere
        access = lambda path, mode: not mode & os.W_OK  # noqa: E731
    with (
        patch("os.access", access),
        pytest.raises(PermissionError, match=f"{tmp_path} cannot be written to; change its"),
    ):
        WRITERS[name](tmp_path / "out.h5", False, never)
    tmp_path.chmod(0o700)
    assert held(tmp_path) == []


def test_two_writers_of_one_output_do_not_mix(tmp_path: Path, name: str) -> None:
    target = tmp_path / "out.h5"

    def another() -> None:
        with pytest.raises(BlockingIOError, match="part is in use by another process; wait"):
            WRITERS[name](target, True, never)
        assert held(tmp_path) == left(name)

    WRITERS[name](target, False, another)
    assert held(tmp_path) == ["out.h5"]


def test_without_locks_the_first_writer_finds_that_its_part_is_gone(
    tmp_path: Path, name: str
) -> None:
    """As on a network file system: the second takes over, and the first must not publish."""
    target = tmp_path / "out.h5"

    def fails(*_: object) -> None:
        raise OSError("no locks here")

    def another() -> None:
        with suppress(RuntimeError):
            WRITERS[name](target, True, stop)

    def stop() -> None:
        raise RuntimeError("in the middle")

    told = r"in use by another|No such"
    if name == "scores":  # the second goes on with the same work, and ends it
        told = "exists already"
    with patch("fcntl.flock", fails), pytest.raises(OSError, match=told):
        WRITERS[name](target, False, another)
    assert target.exists() == (name == "scores")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_files as t
for name, write in t.WRITERS.items():
    for exists in (False, True):
        folder = Path({folder!r}) / f"{{name}} {{exists}}"
        folder.mkdir()
        if exists:
            t.old(folder / "out.h5", name)
        if os.fork():
            os.wait()
        else:
            write(folder / "out.h5", exists, lambda: os.kill(os.getpid(), signal.SIGKILL))
            os._exit(1)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each writer, with and without an old output, that was killed at its work."""
    folder = tmp_path_factory.mktemp("killed")
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return folder


@pytest.mark.parametrize("exists", [False, True])
def test_a_kill_leaves_no_half_output(killed: Path, name: str, exists: bool) -> None:
    folder = killed / f"{name} {exists}"
    target = folder / "out.h5"
    assert held(folder) == sorted(["out.h5"] * exists + left(name))
    assert not exists or is_old(target, name)
    torch.set_default_dtype(torch.float32)  # as the process had it
    WRITERS[name](target, exists, lambda: None)
    assert held(folder) == ["out.h5"]
    assert not is_old(target, name)


def test_a_kill_between_the_renames_of_a_folder_loses_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out.h5"
    old(target, "model")
    code = (
        "import os, pathlib, sys, signal\n"
        "from setflow.files import NewFolder\n"
        "rename = pathlib.Path.rename\n"
        "def once(*a): rename(*a); os.kill(os.getpid(), signal.SIGKILL)\n"
        "pathlib.Path.rename = once\n"
        f"with NewFolder({str(target)!r}, overwrite=True, marker='manifest.json') as new: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    with NewFolder(target, overwrite=True, marker="manifest.json") as new:
        assert is_old(target, "model")
        (new / "manifest.json").write_text("new")
    assert held(target) == ["manifest.json"]
    assert not is_old(target, "model")
    assert held(tmp_path) == ["out.h5"]


# --- the kinds ---


def test_a_folder_of_another_kind_is_never_replaced(tmp_path: Path) -> None:
    foreign, file, empty = (tmp_path / name for name in ("foreign", "file", "empty"))
    foreign.mkdir()
    (foreign / "work").touch()
    file.touch()
    for target in (foreign, file):
        with pytest.raises(FileExistsError, match="not replaced"):
            NewFolder(target, overwrite=True, marker="marker")
    with pytest.raises(IsADirectoryError, match="is a folder, expected the name of a file"):
        NewFile(foreign, overwrite=True)
    assert held(foreign) == ["work"]
    empty.mkdir()
    with NewFolder(empty, overwrite=True, marker="marker") as new:
        (new / "marker").touch()
    assert held(empty) == ["marker"]


def test_a_link_to_nothing_counts_as_an_output(tmp_path: Path) -> None:
    (tmp_path / "out.h5").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        check_target(tmp_path / "out.h5", overwrite=False)


def test_a_text_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for text in ("one\n", "η and φ\n"):
        write_text(tmp_path / "notes.md", text)
        assert (tmp_path / "notes.md").read_text(encoding="utf-8") == text
    assert held(tmp_path) == ["notes.md"]


# --- what can be continued ---


def counted(target: Path, stop: int, *, overwrite: bool = False) -> None:
    """Write the numbers below 4, one a line, and fail before `stop`."""
    output = NewFile(target, overwrite=overwrite, begin=lambda part: part.write_text("") and None)
    with output as part:
        done = len(part.read_text().split())
        output.keep = done > 0
        for number in range(done, 4):
            if number == stop:
                raise RuntimeError("in the middle")
            with part.open("a") as file:
                file.write(f"{number}\n")
            output.keep = True


def test_a_part_is_continued(tmp_path: Path) -> None:
    target, part = tmp_path / "out.h5", tmp_path / "out.h5.part"
    with pytest.raises(RuntimeError):
        counted(target, 0)
    assert held(tmp_path) == [], "nothing is lost"
    for stop, lines in ((2, "0\n1\n"), (2, "0\n1\n"), (3, "0\n1\n2\n")):
        with pytest.raises(RuntimeError):
            counted(target, stop)
        assert held(tmp_path) == ["out.h5.part"]
        assert part.read_text() == lines
    counted(target, -1)
    assert target.read_text() == "0\n1\n2\n3\n"
    assert held(tmp_path) == ["out.h5"]


def test_to_overwrite_is_to_begin_anew(tmp_path: Path) -> None:
    target, part = tmp_path / "out.h5", tmp_path / "out.h5.part"
    with pytest.raises(RuntimeError):
        counted(target, 3)
    part.write_text("of somebody else\n")
    counted(target, -1, overwrite=True)
    assert target.read_text() == "0\n1\n2\n3\n"


def test_a_beginning_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def begin(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError), NewFile(tmp_path / "out.h5", begin=begin):
        pass
    assert held(tmp_path) == []


def test_a_part_that_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        counted(tmp_path / "out.h5", 2)
    with (tmp_path / "out.h5.part").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for overwrite in (False, True):
            with pytest.raises(
                BlockingIOError, match=r"out\.h5\.part is in use by another process"
            ):
                counted(tmp_path / "out.h5", -1, overwrite=overwrite)
    assert held(tmp_path) == ["out.h5.part"]


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: 2\na: 3",
        "a: {x: 1, x: 2}",
        "- {b: 1}\n- {c: 1, c: 1}",
        "a:\n  b:\n    - 1\na:\n  c: 2",
    ],
)
def test_a_key_that_stands_twice_is_named(text):
    with pytest.raises(yaml.YAMLError, match=r"the key '\w' stands twice, in lines \d and \d"):
        require_single_keys(text)


@pytest.mark.parametrize("text", ["", "a", "[1, 1]", "a: {x: 1}\nb: {x: 1}", "[{a: 1}, {a: 1}]"])
def test_keys_of_different_places_may_be_equal(text):
    require_single_keys(text)


def test_the_name_of_another_kind_of_file_is_told_what_makes_it():
    for name in ("a.root", "my jets.parquet"):
        with pytest.raises(ValueError, match="setflow dataset convert") as told:
            check_hdf5_name(name)
        h5 = Path(name).with_suffix(".h5").name
        command = str(told.value).rpartition("such as ")[2]
        assert shlex.split(command) == ["setflow", "dataset", "convert", h5, "--out", name]
    with pytest.raises(ValueError, match="not named like an HDF5 file") as told:
        check_hdf5_name("a.txt")
    assert "convert" not in str(told.value)


@pytest.mark.parametrize("path", [".", "..", "/", "a/.."])
def test_a_path_without_a_name_of_its_own_is_no_output(path):
    for overwrite in (True, False):
        with pytest.raises(FileExistsError, match="is a folder, expected a new name"):
            check_target(path, overwrite=overwrite)
        with pytest.raises(FileExistsError, match="is a folder, expected a new name"):
            NewFolder(path, overwrite=overwrite, marker="manifest.json")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_another_kind_is_refused_without_advice_that_fails(
    tmp_path: Path, overwrite: bool
) -> None:
    """To overwrite it was advised, and then refused."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "notes").touch()
    for name in ("mine", "notes"):
        with pytest.raises(FileExistsError, match="not a folder that this command made") as told:
            NewFolder(tmp_path / name, overwrite=overwrite, marker="manifest.json")
        assert "overwrite" not in str(told.value)
    (tmp_path / "mine" / "manifest.json").touch()
    (tmp_path / "empty").mkdir()
    for name in ("mine", "empty"):
        if overwrite:
            NewFolder(tmp_path / name, overwrite=True, marker="manifest.json")
            continue
        with pytest.raises(FileExistsError, match=r"exists already; .* overwrite=True"):
            NewFolder(tmp_path / name, marker="manifest.json")
