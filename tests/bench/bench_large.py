"""Training on a file that does not fit memory: memory, speed of reading, and the first step.

    SETFLOW_BENCH_GB=2 pytest tests/bench/bench_large.py -o python_files='bench_*.py' \
        -o python_functions='bench_*' --benchmark-only --keep tests/bench/results

A file of so many gigabytes is written to a temporary folder, or to that of `SETFLOW_BENCH_DIR`,
where one that lies there is taken. The page cache holds it where the memory of the machine is
larger. Speeds are those of one thread, by the time of the processor, so that what else runs there
does not count.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import setflow
from bench.large import write_jets
from bench.machine import REPOSITORY, described
from setflow.training import Muon, SetDataModule
from setflow.training.streaming import EpochShares

SECONDS = 10.0  # so long at most each speed is measured
CHILD = """
import sys, time
start = time.perf_counter()
from setflow.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
with open("/proc/self/status") as told:  # of this program, and not of what has started it
    peak = next(int(line.split()[1]) for line in told if line.startswith("VmHWM")) * 1024 / 1e6
print(f"measured {peak} {time.perf_counter() - start}")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    given = os.environ.get("SETFLOW_BENCH_DIR")
    return Path(given) if given else tmp_path_factory.mktemp("large")


def run(folder: Path, *arguments: str) -> tuple[float, float]:
    """Run a command of the shell; return the peak of its memory [MB] and the time it took [s]."""
    command = [sys.executable, "-c", CHILD, *arguments]
    where = os.environ | {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        command, cwd=folder, env=where, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peak, seconds = done.stdout.split("measured ")[1].split()
    return float(peak), float(seconds)


def fit(folder: Path, name: str, *options: str) -> tuple[float, float]:
    """Train the demo by the shell; return what `run` does."""
    silent = "--trainer.enable_progress_bar=false"
    return run(folder, "fit", "--config", "demo", "--force", "--name", name, silent, *options)


def rate(batches: Iterator[Any], count: Callable[[Any], int]) -> float:
    """Return how many events come in a second of the processor."""
    start, events = time.process_time(), 0
    for batch in batches:
        events += count(batch)
        if time.process_time() - start > SECONDS:
            break
    return events / (time.process_time() - start)


def consumed(batches: list[setflow.SetBatch]) -> float:
    """Return how many events a second, which are at hand, the demo is trained on."""
    flow = _demo().fit_statistics(batches[0])
    optimizer = partial(Muon, lr=1e-3)(flow.parameters())

    def steps() -> Iterator[setflow.SetBatch]:
        while True:
            for batch in batches:
                optimizer.zero_grad()
                flow.loss(batch).backward()
                optimizer.step()
                yield batch

    return rate(steps(), len)


def bench_large(folder, keep, sizes, report, benchmark):
    gigabytes = 0.05 if sizes.events < 2048 else float(os.environ.get("SETFLOW_BENCH_GB", "2"))
    path = folder / f"{gigabytes:g}gb.h5"
    if not path.exists():
        write_jets(path, gigabytes)
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    rows: list[tuple[str, str, str]] = []

    size = path.stat().st_size / 1e9
    of_all = (f"--data.train={path}", "--data.in_memory=false", "--trainer.max_steps=3")
    slots = "--model.flow.init_args.cardinality.init_args.max_objects=150"
    for objects, more in ((30, ()), (150, ("--data.max_objects=150", slots))):
        peak, seconds = fit(folder, f"all{objects}", *of_all, *more)
        what = f"fit of {size:.2f} GB, {objects} objects kept"
        rows.append((f"{what}: peak memory", f"{peak:.0f} MB", "at most 700 MB"))
        rows.append((f"{what}: statistics and 3 steps", f"{seconds:.1f} s", ""))
    part = f"--data.train={path}[0:{int(size * 1e9 / 2400 / 8)}]"
    peak, _ = fit(folder, "part", part, *of_all[1:])
    rows.append(("the same of an eighth of its rows: peak memory", f"{peak:.0f} MB", ""))
    _, seconds = fit(folder, "again", *of_all[:2], "--trainer.max_steps=1")
    what = "command with one step and its export, statistics stored"
    rows.append((what, f"{seconds:.1f} s", "15 s to the first step of 10 GB"))

    others = folder / "others.h5"  # as large as what is compared
    if not others.exists():
        write_jets(others, gigabytes / 10, seed=1)
    events = "50000" if gigabytes > 1 else "2000"
    compared = ("evaluate", str(others), str(path), "--events", events, "--fast")
    peak, seconds = run(folder, *compared, "--out", "report", "--force")
    rows.append((f"evaluate --fast, {events} events: peak memory", f"{peak:.0f} MB", "1000 MB"))
    rows.append((f"evaluate --fast, {events} events", f"{seconds:.0f} s", ""))

    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    data = SetDataModule(str(path), max_objects=30, batch_size=128, in_memory=False, seed=1,
                         val_fraction=0.05)  # fmt: skip
    data.setup("fit")
    loader = data.train_dataloader()
    streams = data._streams
    list(zip(range(3), loader, strict=False))
    loader.sampler.set_epoch(1)
    ratios = []
    for turn in range(3):
        in_order = rate(map(streams._train.read, streams._blocks), lambda found: len(found.numbers))
        loader.sampler.set_epoch(turn)
        # of the events that are held out, too, which are read and left
        shuffled = rate(iter(loader), lambda batch: len(batch.place)) / (1 - data.val_fraction)
        ratios.append(shuffled / in_order)
    told = " to ".join(f"{ratio:.2f}" for ratio in (min(ratios), max(ratios)))
    rows.append(("blocks in order", f"{in_order:,.0f} events/s", ""))
    rows.append(("shuffled / blocks in order", told, "at least 0.7"))

    few = [data.train_dataloader().dataset[share].events for share in list(EpochShares(1280, 128))]
    used = consumed(few)
    ratio = shuffled * (1 - data.val_fraction) / (2 * used)
    rows.append(("steps of the model demo, one core", f"{used:,.0f} events/s", ""))
    what = "shuffled events / twice what the model takes on one core"
    rows.append((what, f"{ratio:.1f}", "at least 3"))
    benchmark.pedantic(lambda: next(iter(loader)), rounds=1)
    lines = [
        "# Training on files that do not fit memory",
        "",
        "Written by the command at the head of `tests/bench/bench_large.py`.",
        f"A generated file of {size:.2f} GB, not packed, in the page cache if that holds it.",
        "",
        *(f"- {line}" for line in described()),
        "",
        "| measured | value | aim |",
        "| --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    for row in rows:
        report(": ".join(row[:2]) + (f" ({row[2]})" if row[2] else ""))
    if keep is not None:
        (keep / "large.md").write_text("\n".join(lines))


def _demo() -> setflow.SetFlow:
    """Return the model of `models/demo`, the smallest that is shipped."""
    return setflow.SetFlow(
        setflow.TransformerField(3, hidden=64, layers=4, heads=2),
        scaler=setflow.data.Standardizer(kinds=["real", "real", "positive(boxcox=0.3)"]),
        cardinality=setflow.EmpiricalCardinality(30),
    )
