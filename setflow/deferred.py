"""Public names that are imported when they are first asked for, so that a package opens at once.

A package says what it exports by ordinary imports, which a type checker, an editor and a reader
understand, but under `if TYPE_CHECKING:`, where nothing runs them::

    if TYPE_CHECKING:
        from setflow.paths import CosinePath, LinearPath
    else:
        __getattr__, __dir__ = module_functions(__name__)

These imports are the table of what there is: it stands in the source once, and is read there when
the first name is asked for. Submodules are names too. The functions are those of PEP 562.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

__all__ = ["module_functions"]


def module_functions(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package whose exports stand under TYPE_CHECKING.

    Arguments:
        package: the name of the package, its `__name__`.

    >>> find, names = module_functions("setflow.training")
    >>> find("Muon").__name__, "Muon" in names()
    ('Muon', True)
    """

    def find(name: str) -> Any:
        module = sys.modules[package]
        home = None if name.startswith("_") else _homes(package).get(name, package)
        if home not in (None, package):
            value = getattr(importlib.import_module(home), name)
        elif home == package and importlib.util.find_spec(f"{package}.{name}"):
            value = importlib.import_module(f"{package}.{name}")
        else:
            known = [] if name.startswith("_") else names()
            close = get_close_matches(name, known, n=1)
            near = f"; did you mean {close[0]}?" if close else ""
            # without obj=, by which some shells would add the same hint
            raise AttributeError(f"module {package!r} has no attribute {name!r}{near}", name=name)
        setattr(module, name, value)  # the next time it is an ordinary attribute
        for other, place in _homes(package).items():  # and so is what came along with it
            if other not in vars(module) and hasattr(sys.modules.get(place), other):
                setattr(module, other, getattr(sys.modules[place], other))
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *_homes(package)})

    return find, names


@functools.cache
def _homes(package: str) -> dict[str, str]:
    """Return the module that holds each name which a package imports under TYPE_CHECKING."""
    spec = importlib.util.find_spec(package)
    source = None if spec is None else getattr(spec.loader, "get_source", lambda _: None)(package)
    if source is None:
        raise ImportError(
            f"the source of {package} is not there, and tells what it exports; install setflow "
            "with its .py files"
        )
    homes = {}
    for block in ast.parse(source).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for statement in block.body:
                assert isinstance(statement, ast.ImportFrom), f"{package}: expected from .. import"
                assert statement.module is not None, f"{package}: imports are absolute"
                assert all(alias.asname is None for alias in statement.names), package
                homes.update({alias.name: statement.module for alias in statement.names})
    return homes
