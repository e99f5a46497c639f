"""Kill, starve and disturb long jobs, run the same command again, and compare with a quiet run.

    python tests/chaos/chaos.py --kills 30 --jobs sample,score

Each trial begins in an empty folder. A job is a command of the shell; what it writes must be, byte
for byte, what it writes undisturbed, whatever happened before, and nothing else may be left over.

    kill        SIGKILL at a time uniform over the run, by the clock of its own work
    write       SIGKILL inside a call that changes the disk: half of it is done
    signal      SIGTERM or SIGINT at such a time
    full        no space left, from a random write on; with --tmpfs also a small file system
    two         the same command twice at once: one works, the other says so
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch

import setflow
from setflow.cli import main
from setflow.data import Standardizer
from setflow.jobs import pieces, sample, score

CONFIG = """
seed_everything: 3
name: chaos
model:
  flow:
    class_path: setflow.SetFlow
    init_args:
      field:
        class_path: setflow.TransformerField
        init_args: {dim: 3, hidden: 8, layers: 1, heads: 1}
      scaler: {class_path: setflow.data.Standardizer, init_args: {dim: 3}}
      cardinality: {class_path: setflow.EmpiricalCardinality, init_args: {max_objects: 4}}
data: {max_objects: 4, batch_size: 32, val_fraction: 0.25}
trainer:
  accelerator: cpu
  max_steps: 40
  max_epochs: -1
  val_check_interval: 7
  check_val_every_n_epoch: null
  enable_progress_bar: false
  callbacks:
  - class_path: setflow.training.MovingAverage
    init_args: {decay: 0.9}
"""
CHANGES = ("write", "replace", "rename", "fsync", "unlink", "rmdir", "mkdir", "ftruncate")
HINT = {signal.SIGTERM: 143, signal.SIGINT: 130}


class Job(NamedTuple):
    """A command: its arguments, what it writes, and what to change before.

    `begun` is there when it has begun to write, `kept` when there is something to go on from, and
    `content` tells what an output holds.
    """

    arguments: tuple[str, ...]
    out: str
    prepare: Callable[[], None]
    begun: str
    kept: str
    content: Callable[[Path], dict[str, str]]


def _small_blocks() -> None:
    sample._BLOCK = 256
    score.BLOCK_ROWS["cpu"] = 16
    pieces._SECONDS = 0.05


SAMPLE = ("sample", "{inputs}/model", "--events", "3000", "--steps", "3", "--seed", "4")
SCORE = ("score", "{inputs}/model", "{inputs}/jets.h5", "--steps", "2")
FIT = ("fit", "--config", "{inputs}/fit.yaml", "--data.train", "{inputs}/jets.h5")


def content(path: Path) -> dict[str, str]:
    """Return the hashes of a file, or of all files of a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {
        str(file.relative_to(path.parent)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }


def numbers(path: Path) -> dict[str, str]:
    """Return the hashes of all weights of runs: their files tell times, which differ."""
    found = {}
    for file in sorted(path.rglob("*")):
        if file.name in ("last.ckpt", "best.ckpt"):
            told = torch.load(file, weights_only=True)
            kept = [told["state_dict"], told["current_model_state"], told["optimizer_states"]]
            held = io.BytesIO()
            torch.save([told["global_step"], kept], held)
            found[str(file.relative_to(path))] = hashlib.sha256(held.getvalue()).hexdigest()
        elif file.name == "weights.safetensors":
            found[str(file.relative_to(path))] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.name.endswith(".part"):
            found[str(file.relative_to(path))] = "left over"
    return found


def _job(arguments: tuple[str, ...], out: str) -> Job:
    part = f"{out}.part"
    return Job((*arguments, "--out", out), out, _small_blocks, part, part, content)


JOBS = {
    "sample": _job(SAMPLE, "out.h5"),
    "folder": _job(SAMPLE, "out"),
    "score": _job(SCORE, "out.h5"),
    "fit": Job(
        FIT, "runs", lambda: None, "runs/chaos", "runs/chaos/checkpoints/last.ckpt", numbers
    ),
}
"""What is disturbed: a command, its output, and short steps."""


def make_inputs(folder: Path) -> None:
    """Make a small model and jets for it."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    scaler = Standardizer(3, mean=[0, 0, 0.5], std=[0.1, 0.1, 0.05])
    cardinality = setflow.EmpiricalCardinality(counts=[0, 1, 1, 2, 3])
    setflow.SetFlow(field, scaler=scaler, cardinality=cardinality).eval().save(folder / "model")
    rng, n, slots = np.random.default_rng(0), 400, 4
    number = rng.integers(1, slots + 1, n)
    mask = np.arange(slots) < number[:, None]
    x = np.concatenate([rng.normal(0, 0.1, (n, slots, 2)), rng.uniform(0.1, 0.9, (n, slots, 1))], 2)
    x *= mask[..., None]
    jets = np.stack([rng.uniform(900, 1000, n), rng.normal(size=n), np.full(n, 80.0), number], -1)
    with h5py.File(folder / "jets.h5", "w") as file:
        file["particle_features"] = np.concatenate([x, mask[..., None]], 2).astype("f4")
        file["jet_features"] = jets.astype("f4")
    (folder / "fit.yaml").write_text(CONFIG)


# --- one run ---


class Ran(NamedTuple):
    """How a run ended: its status as a shell knows it, and what it said on standard error."""

    status: int
    said: str


def begin(job: Job, inputs: Path, where: Path, disturb: Callable[[], None] | None = None) -> int:
    """Begin a job in a process of its own, which has everything imported; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.chdir(where)
        said = os.open("../said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), write_through=True)
        job.prepare()
        if disturb is not None:
            disturb()
        main([part.format(inputs=inputs) for part in job.arguments])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(status)


def end(child: int, where: Path) -> Ran:
    """Wait for the end of a process."""
    _, status = os.waitpid(child, 0)
    return Ran(os.waitstatus_to_exitcode(status), (where.parent / "said").read_text())


def work_for(child: int, seconds: float) -> None:
    """Wait until a process has computed for so long, or has ended.

    It is the time of the processor: where other work runs on the machine, a moment uniform over the
    time of a clock lies before the first checkpoint of nearly every training.
    """
    clock = ~child << 3 | 2  # that of another process, as clock_getcpuclockid of Linux makes it
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while time.clock_gettime(clock) < seconds and os.waitid(os.P_PID, child, ended) is None:
        time.sleep(0.001)


def run(job: Job, inputs: Path, where: Path, disturb: Callable[[], None] | None = None) -> Ran:
    return end(begin(job, inputs, where, disturb), where)


def changing(act: Callable[[str, int, Callable[[], Any]], Any]) -> Callable[[], None]:
    """Return what lets each call that changes the disk go through `act(name, number, call)`."""

    def disturb() -> None:
        number = 0

        def through(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal number
                if name == "write" and arguments[0] < 3:
                    return real(*arguments, **options)
                number += 1
                if name == "write" and act is KillAt.act:
                    KillAt.half = lambda: real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                return act(name, number, lambda: real(*arguments, **options))

            return call

        for name in CHANGES:
            setattr(os, name, through(name, getattr(os, name)))

    return disturb


class KillAt:
    """Kills the process inside the call of a number: of a write, half is done."""

    number = 0
    half: Callable[[], Any] = staticmethod(lambda: None)

    @staticmethod
    def act(name: str, number: int, call: Callable[[], Any]) -> Any:
        if number != KillAt.number:
            return call()
        if name == "write":
            KillAt.half()
        elif number % 2:
            call()
        return os.kill(os.getpid(), signal.SIGKILL)


def no_space_from(start: int) -> Callable[[str, int, Callable[[], Any]], Any]:
    def act(name: str, number: int, call: Callable[[], Any]) -> Any:
        if number >= start and name in ("write", "mkdir", "ftruncate"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call()

    return act


def count_changes(job: Job, inputs: Path, where: Path) -> int:
    """Return how often a quiet run changes the disk."""
    place = where.parent / "number"

    def act(name: str, number: int, call: Callable[[], Any]) -> Any:
        with open(place, "w") as file:
            file.write(str(number))
        return call()

    run(job, inputs, where, changing(act))
    return int(place.read_text())


# --- the trials ---


class DisturbedError(AssertionError):
    """A trial did not end as it must."""


class Chaos:
    """A job, what it writes undisturbed, and how long the processor works for that."""

    def __init__(self, name: str, inputs: Path, folder: Path, seed: int) -> None:
        self.job, self.inputs = JOBS[name], inputs
        self.where = folder / "here"
        self.random = random.Random(seed)
        with self.fresh():
            before = os.times()
            ran = run(self.job, inputs, self.where)
            after = os.times()
            self.seconds = sum(after[2:4]) - sum(before[2:4])  # of children
            self._require(ran.status == 0, f"undisturbed: {ran}")
            self.expected = self.job.content(self.where / self.job.out)
        with self.fresh():
            self.changes = count_changes(self.job, inputs, self.where)

    @contextlib.contextmanager
    def fresh(self) -> Iterator[None]:
        shutil.rmtree(self.where, ignore_errors=True)
        self.where.mkdir()
        yield

    def kill(self) -> str:
        with self.fresh():
            child = begin(self.job, self.inputs, self.where)
            work_for(child, self.random.uniform(0, self.seconds))
            os.kill(child, signal.SIGKILL)
            return self._again(end(child, self.where))

    def write(self) -> str:
        with self.fresh():
            KillAt.number = self.random.randint(1, self.changes)
            return self._again(run(self.job, self.inputs, self.where, changing(KillAt.act)))

    def signal(self) -> str:
        with self.fresh():
            number = self.random.choice([signal.SIGTERM, signal.SIGINT])
            child = begin(self.job, self.inputs, self.where)
            work_for(child, self.random.uniform(0.02, self.seconds))
            os.kill(child, number)
            ran = end(child, self.where)
            begun = (self.where / self.job.begun).exists()
            if ran.status == HINT[number] and (begun or "stopped by" in ran.said):
                told = [line for line in ran.said.splitlines() if "stopped by" in line]
                self._require(len(told) == 1, f"it did not say how to go on: {ran}")
                told_on = any(on in told[0] for on in ("go on with", "begin with"))
                self._require(told_on, f"{ran}")
            else:  # before it had begun, or after its end
                self._require(ran.status in (0, -number, 130), f"{number}: {ran}")
            return self._again(ran)

    def full(self) -> str:
        with self.fresh():
            start = self.random.randint(1, self.changes)
            ran = run(self.job, self.inputs, self.where, changing(no_space_from(start)))
            self._full(ran)
            return self._again(ran)

    def tmpfs(self) -> str:
        with self.fresh():
            size = self.random.randint(1, 12) * 4096
            self._mount(f"size={size}")
            try:
                self._full(run(self.job, self.inputs, self.where))
                self._mount("remount,size=64m")
                return self._again(Ran(2, ""))
            finally:
                subprocess.run(["umount", self.where], check=True)

    def two(self) -> str:
        with self.fresh():
            first = begin(self.job, self.inputs, self.where)
            while not (self.where / self.job.begun).exists():
                time.sleep(0.001)
            second = run(self.job, self.inputs, self.where)
            ran = end(first, self.where)
            self._require(ran.status == 0, f"the first: {ran}")
            refused = second.status == 2 and "in use by another process" in second.said
            self._require(refused or second.status == 0, f"the second: {second}")
            return self._again(ran)

    def _mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.where], check=True)

    def _full(self, ran: Ran) -> None:
        lines = [line for line in ran.said.splitlines() if "warning" not in line]
        self._require(ran.status in (0, 2), f"a full disk: {ran}")
        if ran.status:
            told = len(lines) == 1 and "No space left" in lines[0]
            self._require(told, f"a full disk is not told in one line: {ran}")
            whole = self.job.begun.endswith(".part") and (self.where / self.job.out).exists()
            self._require(not whole, "an output on a full disk")

    def _again(self, before: Ran) -> str:
        """Run the same command again, and compare."""
        left = sorted(path.name for path in self.where.iterdir())
        kept = (self.where / self.job.kept).exists()
        ran = run(self.job, self.inputs, self.where)
        self._require(ran.status == 0, f"again: {ran}; there was {left} after {before}")
        there = sorted(path.name for path in self.where.iterdir())
        self._require(there == [self.job.out], f"left over: {there} from {left}")
        found = self.job.content(self.where / self.job.out)
        self._require(found == self.expected, f"other bytes after {before}, from {left}")
        if kept:
            return "went on"
        made = self.job.begun.endswith(".part") and self.job.out in left
        return "was finished" if made else "began anew"

    @staticmethod
    def _require(right: bool, told: str) -> None:
        if not right:
            raise DisturbedError(told)


def trials(name: str, counts: dict[str, int], seed: int = 0) -> Iterator[tuple[str, Counter[str]]]:
    """Disturb a job so often in each way; yield each way, and how the second run found things.

    Raises:
        DisturbedError: if an output is lost, differs, or something is left over.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        inputs.mkdir()
        make_inputs(inputs)
        chaos = Chaos(name, inputs, Path(folder), seed)
        for how, count in counts.items():
            yield how, Counter(getattr(chaos, how)() for _ in range(count))


def command(given: Sequence[str] | None = None) -> None:
    """Run the trials, and print their numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--kills", type=int, default=30, help="a third of them inside a write")
    parser.add_argument("--others", type=int, default=10, help="of signals and of full disks")
    parser.add_argument("--tmpfs", action="store_true", help="mount small file systems, as root")
    parser.add_argument("--seed", type=int, default=0)
    config = parser.parse_args(given)
    inside = config.kills // 3
    counts = {"kill": config.kills - inside, "write": inside, "signal": config.others}
    counts |= {"full": config.others, "two": 3}
    if config.tmpfs:
        counts["tmpfs"] = config.others
    for name in config.jobs.split(","):
        for how, outcomes in trials(name, counts, config.seed):
            told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            sys.stdout.write(
                f"{name:8}{how:8}{outcomes.total():4} of {counts[how]} the same: {told}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    command()
