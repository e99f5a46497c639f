"""Which events are taken: conditions on their features, such as `pt > 500 and abs(eta) < 2`.

They are comparisons of formulas (`setflow.data.formats.expressions`), parsed and never run as
Python.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setflow.data.formats.expressions import Expression, no_such_name, parse

__all__ = ["Selection", "selection_of"]

_COMPARE: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


@dataclass(frozen=True)
class Selection:
    """Conditions, of which an event fulfils all.

    Arguments:
        text: as it was written.
        names: the features of events that it needs.
    """

    text: str
    names: tuple[str, ...]
    _parts: tuple[tuple[Expression, Callable[..., Any], Expression], ...]

    def __call__(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Return which events are taken, with shape `(n,)`; none whose value is NaN.

        Arguments:
            columns: the features of events by name, each with shape `(n,)`.

        Raises:
            ValueError: if one is not there; it tells the nearest.

        >>> selection_of("500 < pt")({"pt": np.array([400.0, 600.0])})
        array([False,  True])
        """
        for name in self.names:
            if name not in columns:
                raise no_such_name(name, columns, f"select, {self.text!r}")
        taken = np.ones(len(next(iter(columns.values()))), np.bool_)
        with np.errstate(invalid="ignore"):
            for left, compare, right in self._parts:
                both = left(columns), right(columns)
                taken &= compare(*both) & ~np.isnan(both[0]) & ~np.isnan(both[1])
        return taken


def selection_of(text: str) -> Selection:
    """Return conditions.

    Arguments:
        text: comparisons of formulas by < <= > >= == !=, joined by `and`.

    Raises:
        ValueError: if it is malformed, or holds anything else.

    >>> selection_of("500 < pt < 1000 and abs(eta) <= 2.5").names
    ('pt', 'eta')
    """
    where = "select"
    expected = "expected comparisons such as 'pt > 500 and abs(eta) < 2'"
    if not isinstance(text, str) or not text.strip() or len(text) > 1000:
        raise ValueError(f"{where} is {text!r:.60}, {expected}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{where}, {text!r:.60}, cannot be read: {error}; {expected}") from None
    if any(isinstance(part, ast.Or | ast.Not) for part in ast.walk(tree)):
        raise ValueError(
            f"{where}, {text!r:.60}, has an `or` or a `not`, and only `and` joins conditions; turn "
            "the comparison round, or train on a file that holds what is wanted"
        )
    both = isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)
    parts = []
    for part in tree.values if both and isinstance(tree, ast.BoolOp) else [tree]:
        if not isinstance(part, ast.Compare):
            raise ValueError(
                f"{where}, {text!r}: {ast.unparse(part)!r} compares nothing; {expected}"
            )
        sides = [parse(ast.unparse(side), where) for side in (part.left, *part.comparators)]
        for left, compare, right in zip(sides, part.ops, sides[1:], strict=False):
            if type(compare) not in _COMPARE:
                raise ValueError(f"{where}, {text!r}: expected < <= > >= == or != between formulas")
            parts.append((left, _COMPARE[type(compare)], right))
    names = dict.fromkeys(name for left, _, right in parts for name in (*left.names, *right.names))
    if not names:
        raise ValueError(f"{where}, {text!r}, names no feature of an event; {expected}")
    return Selection(text.strip(), tuple(names), tuple(parts))
