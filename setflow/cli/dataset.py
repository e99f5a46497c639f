"""`setflow dataset`: files of events made, looked at, shared out and put together."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from setflow.cli.checks import check_numbers, check_output, events_file
from setflow.cli.convert import convert_files, given_of
from setflow.cli.endings import Ending, labelled, warn
from setflow.files import NewFile, check_target

if TYPE_CHECKING:
    from setflow.data.spread import Spread
    from setflow.jobs.check import Checked

__all__ = ["work_on_dataset"]

_PICTURES = (".png", ".pdf", ".svg")

_LABEL, _NUMBER = 26, 11  # characters of a label and of a number


def work_on_dataset(config: Namespace, ending: Ending) -> None:
    """Do what the action of the command names.

    Raises:
        ImportError: if a package that reads, writes or simulates is not installed.
        OSError: if a file cannot be read or written.
        ValueError: if arguments do not fit each other, or a file does not have the format.
    """
    _ACTIONS[config.action](config[config.action], ending)


def _make(config: Namespace, ending: Ending) -> None:
    """Simulate the events of a recipe."""
    check_numbers(config, "events", "jobs")
    check_output(config.out, force=config.force)
    from setflow.data.recipes import Recipe, make_dataset

    stores = Recipe.load(config.folder).stores
    try:
        path = make_dataset(
            config.folder,
            events=config.events,
            out=config.out,
            jobs=config.jobs,
            seed=config.seed,
            overwrite=config.force,
        )
    except RuntimeError as error:  # of Pythia, or of cuts that nothing passes
        raise ValueError(str(error)) from error
    named = "top30" if stores == "jets" else "ttbar-events"
    following = ["setflow", "fit", "--config", named, "--data.train", path, "--name", path.stem]
    ending(path, f"{config.events:,} {stores}", following)


def _merge(config: Namespace, ending: Ending) -> None:
    """Put files of events together."""
    check_output(config.out, force=config.force)
    from setflow.data.merging import merge, shards_of

    files = shards_of([Path(given) for given in config.files])
    path = merge(files, Path(config.out), overwrite=config.force, virtual=config.virtual)
    what = f"the events of {len(files)} file{'' if len(files) == 1 else 's'}"
    ending(path, what, ["setflow", "info", path])


def _check(config: Namespace, ending: Ending) -> None:
    """Print what files hold, and exit with status 1 if something of it cannot be."""
    given = given_of(config)
    from setflow.data.formats.convert import inputs_of
    from setflow.jobs.check import check_files

    faults = 0
    for one in check_files(inputs_of(config.files), given):
        _print(one)
        faults += len(one.faults)
    if faults:
        sys.exit(1)


def _split(config: Namespace, ending: Ending) -> None:
    """Share the events of a file out among several."""
    events_file(config.file)
    from setflow.data.header import read_header
    from setflow.data.splitting import split_events
    from setflow.schema import words_of

    fractions = [one for given in config.fractions for one in given]
    parts = split_events(config.file, config.out, fractions, overwrite=config.force)
    events = words_of(read_header(config.file).features).events
    told = ", ".join(f"{n:,}" for n in parts)
    for n, path in zip(parts, config.out, strict=True):
        if not n:
            warn(f"{path} holds no {events}: the file has too few for its fraction")
    ending(" ".join(map(str, config.out)), f"{told} {events}", ["setflow", "info", config.out[0]])


def _show(config: Namespace, ending: Ending) -> None:
    """Draw what a file of events holds."""
    given, out = given_of(config), Path(config.out)
    if out.suffix.lower() not in _PICTURES:
        raise ValueError(
            f"{out} is not named like a picture, expected a name that ends in "
            f"{', '.join(_PICTURES[:-1])} or {_PICTURES[-1]}"
        )
    check_target(out, overwrite=config.force)
    from setflow.data.formats.convert import inputs_of
    from setflow.data.formats.unchecked import unchecked
    from setflow.data.tally import Tally
    from setflow.report.contents import write_contents

    entry, *others = inputs_of([config.file])
    if others:
        raise ValueError(
            f"{config.file} are {1 + len(others)} files, {entry.path} and others, expected one; "
            "draw them one by one"
        )
    with unchecked(entry, given) as file:
        tally = Tally(file.schema, file.words)
        for rows in file:
            tally.add(rows)
    title = f"{entry.path.name}: {tally.n:,} {tally.called.events}"
    with NewFile(out, overwrite=config.force) as part:
        panels = write_contents(tally, title, part, out.suffix[1:].lower())
    following = ["setflow", "dataset", "check", entry.path]
    ending(out, f"{panels} spectra of {tally.n:,} {tally.called.events}", following)


def _print(one: Checked) -> None:
    print(f"{one.path}: {one.title}")
    heads = ("smallest", "1%", "median", "99%", "largest")
    print(f"{'':{_LABEL}}{''.join(f'{head:>{_NUMBER}}' for head in heads)}")
    for label, spread in one.table.items():
        print(f"{label:<{_LABEL}}{''.join(map(_shown, _numbers(spread)))}")
    for label, text in one.lines:
        print(labelled(label, text, _LABEL))
    for fault in one.faults:
        print(labelled("wrong", fault.text, _LABEL))
    if not one.faults:
        print(labelled("wrong", "nothing", _LABEL))
    sys.stdout.flush()  # before the warnings, which go elsewhere
    for text in one.doubts:
        warn(text if str(one.path) in text else f"{one.path}: {text}")


def _numbers(spread: Spread) -> list[float]:
    from setflow.jobs.check import PLACES

    return [spread.low, *spread.quantiles(PLACES).tolist(), spread.high]


def _shown(value: float) -> str:
    return f"{'none' if math.isnan(value) else format(value, '.4g'):>{_NUMBER}}"


_ACTIONS: dict[str, Callable[[Namespace, Ending], None]] = {
    "make": _make,
    "convert": convert_files,
    "merge": _merge,
    "check": _check,
    "split": _split,
    "show": _show,
}
