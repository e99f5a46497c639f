"""Runs the stages of a campaign one after the other, and tells at the end what each left.

PYTHONPATH=.:tests python -m bench.campaign --out DIR --minutes 9 [--device cpu] [--stages a,b]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bench.campaign.record import CUT_OFF, NUMBERS, Stage, read_numbers
from bench.machine import REPOSITORY, described
from setflow.files import write_text

MODULES = {"smoke": "smoke", "tests": "checks", "training": "training", "speeds": "speeds"}
REPORT, LOG = "report.md", "log.txt"

# the seconds that a stage may take at most in a campaign of so many minutes, and in a shorter one
# the same share of it; training takes what is left
_SECONDS = {
    "cuda": {"smoke": 60.0, "tests": 90.0, "speeds": 110.0},
    "cpu": {"smoke": 45.0, "tests": 30.0, "speeds": 40.0},
}
_MINUTES = {"cuda": 9.0, "cpu": 3.0}
_ENDING = 5.0  # for the last report
_MOST_CARRIED = 60.0  # megabytes
_REHEARSAL = 0.01  # the scale on a CPU


def main() -> int:
    given = _arguments()
    if given.stage:
        return _run_stage(given)
    wanted = given.stages.split(",") if given.stages else list(MODULES)
    strange = [name for name in wanted if name not in MODULES]
    if strange:
        raise SystemExit(f"there is no stage {strange[0]!r}; expected some of {', '.join(MODULES)}")
    if given.out.exists() and any(given.out.iterdir()):
        raise SystemExit(f"{given.out} is not empty; a campaign writes into a folder of its own")
    if "training" in wanted and not given.data.is_file():
        raise SystemExit(f"there are no jets at {given.data}; make campaign-data makes them")
    given.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    end = time.time() + 60 * given.minutes - _ENDING
    carried = _megabytes(given.data)
    numbers: dict[str, Any] = {
        "minutes": given.minutes,
        "device": given.device,
        "carried_megabytes": carried,
        "machine": described(),
        "stages": {},
    }
    write_text(given.out / NUMBERS, json.dumps(numbers, indent=2) + "\n")
    ended = {}
    for place, name in enumerate(wanted):
        part = min(1.0, given.minutes / _MINUTES[given.device])
        seconds = {stage: part * most for stage, most in _SECONDS[given.device].items()}
        deadline = _deadline(name, wanted[place + 1 :], end, seconds)
        try:
            ended[name] = _in_process(given, name, deadline)
        finally:
            _report(given.out, wanted)
    too_much = carried is not None and carried > _MOST_CARRIED
    if too_much:
        sys.stdout.write(f"{carried:.1f} MB would have to be carried, of {_MOST_CARRIED:.0f}\n")
    done = all(status == "done" for status in ended.values())
    return int(not done or too_much)


def _megabytes(data: Path) -> float | None:
    """Return the size of what travels to another machine: tracked files, jets and wheels.

    None where git does not tell what is tracked.
    """
    command = ["git", "ls-files", "-z"]
    try:
        ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    files = [REPOSITORY / name for name in ran.stdout.split("\0") if name]
    files += [data, *(REPOSITORY / "runs/campaign/wheels").glob("*.whl")]
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--minutes", type=float, default=9.0, help="how long all stages may take")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--stages", default="", help="some of " + ", ".join(MODULES))
    parser.add_argument("--data", type=Path, default=REPOSITORY / "runs/campaign/top30.h5")
    parser.add_argument("--stage", choices=list(MODULES), help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _deadline(name: str, later: list[str], end: float, seconds: dict[str, float]) -> float:
    """Return when a stage must have ended: what it leaves unused goes to the training."""
    if name == "training":
        return end - sum(seconds.get(other, 0.0) for other in later)
    return min(end, time.time() + seconds[name]) if later else end


def _run_stage(given: argparse.Namespace) -> int:
    """Run one stage in this process."""
    scale = 1.0 if given.device == "cuda" else _REHEARSAL
    stage = Stage(given.stage, given.out, given.device, given.deadline, given.data, scale)
    try:
        importlib.import_module(f"bench.campaign.{MODULES[given.stage]}").run(stage)
    except SystemExit as failed:
        return int(failed.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _in_process(given: argparse.Namespace, name: str, deadline: float) -> str:
    """Run a stage as a process that is ended at its deadline; return how it ended."""
    command = [sys.executable, "-u", "-m", "bench.campaign", "--stage", name]
    command += ["--deadline", str(deadline), "--out", str(given.out), "--device", given.device]
    command += ["--data", str(given.data)]
    begin, status = time.time(), "interrupted"
    with (given.out / LOG).open("a") as log:
        log.write(f"\n== {name}, at most {deadline - begin:.0f} s\n")
        log.flush()
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(max(0.0, deadline - begin))
            ended = {0: "done", CUT_OFF: "cut off"}
            status = ended.get(code, f"failed with status {code}")
        except subprocess.TimeoutExpired:
            status = "cut off"
        finally:
            _end(process)
            for part in given.out.glob("*.part"):  # of a file that was being written
                part.unlink(missing_ok=True)
            seconds = round(time.time() - begin, 1)
            log.write(f"== {name}: {status} after {seconds:.0f} s\n")
            numbers = read_numbers(given.out)
            numbers["stages"].setdefault(name, {}).update(status=status, seconds=seconds)
            write_text(given.out / NUMBERS, json.dumps(numbers, indent=2) + "\n")
    sys.stdout.write(f"{name}: {status} after {seconds:.0f} s\n")
    sys.stdout.flush()
    return status


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        if process.poll() is None:
            time.sleep(0.5)
    process.wait()


def _report(out: Path, wanted: list[str]) -> None:
    """Write how the stages ended and what they found on one page."""
    numbers = read_numbers(out)
    lines = ["# Campaign", "", *(f"- {line}" for line in numbers["machine"])]
    carried = numbers["carried_megabytes"]
    size = "not known, without git" if carried is None else f"{carried:.1f} MB"
    lines += [
        f"- {numbers['minutes']:g} minutes on {numbers['device']}",
        f"- to be carried to another machine: {size}, of at most {_MOST_CARRIED:.0f} MB",
        "",
    ]
    lines += ["| stage | ended | seconds |", "| --- | --- | --- |"]
    for name in wanted:
        part = numbers["stages"].get(name, {})
        lines.append(f"| {name} | {part.get('status', 'not begun')} | {part.get('seconds', '')} |")
    for name in wanted:
        table = out / f"{name}.md"
        if table.is_file():
            lines += ["", table.read_text().replace("# ", "## ", 1).rstrip()]
    write_text(out / REPORT, "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
