"""The progress bar of everything that counts jets."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["counting_bar"]


def counting_bar(*, disable: bool, console: Console | None = None) -> Progress:
    """Return a bar with description, count, elapsed and remaining time.

    Arguments:
        disable: show nothing.
        console: where to draw; None takes rich's default, standard output.

    >>> with counting_bar(disable=True) as bar:
    ...     bar.add_task("jets", total=3)
    0
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=disable,
    )
