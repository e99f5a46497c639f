"""How far something is: a bar in a terminal, and elsewhere a line now and then.

A log file is read after hours: there the lines come at growing distances, so that an hour leaves
some dozens of them, and the last one always stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Lines", "clock", "counting_bar"]

_FIRST, _GROWTH = 10.0, 0.1  # seconds between lines, and as a part of the time so far


class Lines:
    """Says when a line of progress is due: after 10 s, then after a tenth of the time so far.

    Arguments:
        now: the clock, in seconds.

    >>> seconds = iter(range(1000))
    >>> lines = Lines(lambda: float(next(seconds)))
    >>> [second for second in range(1, 1000) if lines.due()][:6]
    [10, 20, 30, 40, 50, 60]
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start = self._last = now()

    def due(self) -> bool:
        """Return whether to write a line now; the next one is then due later."""
        now = self._now()
        if now - self._last < max(_FIRST, _GROWTH * (now - self._start)):
            return False
        self._last = now
        return True


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds.

    >>> clock(125), clock(7384)
    ('2:05', '2:03:04')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _CountingBar(Progress):
    """Draws nothing but its last state where the console is no terminal, and lines instead."""

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._lines = Lines()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._line(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._line(task_id)

    def _line(self, task_id: TaskID) -> None:
        task = self.tasks[task_id]
        if self.disable or self.console.is_terminal or task.finished or not self._lines.due():
            return
        left = "" if task.time_remaining is None else f", time left {clock(task.time_remaining)}"
        count = f"{task.completed:,.0f}/{task.total or 0:,.0f}"
        self.console.print(f"{task.description} {count}{left}", highlight=False)


def counting_bar(*, disable: bool, console: Console | None = None) -> Progress:
    """Return a bar with description, count, elapsed and remaining time.

    Where the console is no terminal, lines with the same stand in its place, dozens in an hour.

    Arguments:
        disable: show nothing.
        console: where to draw; None takes rich's default, standard output.

    >>> with counting_bar(disable=True) as bar:
    ...     bar.add_task("jets", total=3)
    0
    """
    return _CountingBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=disable,
    )
