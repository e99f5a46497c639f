"""The command line: the roof, the only place that parses, prints and exits.

Help, the version and errors about arguments need neither torch nor what is built on it: the names
of what can be chosen stand in `setflow.cli.arguments`, and what they mean is imported when they are
needed.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jsonargparse import Namespace
from yaml import YAMLError

from setflow.cli.arguments import parser
from setflow.cli.checks import check_numbers
from setflow.cli.dataset import work_on_dataset
from setflow.cli.endings import Ending, Interrupted, unused, warn
from setflow.cli.evaluate import evaluate_events
from setflow.cli.going_on import going_on
from setflow.cli.promote import promote_model
from setflow.cli.sample import sample_events
from setflow.cli.score import score_events
from setflow.telling import told_as

__all__ = ["main"]

_LONGEST = 3000  # characters of an error
_EVENTS = 10_000  # of the sample that is advised


def main(argv: Sequence[str] | None = None) -> None:
    """Run `setflow ...`; errors of the user go to standard error and exit with status 2."""
    try:
        try:
            _main(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has ended, as in `setflow doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to flush
        sys.exit(128 + signal.SIGPIPE)


def _main(arguments: list[str], run: Callable[[list[str]], None] | None = None) -> None:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: warn(" ".join(str(message).split()))
            (_run if run is None else run)(arguments)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError, YAMLError) as error:
        _fail(str(error).replace("overwrite=True", "--force"))  # as it is called in Python
    except MemoryError as error:
        _fail(f"the memory of this machine does not suffice: {error or 'an array is too large'}")
    except RuntimeError as error:
        if not _is_of_memory(error):
            raise
        _fail(f"the memory of the device does not suffice: {error}")
    except Interrupted as stop:
        print(f"setflow: {stop}", file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt as stop:
        on = f"; go on with: {stop}" if str(stop) else ""
        print(f"setflow: interrupted{on}", file=sys.stderr)
        sys.exit(130)


def _fail(text: str) -> NoReturn:
    """End with an error of one line, which may hold what a stranger has written."""
    sys.stdout.flush()
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"
    text = " ".join(text.split())  # that of HDF5 and of YAML has several lines
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    print(f"setflow: error: {shown}", file=sys.stderr)
    sys.exit(2)


def _is_of_memory(error: RuntimeError) -> bool:
    """Return whether torch, which has no class for it on a CPU, has found too little memory."""
    return "OutOfMemory" in type(error).__name__ or "can't allocate memory" in str(error)


def _run(arguments: Sequence[str]) -> None:
    ending = Ending()
    if arguments[:1] == ["fit"] and not {"-h", "--help"} & {*arguments}:
        _fit(arguments[1:], ending)  # Lightning's own parser takes over
    else:
        config = parser().parse_args(arguments)
        given = config[config.command]
        action = given.get("action")
        told = given if action is None else given[action]
        told.given, told.make_part = list(arguments), _make_part
        with told_as(told.get("progress", "auto")), going_on(config.command, told, arguments):
            _COMMANDS[config.command](given, ending)


def _make_part(arguments: list[str]) -> None:
    """Be one of several processes of a command: make a part, and say nothing but errors."""
    from setflow.training.signals import Stopped, StopSignals

    def run(arguments: list[str]) -> None:
        config = parser().parse_args(arguments)
        given = config[config.command]
        with StopSignals(), told_as(given.progress):
            _COMMANDS[config.command](given, lambda *_, **__: None)

    try:
        _main(arguments, run)
    except Stopped as stop:
        sys.exit(stop.status)


def _fit(arguments: Sequence[str], ending: Ending) -> None:
    from setflow.cli.fit import fit
    from setflow.training.processes import is_first_process

    done = fit(arguments)
    if not is_first_process():  # of several processes the first one says what there is
        return
    if done.warning is not None:
        warn(done.warning)
    sampled = unused(done.model.parent / done.sampled)
    following = ["setflow", "sample", done.model, "--out", sampled]
    following += done.context or ["--events", _EVENTS]
    if done.finished:
        print(f"{done.model} is written already: {done.what}. {done.finished}")
        print(f"next: {shlex.join(map(str, following))}", flush=True)
    else:
        ending(done.model, done.what, done.goes_on or following)
    if done.status:
        sys.exit(done.status)


def _demo(config: Namespace, ending: Ending) -> None:
    check_numbers(config, "events")
    from setflow.cli.demo import demo

    model, report = demo(seed=config.seed, steps=config.steps, events=config.events)
    more = unused(model.parent / "more.h5")
    following = ["setflow", "sample", model, "--events", _EVENTS, "--seed", config.seed + 1]
    ending(report, "a report, of the model beside it", [*following, "--out", more])


def _info(config: Namespace, ending: Ending) -> None:
    from setflow.cli.info import info

    info(config.what)


def _doctor(config: Namespace, ending: Ending) -> None:
    from setflow.cli.doctor import doctor

    if doctor():
        sys.exit(1)


_COMMANDS: dict[str, Callable[[Namespace, Any], None]] = {
    "sample": sample_events,
    "score": score_events,
    "evaluate": evaluate_events,
    "dataset": work_on_dataset,
    "demo": _demo,
    "promote": promote_model,
    "info": _info,
    "doctor": _doctor,
}
