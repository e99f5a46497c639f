"""What travels with the package, found by name: recipes, configurations, a model and true jets.

In a clone of the repository they stand in its folders `datasets/` and `models/`; a wheel carries
copies of these inside the package. A name is that of a folder in there, `pythia-top` or `top30`;
jets are named with their file, `pythia-top/heldout.h5`. What a clone would call it is understood
too, so that `models/top30/config.yaml` and `datasets/pythia-top/heldout.h5` lead there from any
folder. A path that exists wins over a name, but for a folder in the place of a configuration.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["CONFIGURATIONS", "JETS", "MODELS", "RECIPES", "Kind", "clone", "find", "known", "paths"]

_PACKAGE = Path(__file__).resolve().parent
_COPIES = _PACKAGE / "_shipped"


@dataclass(frozen=True)
class Kind:
    """One kind of what is shipped.

    Arguments:
        what: what it is called in messages, in the plural.
        folder: the folder of the repository that has a folder for each.
        file: a pattern of the file in that folder that makes it one of the kind.
        means: what a name means: the `folder`, the `file` in it, or one of several `files`, which
            the name then tells too.
    """

    what: str
    folder: str
    file: str
    means: str


RECIPES = Kind("recipes", "datasets", "recipe.yaml", "folder")
CONFIGURATIONS = Kind("configurations", "models", "config.yaml", "file")
MODELS = Kind("models", "models", "manifest.json", "folder")
JETS = Kind("files of jets and events", "datasets", "*.h5", "files")


def clone() -> Path | None:
    """Return the root of the clone or source tree that the package is imported from, or None."""
    root = _PACKAGE.parent
    here = (root / "pyproject.toml").is_file() and (root / "datasets").is_dir()
    return root if here else None


def paths(kind: Kind) -> dict[str, Path]:
    """Return what is shipped of a kind, the paths by their names.

    >>> sorted(paths(RECIPES))
    ['pythia-gluon', 'pythia-quark', 'pythia-top', 'pythia-ttbar-events']
    """
    root = _COPIES if _COPIES.is_dir() else clone()
    if root is None:
        return {}
    found = {}
    for path in sorted((root / kind.folder).glob(f"*/{kind.file}")):
        name = path.parent.name
        if kind.means == "files":
            name = f"{name}/{path.name}"
        found[name] = path.parent if kind.means == "folder" else path
    return found


def find(kind: Kind, given: str | os.PathLike[str]) -> Path:
    """Return the path that a path or a name leads to.

    Arguments:
        kind: what is looked for.
        given: a path, or the name of something that is shipped.

    Returns:
        The path that was given if it exists or no such thing is shipped; who reads it says what is
        missing, with `known`.

    Raises:
        TypeError: if it is neither a path nor a name.

    >>> find(RECIPES, "pythia-top").name, find(JETS, "no-such.h5").name
    ('pythia-top', 'no-such.h5')
    """
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(
            f"got {given!r}, expected a path, or the name of what is shipped: {known(kind)}"
        )
    path = Path(given)
    folder = kind.means == "file" and path.is_dir() and not (path / kind.file).is_file()
    if path.exists() and not folder:
        return path
    return paths(kind).get(_name(kind, path), path)


def known(kind: Kind, given: str | os.PathLike[str] | None = None) -> str:
    """Return what is shipped of a kind, for the end of a message on something that is not there.

    Arguments:
        kind: what was looked for.
        given: what was given instead, to which the nearest name is told.

    >>> known(RECIPES, "pythia-tpo").partition(", did ")[2]
    'you mean pythia-top?'
    """
    names = list(paths(kind))
    if not names:
        return f"no {kind.what} are shipped with this installation"
    text = f"the shipped {kind.what} are {', '.join(names)}"
    if given is not None and (close := difflib.get_close_matches(_name(kind, Path(given)), names)):
        text += f", did you mean {close[0]}?"
    return text


def _name(kind: Kind, path: Path) -> str:
    """Return the name that a path of a clone stands for."""
    parts = PurePosixPath(path.as_posix()).parts
    if parts[:1] == (kind.folder,):
        parts = parts[1:]
    if kind.means != "files" and parts[1:] == (kind.file,):
        parts = parts[:1]
    return "/".join(parts)
