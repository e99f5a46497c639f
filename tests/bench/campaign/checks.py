"""The tests that judge most, on the device: the laws of the mask in every verb, and derivatives.

The selection needs nothing that only files, documents and pictures need, and holds only tests that
take a `device`. What judges most comes first, so that a run which is cut off leaves most of it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.campaign.record import CUT_OFF, Record, Stage
from bench.machine import REPOSITORY

__all__ = ["Outcomes", "run", "selected"]

# of `test_laws.test_verbs_keep_the_law`
VERBS = (
    "loss",
    "log_prob",
    "sample",
    "scored sample",
    "adaptive sample",
    "estimated log_prob",
    "stochastic loss",
    "x0 loss",
    "eps loss",
    "score loss",
    "velocity loss",
    "probability flow",
    "reverse equation",
)
FIELDS = (
    "transformer with context",
    "graph",
    "epic",
    "coupled gaussian",
    "probability flow",
    "per-object context",
)
CONTRACT = (
    "test_fields_keep_the_law",
    "test_forward_and_reverse_mode_agree_with_differences",
    "test_objects_meet",
    "test_short_arithmetic_stays_within_its_tolerance",
)
_WORKERS = 8
_MARGIN = 3.0  # seconds before the deadline
_NAMED = 40  # failed tests
_WORDS = {
    "PASSED": "passed",
    "FAILED": "failed",
    "SKIPPED": "skipped",
    "XFAIL": "skipped",
    "ERROR": "errors",
}
_ID = r"(?P<test>tests/\S+\.py::\S.*?)"
_WORD = rf"(?P<word>{'|'.join(_WORDS)})"
# alone `ID PASSED`, with workers `[gw0] PASSED ID`, in the summary `FAILED ID - reason`
_ALONE = re.compile(rf"{_ID} {_WORD}(?: \(.*)?")
_WITH_WORKERS = re.compile(rf"\[gw\d+\] {_WORD} {_ID}")
_SUMMARY = re.compile(rf"(?:FAILED|ERROR) {_ID}(?: - (?P<reason>.*))?")


@dataclass
class Outcomes:
    """What the lines of pytest tell: counts of each file, failed tests with their reasons."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failed: dict[str, str] = field(default_factory=dict)

    def read(self, line: str) -> None:
        """Count a line of `pytest -v` in the classic style."""
        if found := _ALONE.fullmatch(line) or _WITH_WORKERS.fullmatch(line):
            test, word = found["test"], _WORDS[found["word"]]
            self.counts[test.partition("::")[0]][word] += 1
            if word in ("failed", "errors"):
                self.failed.setdefault(test, "")
        elif found := _SUMMARY.fullmatch(line):
            self.failed[found["test"]] = found["reason"] or ""

    def total(self, word: str) -> int:
        """Return how many tests ended so."""
        return sum(counts[word] for counts in self.counts.values())


def selected(scale: float) -> list[str]:
    """Return the files and node ids to run, what judges most first."""
    verbs = "tests/laws/test_laws.py::test_verbs_keep_the_law"
    if scale < 1:
        some = [f"{verbs}[coupled gaussian-{verb}]" for verb in VERBS[:3]]
        return ["tests/test_cuda.py", f"tests/fields/test_contract.py::{CONTRACT[1]}", *some]
    return [
        "tests/test_cuda.py",
        *(f"tests/fields/test_contract.py::{test}" for test in CONTRACT),
        *(f"{verbs}[{name}-{verb}]" for verb in VERBS for name in FIELDS),
        "tests/laws/test_laws.py::test_fields_keep_the_law_when_called_directly",
        "tests/fields/test_graph.py::test_the_verbs_keep_the_law",
        "tests/fields/test_graph.py::test_sets_become_graphs_and_come_back",
    ]


def run(stage: Stage) -> None:
    """Run the tests until they end or the time is over.

    Raises:
        SystemExit: if a test failed, or pytest itself, or no test passed; with `CUT_OFF` if the
            time was over.
    """
    record = Record(stage, f"Tests on {stage.device}")
    record.note("deprecations are no failures here, where other versions than the pinned ones run")
    outcomes, last = Outcomes(), deque[str](maxlen=15)
    with _pytest(stage) as (process, stopped):
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            last.append(line.rstrip())
            outcomes.read(line.rstrip())
        code = process.wait()
    for file, counts in outcomes.counts.items():
        record.add(file=file, **{word: counts[word] for word in dict.fromkeys(_WORDS.values())})
    for test, reason in list(outcomes.failed.items())[:_NAMED]:
        record.note(f"failed: {test}" + (f": {reason}" if reason else ""))
    if len(outcomes.failed) > _NAMED:
        record.note(f"and {len(outcomes.failed) - _NAMED} more failed")
    broken = code not in (0, 1) and not stopped.is_set()
    if stopped.is_set():
        record.note("cut off: the time was over before all tests had run")
    if broken:
        told = (line.strip("=_ ") for line in last)  # without the rules across the page
        record.note(f"pytest ended with status {code}: " + " / ".join(filter(None, told)))
    if broken or outcomes.failed:
        raise SystemExit(1)
    if stopped.is_set():
        raise SystemExit(CUT_OFF)
    if not outcomes.total("passed"):
        raise SystemExit(1)


@contextlib.contextmanager
def _pytest(stage: Stage) -> Iterator[tuple[subprocess.Popen[str], threading.Event]]:
    """Start pytest in a process group that ends with the block, with the time or with this process.

    The event tells whether the time was over.
    """
    paths = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    options: dict[str, Any] = {"cwd": REPOSITORY, "process_group": 0, "text": True}
    options["env"] = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    process = subprocess.Popen(
        _command(stage), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        _end_group(process)

    timer = threading.Timer(max(0.0, stage.left() - _MARGIN), stop)
    timer.start()
    try:
        yield process, stopped
    finally:
        timer.cancel()
        timer.join()
        _end_group(process)
        signal.signal(signal.SIGTERM, before)


def _command(stage: Stage) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--device", stage.device, "--all", "-v", "-rfE"]
    command += [
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "--strict-markers",
        "--import-mode=importlib",
    ]
    settings = {"addopts": "", "filterwarnings": "default", "console_output_style": "classic"}
    for name, value in settings.items():
        command += ["-o", f"{name}={value}"]
    if importlib.util.find_spec("pytest_benchmark"):
        command += ["--benchmark-disable"]
    workers = min(_WORKERS, len(os.sched_getaffinity(0)) // 2)
    if workers > 1 and importlib.util.find_spec("xdist"):
        command += ["-n", str(workers)]
    return [*command, *selected(stage.scale)]


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started, which may hold the pipe and the device."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
