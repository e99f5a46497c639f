"""Progress: a bar in a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import io
import json

from rich.console import Console

from setflow.progress import Lines, counting_bar
from setflow.telling import told_as


def test_a_line_is_due_every_minute():
    seconds = 0.0
    lines = Lines(lambda: seconds)
    written = 0
    while seconds < 3600:
        seconds += 0.5
        written += lines.due()
    assert written == 60


def test_a_log_file_gets_lines_and_the_end(monkeypatch):
    monkeypatch.setattr("setflow.progress._EVERY", 0.0)
    console = Console(file=io.StringIO(), width=100)
    with counting_bar(disable=False, console=console) as bar:
        task = bar.add_task("scoring", total=4)
        for _ in range(4):
            bar.advance(task, 1)
    lines = console.file.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines[:3]] == [f"scoring {k}/4" for k in (1, 2, 3)]
    assert all("per second, time left" in line for line in lines[:3])
    assert "4/4" in lines[-1]
    assert len(lines) == 4


def test_work_that_goes_on_is_not_counted_as_done_now(monkeypatch):
    monkeypatch.setattr("setflow.progress._EVERY", 0.0)
    seconds = iter([0.0, 0.0, 0.0, 10.0, 10.0, 20.0, 20.0])
    monkeypatch.setattr("setflow.progress.time.monotonic", lambda: next(seconds, 20.0))
    console = Console(file=io.StringIO(), width=100)
    with told_as("json"), counting_bar(disable=False, console=console) as bar:
        task = bar.add_task("sampling", total=1000, completed=900)
        bar.advance(task, 50)
        bar.advance(task, 50)
    first, last = (json.loads(line) for line in console.file.getvalue().splitlines())
    assert (first["doing"], first["done"], first["total"]) == ("sampling", 950, 1000)
    assert first["left"] == first["seconds"]  # as many are done as are left
    assert (last["done"], last["left"]) == (1000, 0)


def test_nothing_is_told_where_nothing_is_asked_for():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with told_as("none"), counting_bar(disable=False, console=console) as bar:
        bar.advance(bar.add_task("sampling", total=1), 1)
    assert console.file.getvalue() == ""
