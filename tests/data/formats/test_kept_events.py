"""A conversion that is killed goes on with what it has read, and ends as a quiet one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data.formats.test_convert import GIVEN
from data.formats.written import WRITTEN
from each import each
from setflow.data.formats import convert as module
from setflow.data.formats import kept_events, sources, trees
from setflow.data.formats.convert import convert, inputs_of
from setflow.data.formats.named import Given
from setflow.data.kept_blocks import KeptBlocks

KINDS = (
    "jetnet", "types", "mpgan", "energyflow", "vlen", "offsets", "omnilearn", "jetclass.root",
    "jetclass.parquet",
)  # fmt: skip
Place = tuple[list[str], Given]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Let blocks be small and kept at once; what is returned fills with the blocks that are read:
    the name of their file and their first row."""
    for place in (module, sources, trees):
        monkeypatch.setattr(place, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(kept_events, "_SECONDS", 0.0)
    found: list[tuple[str, int]] = []
    blocks = module.EventFile.blocks

    def noted(self: Any, start: int = 0) -> Any:
        for sample in blocks(self, start):
            found.append((self.path.name, start))
            start += len(sample)
            yield sample

    monkeypatch.setattr(module.EventFile, "blocks", noted)
    return found


def killed(place: Place, out: Path, after: int) -> None:
    """Convert until so many blocks of events are kept."""
    keep = KeptBlocks.keep

    def stopped(self: Any, index: int, block: Any, **how: Any) -> None:
        if index == kept_events._FIRST + after:
            raise KeyboardInterrupt
        keep(self, index, block, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeptBlocks, "keep", stopped)
        with pytest.raises(KeyboardInterrupt):
            convert(inputs_of(place[0]), out, place[1])


def place_of(name: str, folder: Path) -> Place:
    """Return two files of a kind, or of one that setflow reads as it is, and what is told."""
    if name in ("layout 1", "layout 2"):
        made = place_of("omnilearn" if name == "layout 1" else "types", folder)
        files = [folder / "own-0.h5", folder / "own-1.h5"]
        for theirs, mine in zip(made[0], files, strict=True):
            convert(inputs_of([theirs]), mine, made[1])
        return [str(file) for file in files], Given()
    files = [WRITTEN[name](folder / f"{k}-{name}.h5") for k in range(2)]
    return list(dict.fromkeys(map(str, files))), GIVEN[name]


@each("name", [*KINDS, "layout 1", "layout 2"])
@each("suffix", ["h5", "parquet"])
def test_wherever_it_is_stopped_the_bytes_are_the_same(name, suffix, tmp_path_factory, request):
    read = request.getfixturevalue("read")
    folder = tmp_path_factory.mktemp("kept")
    place = place_of(name, folder)
    read.clear()
    quiet, out = (folder / f"{one}.{suffix}" for one in ("quiet", "out"))
    convert(inputs_of(place[0]), quiet, place[1])
    blocks = list(read)
    assert len(blocks) >= 3
    for after in {1, len(blocks) // 2, len(blocks) - 1}:
        killed(place, out, after)
        assert not out.exists()
        read.clear()
        convert(inputs_of(place[0]), out, place[1])
        assert read == blocks[after:]
        assert out.read_bytes() == quiet.read_bytes()
        out.unlink()
    assert not [entry for entry in os.listdir(folder) if "part" in entry]


@pytest.mark.usefixtures("read")
def test_a_tree_of_root_holds_the_same(tmp_path):
    uproot = pytest.importorskip("uproot")
    files, given = place_of("types", tmp_path)
    quiet, out = tmp_path / "quiet.root", tmp_path / "out.root"
    convert(inputs_of(files), quiet, given)
    killed((files, given), out, 2)
    convert(inputs_of(files), out, given)
    with uproot.open(quiet) as one, uproot.open(out) as other:  # each tells when it was made
        mine, theirs = one["tree"].arrays(), other["tree"].arrays()
        assert one["tree"].keys() == other["tree"].keys()
        assert one["tree"]["object_a"].num_baskets == other["tree"]["object_a"].num_baskets
        assert mine.to_list() == theirs.to_list()


def test_what_takes_a_pass_is_kept_too(tmp_path, read, monkeypatch):
    place = place_of("omnilearn", tmp_path)  # its class is a code, of which the largest is sought
    killed(place, tmp_path / "out.h5", 1)
    monkeypatch.setattr(module.EventFile, "largest_class", None)
    monkeypatch.setattr(module.EventFile, "slots", None)
    assert convert(inputs_of(place[0]), tmp_path / "out.h5", place[1]).n


def test_a_short_conversion_keeps_nothing(tmp_path, read, monkeypatch):
    monkeypatch.setattr(kept_events, "_SECONDS", 60.0)
    monkeypatch.setattr(KeptBlocks, "keep", None)
    files, given = place_of("mpgan", tmp_path)
    assert convert(inputs_of(files), tmp_path / "out.h5", given).n


def _touched(files: list[str], given: Given) -> Place:
    os.utime(files[0], (1, 1))
    return files, given


def _longer(files: list[str], given: Given) -> Place:
    there = os.stat(files[0])
    with open(files[0], "ab") as file:
        file.write(b"0")
    os.utime(files[0], ns=(there.st_atime_ns, there.st_mtime_ns))
    return files, given


OTHERS: dict[str, Callable[[list[str], Given], Place]] = {
    "choice of inputs": lambda files, given: (files[:1], given),
    "class of the inputs": lambda files, given: ([f"top={file}" for file in files], given),
    r"time of change of .*0-generic\.h5": _touched,
    r"size of .*0-generic\.h5": _longer,
    "format": lambda files, given: (files, replace(given, format="ragged", mask=None)),
    "mask": lambda files, given: (files, replace(given, mask="all")),
    "columns": lambda files, given: (files, replace(given, columns=("a", "b", "c", "d", "f"))),
    "classes": lambda files, given: (files, replace(given, classes=("one",))),
    "features": lambda files, given: (files, replace(given, features=("a", "b"))),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.usefixtures("read")
def test_another_plan_is_refused_by_what_differs(name, tmp_path):
    place, out = place_of("generic", tmp_path), tmp_path / "out.h5"
    killed(place, out, 2)
    before = sorted(os.listdir(tmp_path / "out.h5.part"))
    files, given = OTHERS[name](*place)
    with pytest.raises(ValueError, match=rf"out\.h5\.part was begun with another {name}: "):
        convert(inputs_of(files), out, given)
    assert sorted(os.listdir(tmp_path / "out.h5.part")) == before


def test_another_plan_may_begin_anew(tmp_path, read):
    place, out = place_of("generic", tmp_path), tmp_path / "out.h5"
    convert(inputs_of(place[0]), tmp_path / "quiet.h5", place[1], keep_unphysical=True)
    killed(place, out, 2)
    told = r"begun with another keep_unphysical: False there and True now; .*overwrite=True"
    with pytest.raises(ValueError, match=told):
        convert(inputs_of(place[0]), out, place[1], keep_unphysical=True)
    read.clear()
    convert(inputs_of(place[0]), out, place[1], keep_unphysical=True, overwrite=True)
    assert read[0] == ("0-generic.h5", 0)
    assert out.read_bytes() == (tmp_path / "quiet.h5").read_bytes()
    assert not (tmp_path / "out.h5.part").exists()


@pytest.mark.usefixtures("read")
def test_of_two_the_second_is_refused(tmp_path):
    files, given = place_of("generic", tmp_path)
    out = tmp_path / "out.h5"
    with (
        KeptBlocks(out, {}, overwrite=False),
        pytest.raises(BlockingIOError, match="in use by another process"),
    ):
        convert(inputs_of(files), out, given)


def test_a_row_that_cannot_be_is_told_and_leaves_nothing(tmp_path, read):
    files, given = place_of("generic", tmp_path)
    with h5py.File(files[1], "r+") as file:
        (name,) = [key for key in file if file[key].ndim == 3]
        row = len(file[name]) - 1
        file[name][row, :, 0] = np.nan
    told = r"1-generic\.h5, of the rows from (\d+): .*"
    for _ in range(2):
        with pytest.raises(ValueError, match=told):
            convert(inputs_of(files), tmp_path / "out.h5", given)
        assert len(read) > 3  # blocks were kept
        assert sorted(os.listdir(tmp_path)) == ["0-generic.h5", "1-generic.h5"]


KILLED = """
import os, sys
from pathlib import Path
from setflow.data.formats import convert, kept_events, sources
from setflow.data.formats.named import Given
from setflow.data.kept_blocks import KeptBlocks
kept_events._SECONDS = 0.0
sources.BLOCK_BYTES = 2_000
print("begun", flush=True)
files = convert.inputs_of(sys.argv[2:])
convert.convert(files, Path(sys.argv[1]), Given("mpgan"))
"""


def test_a_process_that_is_killed_leaves_whole_blocks(tmp_path, monkeypatch):
    files, given = place_of("mpgan", tmp_path)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 2_000)
    quiet, out = tmp_path / "quiet.h5", tmp_path / "out.h5"
    convert(inputs_of(files), quiet, given)
    (tmp_path / "killed.py").write_text(KILLED)
    part, at = tmp_path / "out.h5.part", 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, tmp_path / "killed.py", out, *files], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            end = time.monotonic() + 60
            while len(list(part.glob("*.npz"))) <= at and process.poll() is None:
                assert time.monotonic() < end
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
        at = len(list(part.glob("*.npz")))
        for path in part.glob("*.npz"):
            with np.load(path) as held:
                assert all(len(held[name]) for name in held)
    convert(inputs_of(files), out, given)
    assert out.read_bytes() == quiet.read_bytes()
    assert not [entry for entry in os.listdir(tmp_path) if "part" in entry]


def test_parquet_begins_at_any_row_of_any_group(tmp_path, monkeypatch):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [list(range(k % 4)) for k in range(50)]
    table = pa.table({"x": rows, "y": list(range(50))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    for size in (1, 300, 2**22):
        monkeypatch.setattr(trees, "BLOCK_BYTES", size)
        source = trees.ParquetSource(tmp_path / "a.parquet")
        blocks = list(source.blocks(["x", "y"]))
        assert {len(block["y"]) for block in blocks[:-1]} <= {len(blocks[0]["y"])}
        first = 0
        for k, whole in enumerate(blocks):
            rest = list(source.blocks(["x", "y"], first))
            assert len(rest) == len(blocks) - k
            stop = first + len(whole["y"])
            assert rest[0]["y"].tolist() == list(range(first, stop))
            assert rest[0]["x"].values.tolist() == [*chain(*rows[first:stop])]
            assert rest[0]["x"].lengths.tolist() == [len(row) for row in rows[first:stop]]
            first = stop
        assert first == 50
        source.close()
