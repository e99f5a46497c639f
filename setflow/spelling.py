"""What a misspelt name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the end of an error: the nearest of the names that are known, or nothing.

    >>> "no feature 'energi'" + nearest("energi", ["energy", "time"])
    "no feature 'energi'; did you mean 'energy'?"
    >>> nearest("charge", ["energy", "time"])
    ''
    """
    near = difflib.get_close_matches(name[:80], tuple(known), n=1, cutoff=cutoff)
    return f"; did you mean '{near[0]}'?" if near else ""
