"""Progress: a bar in a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import io

from rich.console import Console

from setflow.progress import Lines, counting_bar


def test_lines_of_a_day_are_no_thousands():
    seconds = 0.0
    lines = Lines(lambda: seconds)
    written = 0
    while seconds < 86_400:
        seconds += 0.5
        written += lines.due()
    assert 50 < written < 100


def test_a_log_file_gets_lines_and_the_end(monkeypatch):
    monkeypatch.setattr("setflow.progress._FIRST", 0.0)
    monkeypatch.setattr("setflow.progress._GROWTH", 0.0)
    console = Console(file=io.StringIO(), width=100)
    with counting_bar(disable=False, console=console) as bar:
        task = bar.add_task("scoring", total=4)
        for _ in range(4):
            bar.advance(task, 1)
    lines = console.file.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines[:3]] == [f"scoring {k}/4" for k in (1, 2, 3)]
    assert "4/4" in lines[-1]
    assert len(lines) == 4
