"""Some features of a schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from setflow.schema.features import Feature, kind_names
from setflow.schema.kinds import Category

__all__ = ["known_absences"]


def known_absences(features: Sequence[Feature]) -> list[Feature]:
    """Return features, absent in those types alone that a category among them tells.

    Where the type of an object is left out nobody can know what the object lacks.

    >>> mass = Feature("mass", absent=["muon"])
    >>> known_absences([mass])[0].absent
    ()
    >>> known_absences([mass, Feature("type", kind="category(jet, muon)")])[0].absent
    ('muon',)
    """
    told = {
        name for entry in features if isinstance(entry.kind, Category) for name in kind_names(entry)
    }
    return [
        replace(entry, absent=[name for name in entry.absent if name in told]) for entry in features
    ]
