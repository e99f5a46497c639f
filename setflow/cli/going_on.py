"""What is said where a command ends before its time, of what it has written and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import Namespace

from setflow.cli.devices import output_of, parts_of
from setflow.cli.endings import Interrupted

__all__ = ["going_on"]

_LONG = ("sample", "score")


@contextmanager
def going_on(command: str, config: Namespace, arguments: Sequence[str]) -> Iterator[None]:
    """Say of a signal, and of a failure to write, what is written and by which command to go on.

    Arguments:
        command: its name; of those that do not go on, nothing is said.
        config: its arguments.
        arguments: the command line as it was given.

    Raises:
        Interrupted: if a signal came.
        OSError: if one came from the block.
    """
    if command not in _LONG:
        yield
        return
    from setflow.training.signals import Stopped, StopSignals

    outs = parts_of(config.out, config.devices) if config.devices > 1 else [output_of(config)[0]]
    same = shlex.join(["setflow", *arguments])
    try:
        with StopSignals():
            yield
    except Stopped as stop:
        text = f"stopped by {stop.name}; {_written(command, outs, same)}"
        raise Interrupted(text, stop.status) from None
    except OSError as error:
        if error.errno is None:  # it is ours, of what was asked for
            raise
        kept = _written(command, outs, same)
        if kept.startswith("nothing"):
            raise
        raise OSError(f"{error}; {kept}") from error


def _written(command: str, outs: Sequence[Path], same: str) -> str:
    """Return how much is written, and the command that goes on."""
    if command == "sample":
        from setflow.jobs.pieces import part_of, written_in

        done, what = sum(map(written_in, outs)), "events"
        parts = [str(part_of(out)) for out in outs]
    else:
        from setflow.jobs.score import rows_in

        done, what = sum(map(rows_in, outs)), "rows"
        parts = [str(out.with_name(f"{out.name}.part")) for out in outs]
    whole = [str(out) for out in outs if len(outs) > 1 and out.exists()]
    if not done and not whole:
        return f"nothing was written; begin with: {same}"
    if len(outs) > 1:
        listed = ", ".join([*whole, *(part for part in parts if Path(part).exists())])
        return f"what is done stands in {listed}; go on with: {same}"
    return f"{done:,} {what} are written in {parts[0]}; go on with: {same}"
