"""What a misspelt name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """Return the end of an error: the nearest of the names that are known, or nothing.

    >>> "no feature 'energi'" + nearest("energi", ["energy", "time"])
    "no feature 'energi'; did you mean 'energy'?"
    >>> nearest("charge", ["energy", "time"]), nearest("mass", ["class", "pt"])
    ('', '')
    >>> nearest("glue", ["quark", "gluon"])
    "; did you mean 'gluon'?"
    """
    listed, name = tuple(known), name[:80]
    near = [one for one in listed if sorted(one) == sorted(name)]  # two letters that changed places
    near = near or difflib.get_close_matches(name, listed, n=1, cutoff=cutoff)
    alike = [one for one in listed if name[:3] and one[:3] == name[:3]]  # they begin alike
    near = near or difflib.get_close_matches(name, alike, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
