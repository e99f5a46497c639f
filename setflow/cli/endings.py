"""How a command ends: what it wrote, how long it took, and the next command to run."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from setflow.shipped import JETS, paths

__all__ = [
    "Ending",
    "Interrupted",
    "duration",
    "judged_by",
    "labelled",
    "unused",
    "warn",
]


class Interrupted(KeyboardInterrupt):
    """A signal has ended a command.

    Arguments:
        text: what is to be said of it: where the work stands, and how to go on.
        status: the exit status by which a shell knows the signal.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Ending:
    """Measures the time of a command from here on, and says at the end what it wrote."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(
        self,
        written: object,
        what: str,
        following: str | Sequence[object],
        *,
        notes: Sequence[str] = (),
        there: bool = False,
    ) -> None:
        """Print the last lines of a command.

        Arguments:
            written: the path of what it wrote.
            what: what that is.
            following: the next command, or its words.
            notes: lines to print before.
            there: whether it was there already, and there was nothing to do.
        """
        for note in notes:
            print(note)
        if there:
            print(f"{written} is written already: {what}; --force makes it anew")
        else:
            print(f"wrote {written}: {what}, in {duration(time.perf_counter() - self._start)}")
        if not isinstance(following, str):
            following = shlex.join(map(str, following))
        print(f"next: {following}", flush=True)


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(4.2), duration(125), duration(7384)
    ('4.2 s', '2 min 5 s', '2 h 3 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def judged_by(model: Path, *, jets: bool) -> list[str]:
    """Return what `setflow evaluate` takes behind a sample of a model, or nothing without a truth.

    It is the held-out file of the recipe by which the training events were made, and of jets the
    file of the training, if that is told and here.

    Arguments:
        model: its folder.
        jets: whether it makes jets.
    """
    import yaml

    train = yaml.safe_load((model / "config.yaml").read_text()).get("data", {}).get("train", "")
    train = train if isinstance(train, str) else ""
    told = json.loads((model / "manifest.json").read_text()).get("training", {}).get("train", {})
    recipe, read = told.get("recipe", Path(train).parent.name), told.get("file")
    known, reference, shipped = paths(JETS), f"{recipe}/heldout.h5", f"{recipe}/{read}"
    if reference not in known:
        return []
    if jets and shipped in known:
        return [reference, "--train", shipped]
    if jets and Path(train).name == read and Path(train).is_file():
        return [reference, "--train", train]
    return [reference]


def labelled(label: str, text: str, indent: int) -> str:
    """Return a text behind a label, broken to the width of the terminal, between 60 and 110.

    Arguments:
        label: the label.
        text: what stands behind it; words are not broken, so that they can be copied.
        indent: where the text begins.
    """
    width = max(60, min(110, shutil.get_terminal_size().columns))
    return textwrap.fill(
        f"{label:<{indent}}{text}", width, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def unused(path: Path) -> Path:
    """Return a path, with a number if there is something of its name, so that nothing is there.

    >>> unused(Path("no such file.h5")).name
    'no such file.h5'
    """
    numbered = (path.with_stem(f"{path.stem}-{k}") for k in itertools.count(2))
    return next(name for name in itertools.chain([path], numbered) if not name.exists())


def warn(text: str) -> None:
    """Print a warning, one line on standard error."""
    print(f"setflow: warning: {text}", file=sys.stderr, flush=True)
