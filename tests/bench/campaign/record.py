"""What a stage finds, kept as it is found: a table in Markdown and its part of numbers.json."""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import REPOSITORY
from setflow.files import write_text

__all__ = ["CUT_OFF", "HELD_OUT", "NUMBERS", "Record", "Stage", "read_numbers"]

HELD_OUT = REPOSITORY / "datasets/pythia-top/heldout.h5"
NUMBERS = "numbers.json"
CUT_OFF = 75
"""The exit status of a stage that ended its work itself, for want of time."""


@dataclass(frozen=True)
class Stage:
    """What a stage is given.

    Arguments:
        name: its name.
        out: the folder of the campaign.
        device: where to run, `cuda` or `cpu`.
        deadline: when it must have ended, in seconds of `time.time()`; it is stopped then.
        data: the file of training jets.
        scale: how large the work is, 1 on a GPU and 0.01 in a rehearsal on a CPU.
    """

    name: str
    out: Path
    device: str
    deadline: float
    data: Path
    scale: float

    def left(self) -> float:
        """Return how many seconds are left."""
        return self.deadline - time.time()

    def scaled(self, count: int, least: int = 1) -> int:
        """Return a count at the scale of the campaign, `least` at the least."""
        return max(least, round(count * self.scale))


@dataclass
class Record:
    """The rows and remarks of a stage; every addition rewrites `<name>.md` and numbers.json whole.

    Rows with the same columns that follow each other form one table.

    Arguments:
        stage: the stage.
        title: the heading of the table.
    """

    stage: Stage
    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        """Add a row, its columns by name; numbers are shown to four digits."""
        self.rows.append(row)
        self._write()
        told = ", ".join(f"{name} {_shown(value)}" for name, value in row.items())
        sys.stdout.write(f"{self.stage.name}: {told}\n")

    def note(self, text: str) -> None:
        """Add a remark, which stands below the table."""
        self.notes.append(text)
        self._write()
        sys.stdout.write(f"{self.stage.name}: {text}\n")

    def _write(self) -> None:
        lines = [f"# {self.title}", ""]
        for columns, rows in itertools.groupby(self.rows, key=tuple):  # rows of a kind: one table
            lines += [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
            for row in rows:
                lines.append(f"| {' | '.join(map(_shown, row.values()))} |")
            lines.append("")
        lines += [f"- {note}" for note in self.notes]
        write_text(self.stage.out / f"{self.stage.name}.md", "\n".join(lines).rstrip() + "\n")
        numbers = read_numbers(self.stage.out)
        part = numbers.setdefault("stages", {}).setdefault(self.stage.name, {})
        part.update(rows=self.rows, notes=self.notes)
        write_text(self.stage.out / NUMBERS, json.dumps(numbers, indent=2) + "\n")


def read_numbers(out: Path) -> dict[str, Any]:
    """Return what numbers.json of a folder holds, or nothing if it is not there."""
    path = out / NUMBERS
    return json.loads(path.read_text()) if path.is_file() else {}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
