"""A simulation that is killed goes on with the blocks that are there, and ends as a quiet one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from setflow.data import recipes
from setflow.data.kept_blocks import KeptBlocks
from setflow.data.recipes import make_dataset

Made = Callable[..., Path]
OF_A_BLOCK, EVENTS, BLOCKS = 5, 22, 5  # the last one is used in part


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Make a data set without Pythia; `stop` is the block that a signal cuts short."""
    monkeypatch.setattr(metadata, "version", lambda package: "1.0")
    calls: list[int] = []

    def make(
        name: str = "a.h5", *, stop: int | None = None, events: int = EVENTS, **options: Any
    ) -> Path:
        calls.clear()

        def block(recipe: Any, number: int, index: int, enough: int) -> dict[str, Any]:
            calls.append(index)
            if index == stop:
                raise KeyboardInterrupt
            n, rng = min(OF_A_BLOCK, enough), np.random.default_rng(number)
            x = np.zeros((OF_A_BLOCK, recipe.objects, 3), "f4")
            x[:, :2] = rng.uniform(0.1, 0.4, (OF_A_BLOCK, 2, 3))
            types = np.zeros(x.shape[:2], "i1")
            types[:, :2] = 3
            jets = np.tile(np.float32([1000, 0.1, 170, 2]), (OF_A_BLOCK, 1))
            events = index * recipe.block + np.arange(OF_A_BLOCK)
            held = {"x": x, "types": types, "jets": jets, "events": events}
            return {key: values[:n] for key, values in held.items()}

        monkeypatch.setattr(recipes, "make_block", block)
        options = {"seed": 1, "progress": False} | options
        return make_dataset("pythia-top", events=events, out=tmp_path / name, **options)

    make.calls = calls  # type: ignore[attr-defined]
    return make


pytestmark = pytest.mark.filterwarnings("ignore:recipe pythia-top was made with")


@pytest.mark.parametrize("stop", range(BLOCKS))
def test_wherever_it_is_stopped_the_bytes_are_the_same(
    made: Made, tmp_path: Path, stop: int
) -> None:
    quiet = made("quiet.h5").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        made(stop=stop)
    assert sorted(os.listdir(tmp_path)) == ["a.h5.part", "quiet.h5"][not stop :]
    (tmp_path / ".a.h5.part").touch()  # as a kill leaves it
    if stop:
        (tmp_path / "a.h5.part" / ".00000009.npz.part").touch()
    assert made().read_bytes() == quiet
    assert made.calls == list(range(stop, BLOCKS))  # type: ignore[attr-defined]
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "quiet.h5"]


def test_a_damaged_block_is_made_anew(made: Made, tmp_path: Path) -> None:
    quiet = made("quiet.h5").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        made(stop=3)
    path = tmp_path / "a.h5.part" / "00000001.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"00000001\.npz is made anew"):
        assert made().read_bytes() == quiet
    assert made.calls == [1, 3, 4]  # type: ignore[attr-defined]


@pytest.mark.parametrize("other", [{"seed": 2}, {"events": 23}])
def test_blocks_of_another_call_are_not_taken(
    made: Made, tmp_path: Path, other: dict[str, int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        made(stop=3)
    (name,) = other
    with pytest.raises(ValueError, match=rf"a\.h5\.part was begun with another {name}: \d+ there"):
        made(**other)
    expected = made("quiet.h5", **other).read_bytes()
    assert made(overwrite=True, **other).read_bytes() == expected
    assert made.calls == list(range(BLOCKS))  # type: ignore[attr-defined]
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "quiet.h5"]


def test_what_is_not_ours_is_not_touched(made: Made, tmp_path: Path) -> None:
    (tmp_path / "a.h5.part").write_text("mine")
    (tmp_path / "b.h5.part").mkdir()
    (tmp_path / "b.h5.part" / "text").touch()
    before = sorted(os.walk(tmp_path))
    for name in ("a.h5", "b.h5"):
        with pytest.raises(FileExistsError, match="is not a folder that this command made"):
            made(name, overwrite=True)
    assert sorted(os.walk(tmp_path)) == before


def test_of_two_the_second_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "a.h5.part").mkdir()
    with (
        KeptBlocks(tmp_path / "a.h5", {}, overwrite=False),
        pytest.raises(BlockingIOError, match="in use by another process"),
    ):
        made()


WAITS = """
import os, sys, time, multiprocessing
from concurrent.futures import ProcessPoolExecutor
from setflow.background import end_with_parent
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


def test_a_process_ends_with_the_one_that_has_started_it(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    command = [sys.executable, tmp_path / "waits.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while _runs(child):
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
