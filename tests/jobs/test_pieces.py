"""Samples in pieces: the same bytes however often and wherever the work stops."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import pytest
import torch

import setflow
from each import each
from setflow.data import Standardizer
from setflow.data.manifest import problems_of
from setflow.data.merging import merge, shards_of
from setflow.jobs import pieces, sample
from setflow.jobs.pieces import written_in
from setflow.jobs.sample import sample_to_hdf5
from setflow.jobs.score import score_to_hdf5
from setflow.parts import Part

EVENTS, BLOCK = 150, 16


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(sample, "_BLOCK", BLOCK)
    monkeypatch.setattr(pieces, "SHARD", 4 * BLOCK)


@pytest.fixture
def flow() -> setflow.SetFlow:
    torch.manual_seed(0)
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    scaler = Standardizer(3, mean=[0, 0, 0.5], std=[0.1, 0.1, 0.05])
    cardinality = setflow.EmpiricalCardinality(counts=[0, 1, 1, 2])
    return setflow.SetFlow(field, scaler=scaler, cardinality=cardinality).eval()


def made(flow: setflow.SetFlow, out: Path, **options: Any) -> Path:
    options = {"events": EVENTS, "solver": setflow.Euler(2), "progress": False, **options}
    return sample_to_hdf5(flow, out, **options)


def content(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


def stopped_after(flow: setflow.SetFlow, blocks: int, error: type[BaseException]) -> Any:
    draw, calls = flow.sample, iter(range(1000))

    def limited(*arguments: Any, **options: Any) -> Any:
        if next(calls) == blocks:
            raise error("in the middle")
        return draw(*arguments, **options)

    return patch.object(flow, "sample", limited)


@pytest.mark.parametrize("name", ["out.h5", "out"])
@pytest.mark.parametrize("layout", [1, 2])
def test_however_it_is_cut_the_bytes_are_the_same(
    flow: setflow.SetFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, layout: int
) -> None:
    (tmp_path / "quiet").mkdir()
    quiet = content(made(flow, tmp_path / "quiet" / name, layout=layout))
    monkeypatch.setattr(pieces, "_SECONDS", 0.0)  # each block is a piece
    for blocks in (3, 1, 0, 2):
        with stopped_after(flow, blocks, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            made(flow, tmp_path / name, layout=layout)
        assert not (tmp_path / name).exists()
    assert written_in(tmp_path / name) == 6 * BLOCK
    with stopped_after(flow, 4, RuntimeError):  # so many blocks are left
        out = made(flow, tmp_path / name, layout=layout)
    assert content(out) == quiet
    assert sorted(os.listdir(tmp_path)) == [name, "quiet"]
    assert problems_of(out) == []


def test_a_stop_keeps_the_events_of_the_piece_that_is_written(
    flow: setflow.SetFlow, tmp_path: Path
) -> None:
    with stopped_after(flow, 3, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        made(flow, tmp_path / "a.h5")
    assert written_in(tmp_path / "a.h5") == 3 * BLOCK
    names = sorted(os.listdir(tmp_path / "a.h5.part"))
    assert names == ["000000000000-000000000048.h5", "manifest.json"]
    with pytest.raises(ValueError, match="part holds a sample that is not complete"):
        shards_of([tmp_path / "a.h5.part"])


def test_nothing_is_left_where_nothing_is_done(flow: setflow.SetFlow, tmp_path: Path) -> None:
    with stopped_after(flow, 0, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        made(flow, tmp_path / "a.h5")
    assert os.listdir(tmp_path) == []


def test_other_arguments_do_not_go_on(flow: setflow.SetFlow, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    with stopped_after(flow, 3, RuntimeError), pytest.raises(RuntimeError):
        made(flow, out)
    for change, told in (
        ({"seed": 1}, "seed was 0, is 1"),
        ({"events": 100}, "events was 150, is 100"),
        ({"solver": setflow.Euler(3)}, r"solver was Euler\(steps=2\), is Euler\(steps=3\)"),
    ):
        with pytest.raises(ValueError, match=rf"begun otherwise: .*{told}.*overwrite=True"):
            made(flow, out, **change)
    with stopped_after(flow, 7, RuntimeError):  # it goes on, though it may overwrite
        made(flow, out, overwrite=True)
    with stopped_after(flow, 0, RuntimeError):  # and is there
        made(flow, out)
    with pytest.raises(FileExistsError, match=r"was made otherwise: seed was 0, is 1; choose"):
        made(flow, out, seed=1)


def test_another_beginning_is_overwritten_where_it_may_be(
    flow: setflow.SetFlow, tmp_path: Path
) -> None:
    expected = content(made(flow, tmp_path / "b.h5", seed=1))
    with stopped_after(flow, 3, RuntimeError), pytest.raises(RuntimeError):
        made(flow, tmp_path / "a.h5")
    assert content(made(flow, tmp_path / "a.h5", seed=1, overwrite=True)) == expected


def test_a_damaged_piece_is_made_anew(flow: setflow.SetFlow, tmp_path: Path) -> None:
    expected = content(made(flow, tmp_path / "b.h5"))
    with stopped_after(flow, 3, RuntimeError), pytest.raises(RuntimeError):
        made(flow, tmp_path / "a.h5")
    piece = tmp_path / "a.h5.part" / "000000000000-000000000048.h5"
    with h5py.File(piece, "r+") as file:
        file["particle_features"][3, 0, 0] += 1
    with pytest.warns(UserWarning, match="is made anew: the values of 'particle_features' are not"):
        out = made(flow, tmp_path / "a.h5")
    assert content(out) == expected


def test_what_is_not_ours_is_not_touched(flow: setflow.SetFlow, tmp_path: Path) -> None:
    flow.save(tmp_path / "model")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "text").touch()
    (tmp_path / "c.h5.part").mkdir()
    (tmp_path / "c.h5.part" / "text").touch()
    before = sorted(os.walk(tmp_path))
    with patch.object(flow, "sample", pytest.fail):
        for name in ("model", "notes"):
            with pytest.raises(FileExistsError, match="not a folder that this command made"):
                made(flow, tmp_path / name, overwrite=True)
        with pytest.raises(FileExistsError, match="not a folder that this command made"):
            made(flow, tmp_path / "c.h5")
    assert sorted(os.walk(tmp_path)) == before


def test_the_writing_goes_on_beside_the_next_block(flow: setflow.SetFlow, tmp_path: Path) -> None:
    from setflow.jobs import sampled

    threads, real = set[str](), sampled.SampledFile.write

    def write(self: Any, batch: Any) -> None:
        threads.add(threading.current_thread().name)
        real(self, batch)

    with patch.object(sampled.SampledFile, "write", write):
        made(flow, tmp_path / "a.h5")
    assert threading.main_thread().name not in threads
    assert len(threads) == 1


def raised(call: Callable[[], object]) -> OSError | None:
    try:
        call()
    except OSError as error:
        return error
    return None


def failures(counts: list[int]) -> Iterator[tuple[int, Any]]:
    """Yield a patch under which the nth write, and all behind it, find the disk full."""
    write = os.write
    for start in range(0, 400, 7):
        counts.clear()

        def full(descriptor: int, data: Any, start: int = start) -> int:
            counts.append(1)
            if len(counts) > start:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data)

        yield start, patch("os.write", full)


@pytest.mark.parametrize("what", ["sample", "score"])
def test_a_full_disk_is_an_error_after_which_it_goes_on(
    flow: setflow.SetFlow, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_SECONDS", 0.0)
    data = made(flow, tmp_path / "data.h5", events=70)

    def work(name: str) -> Path:
        if what == "sample":
            return made(flow, tmp_path / name, events=70)
        options: dict[str, Any] = {"solver": setflow.Euler(1), "progress": False}
        return score_to_hdf5(flow, data, tmp_path / name, **options)

    expected, counts, failed = content(work("quiet.h5")), list[int](), 0
    for start, full in failures(counts):
        name = f"{start}.h5"
        with full:
            error = raised(lambda name=name: work(name))
        if error is not None:
            failed += 1
            assert "No space left" in str(error), error
            assert not (tmp_path / name).exists()
        assert content(work(name)) == expected
        assert sorted(os.listdir(tmp_path)) == sorted([name, "data.h5", "quiet.h5"])
        (tmp_path / name).unlink()
        if len(counts) <= start:
            break
    assert failed > 3


def test_outputs_have_the_modes_of_the_mask(flow: setflow.SetFlow, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        flow.save(tmp_path / "model")
        made(flow, tmp_path / "a.h5")
        made(flow, tmp_path / "folder")
        score_to_hdf5(
            flow, tmp_path / "a.h5", tmp_path / "s.h5", solver=setflow.Euler(1), progress=False
        )
        merge(shards_of([tmp_path / "folder"]), tmp_path / "m.h5")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o750 if path.is_dir() else 0o640), (path, oct(mode))


# --- parts, and putting them together ---


@each("of", [1, 3, 7, 100])
def test_parts_make_the_whole(of: int, flow: setflow.SetFlow, tmp_path: Path) -> None:
    parts = [Part(k, of) for k in range(of)]
    for events, block in ((EVENTS, BLOCK), (5, BLOCK), (1000, 1)):
        rows = [row for part in parts for row in part.rows(events, block)]
        assert rows == list(range(events))
    if of > 7:
        return
    whole = made(flow, tmp_path / f"whole{of}.h5")
    files = [made(flow, tmp_path / f"a{of}.h5", part=part) for part in parts]
    assert files[0].name == f"a{of}-0-of-{of}.h5"
    merged = merge(files[::-1], tmp_path / f"merged{of}.h5")
    assert content(merged) == content(whole)


def test_parts_of_scores_are_the_rows_of_the_whole(flow: setflow.SetFlow, tmp_path: Path) -> None:
    data = made(flow, tmp_path / "data.h5")
    options: dict[str, Any] = {"solver": setflow.Euler(1), "progress": False, "events": 140}
    whole = score_to_hdf5(flow, data, tmp_path / "whole.h5", **options)
    files = [
        score_to_hdf5(flow, data, tmp_path / "s.h5", part=Part(k, 2), **options) for k in range(2)
    ]
    for virtual in (False, True):
        merged = merge(files, tmp_path / f"merged{virtual}.h5", virtual=virtual)
        assert problems_of(merged) == []
        with h5py.File(merged) as found, h5py.File(whole) as expected:
            assert found.keys() == expected.keys()
            for name in found:
                assert found[name].dtype == expected[name].dtype
                assert np.array_equal(
                    found[name][:], expected[name][:], equal_nan=found[name].dtype.kind == "f"
                )
            told = dict(found.attrs)
            assert {**told, "manifest": 0} == {**dict(expected.attrs), "manifest": 0}


def test_what_does_not_make_a_run_is_not_put_together(
    flow: setflow.SetFlow, tmp_path: Path
) -> None:
    parts = [made(flow, tmp_path / "a.h5", part=Part(k, 3)) for k in range(3)]
    other = made(flow, tmp_path / "b.h5", part=Part(1, 3), seed=1)
    whole = made(flow, tmp_path / "c.h5")
    out = tmp_path / "out.h5"
    for files, told in (
        ([parts[0], parts[2]], "the events from 48 to 96 are in none of the files"),
        (parts[:2], "the events from 96 to 150 are in none"),
        (parts[1:], "the events from 0 to 48 are in none"),
        ([*parts, whole], "holds events before 48 that another file holds"),
        ([parts[0], other, parts[2]], "is of another run than .*: seed is 1 there and 0 here"),
        ([], "there are no files"),
    ):
        with pytest.raises(ValueError, match=told):
            merge(files, out)
    with h5py.File(parts[1], "r+") as file:
        file["jet_features"][0, 0] += 1
    assert problems_of(parts[1]) == ["the values of 'jet_features' are not those of its manifest"]
    with pytest.raises(ValueError, match=r"a-1-of-3\.h5 is damaged: the values of jet_features"):
        merge(parts, out)
    with h5py.File(parts[2], "r+") as file:
        del file.attrs["manifest"]
    with pytest.raises(ValueError, match=r"does not say which events .* setflow dataset convert"):
        merge(parts, out)
    assert not out.exists()


def test_a_folder_is_compared_with_its_manifest(flow: setflow.SetFlow, tmp_path: Path) -> None:
    folder = made(flow, tmp_path / "jets")
    assert problems_of(folder) == []
    first, second, third = sorted(folder.glob("*.h5"))
    second.unlink()
    third.write_bytes(third.read_bytes()[:-1])
    assert problems_of(folder) == [
        f"{second.name!r} is missing", f"{third.name!r} is not the file of the manifest"
    ]  # fmt: skip
    assert shards_of([folder]) == [first, second, third]


def test_an_empty_folder_is_replaced_when_it_is_asked_for(
    flow: setflow.SetFlow, tmp_path: Path
) -> None:
    """As of reports and models; to overwrite it was advised, and then refused."""
    (tmp_path / "jets").mkdir()
    with pytest.raises(FileExistsError, match=r"exists already; .* overwrite=True"):
        made(flow, tmp_path / "jets")
    assert problems_of(made(flow, tmp_path / "jets", overwrite=True)) == []


def test_files_are_meant_by_a_pattern_too(tmp_path: Path) -> None:
    """In quotes the shell leaves it to the command, as convert and check take it."""
    names = [tmp_path / name for name in ("p-0.h5", "p-1.h5", "p-[2].h5")]
    for path in names:
        path.touch()
    assert shards_of([tmp_path / "p-*.h5"]) == names
    assert shards_of([names[2], tmp_path / "p-[01].h5"]) == [names[2], *names[:2]]
    with pytest.raises(FileNotFoundError, match=r"q-\*\.h5 does not exist"):
        shards_of([tmp_path / "q-*.h5"])
