"""The types of objects: what the categories among their features make together.

Notation. Where objects have one category it is their type; of several, such as kind, charge and
b-tag, each combination of names is a type, K together. A type is numbered by its names, the last
category running fastest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from setflow.schema.features import Feature, kind_names
from setflow.schema.kinds import Category

__all__ = ["ObjectTypes"]


class ObjectTypes:
    """The types of objects with some features.

    Arguments:
        features: the features of an object, in the order of their columns.

    Attributes:
        features: these.
        categories: the places of those that are categories.
        numbers: the places of the others.
        sizes: how many names each category has.
        names: the K types.
        columns: what a field gets of them, a column for each name of each category.
        present: for each type, which of the `numbers` its objects have.

    >>> kinds = [Feature("pt"), Feature("type", kind="category(lepton, jet)"),
    ...          Feature("mass", absent=["lepton"]), Feature("charge", kind="category(down, up)")]
    >>> types = ObjectTypes(kinds)
    >>> types.names
    ('lepton, charge=down', 'lepton, charge=up', 'jet, charge=down', 'jet, charge=up')
    >>> types.present[0], types.present[2]
    ((True, False), (True, True))
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = tuple(features)
        places = range(len(self.features))
        self.categories = tuple(k for k in places if isinstance(self.features[k].kind, Category))
        self.numbers = tuple(k for k in places if k not in self.categories)
        listed = [kind_names(self.features[k]) for k in self.categories]
        self.sizes = tuple(map(len, listed))
        combinations = list(itertools.product(*listed))
        self.names = tuple(map(self._named, combinations))
        self.columns = tuple(
            f"{self.features[k].name}={name}"
            for k, of_one in zip(self.categories, listed, strict=True)
            for name in of_one
        )
        self.present = tuple(
            tuple(not set(self.features[k].absent) & set(names) for k in self.numbers)
            for names in combinations
        )

    def __len__(self) -> int:
        return len(self.names)

    def _named(self, names: Sequence[str]) -> str:
        """Return what a type is called, given its name in each category."""
        others = zip(self.categories[1:], names[1:], strict=True)
        return ", ".join([names[0], *(f"{self.features[k].name}={name}" for k, name in others)])

    def in_words(self, shares: Sequence[float]) -> str:
        """Return the types that occur and their shares of all objects, in words.

        >>> types = ObjectTypes([Feature("pt"), Feature("type", kind="category(lepton, jet, met)")])
        >>> types.in_words([0.25, 0.75, 0.0])
        'lepton (25 %), jet (75 %)'
        """
        told = zip(self.names, shares, strict=True)
        return ", ".join(f"{name} ({100 * share:.2g} %)" for name, share in told if share > 0)
