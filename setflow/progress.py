"""How far something is: a bar in a terminal, a line every minute in a log, or JSON for programs.

A command says once, by `setflow.telling.told_as`, how it is told; what is under way tells it by
`counting_bar`.
"""

from __future__ import annotations

import json
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

from setflow.telling import is_told_as

__all__ = ["Lines", "clock", "counting_bar", "json_line"]

_EVERY = 60.0  # seconds between lines


class Lines:
    """Says when a line of progress is due: every minute.

    Arguments:
        now: the clock, in seconds.

    >>> seconds = iter(range(1000))
    >>> lines = Lines(lambda: float(next(seconds)))
    >>> [second for second in range(1, 1000) if lines.due()][:3]
    [60, 120, 180]
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last = now()

    def due(self) -> bool:
        """Return whether to write a line now; the next one is then due later."""
        now = self._now()
        if now - self._last < _EVERY:
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


def json_line(doing: str, done: float, total: float | None, seconds: float, **more: Any) -> str:
    """Return how far something is as one line of JSON.

    Arguments:
        doing: what is under way.
        done: how much is done.
        total: how much there is to do; None if that is not known.
        seconds: the time so far.
        more: what else is to be told; what is None is left out.

    >>> json_line("sampling", 3, 10, 1.5, loss=None)
    '{"doing": "sampling", "done": 3, "total": 10, "seconds": 1.5}'
    """
    told = {"doing": doing, "done": done, "total": total, "seconds": round(seconds, 1), **more}
    return json.dumps({key: value for key, value in told.items() if value is not None})


class _CountingBar(Progress):
    """Draws nothing but its last state where the console is no terminal, and lines instead."""

    def __init__(self, *columns: Any, shown: bool, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._lines, self._shown, self._begun = Lines(), shown, time.monotonic()
        self._first: dict[TaskID, float] = {}

    def add_task(self, *arguments: Any, **options: Any) -> TaskID:
        task = super().add_task(*arguments, **options)
        self._first[task] = self.tasks[task].completed
        return task

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._line(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._line(task_id)

    def _line(self, task_id: TaskID) -> None:
        task, in_json = self.tasks[task_id], is_told_as("json")
        plain = is_told_as("lines") or not self.console.is_terminal
        last = task.finished and (in_json or is_told_as("lines"))
        if not self._shown or not (in_json or plain) or (task.finished and not last):
            return
        if not last and not self._lines.due():
            return
        seconds = time.monotonic() - self._begun
        rate = (task.completed - self._first[task_id]) / max(seconds, 1e-9)
        left = None if task.total is None or rate <= 0 else (task.total - task.completed) / rate
        if in_json:
            text = json_line(
                task.description, task.completed, task.total, seconds,
                per_second=float(f"{rate:.4g}"), left=None if left is None else round(left, 1),
            )  # fmt: skip
        else:
            of = "" if task.total is None else f"/{task.total:,.0f}"
            text = f"{task.description} {task.completed:,.0f}{of}, {rate:,.4g} per second"
            text += "" if left is None else f", time left {clock(left)}"
        self.console.file.write(f"{text}\n")
        self.console.file.flush()


def counting_bar(*, disable: bool, console: Console | None = None) -> Progress:
    """Return a bar with description, count, elapsed and remaining time.

    Where the console is no terminal, a line every minute stands in its place, with the count, the
    number for each second and the time left; and lines of JSON where `told_as` has asked for them.

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
        disable=disable or not is_told_as("auto"),
        shown=not disable and not is_told_as("none"),
    )
