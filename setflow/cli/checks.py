"""What commands check of their arguments before anything heavy is imported."""

from __future__ import annotations

import shlex
from pathlib import Path

from jsonargparse import Namespace

from setflow.cli.endings import unused
from setflow.files import (
    MANIFEST,
    check_folder,
    check_hdf5_name,
    check_target,
    has_manifest,
    require_regular,
)
from setflow.shipped import JETS, MODELS, find, known

__all__ = [
    "TRAINED",
    "UNFINISHED",
    "check_numbers",
    "check_output",
    "check_resumable",
    "events_file",
    "model_folder",
]

TRAINED = "setflow fit writes one to runs/<name>/model"
"""Where a model comes from, for errors."""


def check_output(path: str, *, force: bool) -> None:
    """Check the name of an HDF5 file to write.

    Raises:
        OSError: if something is there, and `force` is False, or the file cannot be written.
        ValueError: if it is not named like one.
    """
    check_target(check_hdf5_name(path), overwrite=force)


def check_resumable(out: Path, *, force: bool) -> None:
    """Check an output that may be there already, made by the same command.

    Raises:
        OSError: if something else is there, and `force` is False, or it cannot be written.
        ValueError: if a file is not named like one of HDF5.
    """
    if out.suffix:
        check_hdf5_name(out)
    if not force and out.exists() and has_manifest(out):
        return
    if out.suffix:
        check_target(out, overwrite=force)
    else:
        check_folder(out, marker=MANIFEST, overwrite=force)


UNFINISHED = "this is a sample that is not complete; the command that began it goes on with it"
"""Of a folder `<name>.part`."""


def events_file(given: str) -> Path:
    """Return the path of a file of events, given by its path or by the name of a shipped one.

    Raises:
        OSError: if there is none.
        ValueError: if it is of another format.
    """
    path = find(JETS, given)
    if path.exists() and not path.is_dir():
        require_regular(path)
    if path.is_file() and path.suffix.lower() not in (".h5", ".hdf5"):
        from setflow.data.formats.recognise import of_bytes, told_of

        if (alien := of_bytes(path)) is not None:
            raise ValueError(told_of(path, *alien))
    if path.is_dir():
        advice = "name one"
        if path.suffix == ".part" and has_manifest(path):
            advice = UNFINISHED
        elif has_manifest(path) and any(path.glob("*.h5")):
            merge = ["setflow", "dataset", "merge", given, "--out", unused(path.with_suffix(".h5"))]
            advice = f"make one of its files: {shlex.join(map(str, merge))}"
        raise IsADirectoryError(f"{given} is a folder, expected an HDF5 file of events; {advice}")
    check_hdf5_name(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{given} does not exist, expected an HDF5 file of events; {known(JETS, given)}"
        )
    return path


def model_folder(given: str) -> Path:
    """Return the folder of a model, given by its path or by the name of a shipped one.

    Raises:
        OSError: if there is none.
    """
    path = find(MODELS, given)
    if path.is_file():
        raise NotADirectoryError(
            f"{given} is a file, expected the folder of a model; {TRAINED}; {known(MODELS)}"
        )
    if not path.is_dir():
        raise FileNotFoundError(f"no model folder at {given}; {TRAINED}; {known(MODELS, given)}")
    return path


def check_numbers(config: Namespace, *names: str) -> None:
    """Check numbers that must be positive, by name, and the seed, which all commands have.

    Raises:
        ValueError: if one is out of its range.
    """
    for name in names:
        value = config[name]
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is {value}, expected at least 1")
    seed = config.get("seed")
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"--seed is {seed}, expected a whole number from 0 to 2**63 - 1")
