"""The units that are known, with what they are worth; others may be named freely, such as `pe`."""

from __future__ import annotations

import math

__all__ = ["UNITS", "misspelt"]

UNITS: tuple[dict[str, float], ...] = (
    {"eV": 1e-9, "keV": 1e-6, "MeV": 1e-3, "GeV": 1.0, "TeV": 1e3},
    {"rad": 1.0, "deg": math.pi / 180},
    {"um": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1e3},
    {"ps": 1e-3, "ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9},
)
"""What units are worth, by dimension; radians have none."""


def misspelt(unit: str) -> str | None:
    """Return the known unit from which one differs by the case of its letters alone, or None.

    A single letter is none: `M` and `S` are units of their own.

    >>> misspelt("Gev"), misspelt("GeV"), misspelt("pe"), misspelt("S")
    ('GeV', None, None, None)
    """
    known = {one.lower(): one for family in UNITS for one in family if len(one) > 1}
    usual = known.get(unit.lower())
    return None if usual == unit else usual
