"""Formulas of columns, such as `exp(log_pt) / jet_pt`: parsed, checked, and computed with NumPy.

Python's parser makes the tree, and a formula may hold nothing but names, numbers, `+ - * / **` and
the functions of `FUNCTIONS`. It is walked, never compiled: nothing of Python can be reached.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setflow.spelling import nearest

__all__ = ["FUNCTIONS", "Expression", "no_such_name", "parse"]

LONGEST = 1000
DEEPEST = 100

Column = NDArray[Any]


def _sign(x: Column) -> Column:
    return np.where(x < 0, -1.0, 1.0)


def _delta_phi(a: Column, b: Column) -> Column:
    difference = a - b
    turns = np.floor((difference + math.pi) / (2 * math.pi))
    wrapped = difference - 2 * math.pi * turns
    return np.clip(np.where(wrapped >= math.pi, -math.pi, wrapped), -math.pi, None)


FUNCTIONS: dict[str, tuple[int, Callable[..., Column]]] = {
    "log": (1, np.log),
    "exp": (1, np.exp),
    "sqrt": (1, np.sqrt),
    "sin": (1, np.sin),
    "cos": (1, np.cos),
    "sinh": (1, np.sinh),
    "arcsinh": (1, np.arcsinh),
    "arctan2": (2, np.arctan2),
    "hypot": (2, np.hypot),
    "abs": (1, np.abs),
    "sign": (1, _sign),
    "deltaphi": (2, _delta_phi),
}
"""What a formula may call: the number of arguments, and what computes it.

`sign(x)` is -1 below 0 and 1 otherwise, also at 0; `deltaphi(a, b)` is a - b in [-pi, pi).
"""

_BINARY: dict[type[ast.operator], Callable[..., Column]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_UNARY: dict[type[ast.unaryop], Callable[..., Column]] = {
    ast.UAdd: np.positive,
    ast.USub: np.negative,
}


@dataclass(frozen=True)
class Expression:
    """A formula of columns.

    Arguments:
        text: as it was written.
        names: the columns that it needs, in the order in which they stand.
    """

    text: str
    names: tuple[str, ...]
    _tree: ast.expr

    def __call__(self, columns: Mapping[str, Column]) -> Column:
        """Return the value, in float64, of columns whose shapes broadcast.

        Arguments:
            columns: at least those of `names`.

        >>> parse("2 * x ** 2 - hypot(3, 4)")({"x": np.array([1.0, 2.0])})
        array([-3.,  3.])
        """
        with np.errstate(all="ignore"):  # what stands in padding is anything
            return _value(self._tree, columns)


def parse(text: Any, where: str = "the expression") -> Expression:
    """Return a formula.

    Arguments:
        text: the formula; a number is taken as one.
        where: what it is called in errors.

    Raises:
        ValueError: if it is malformed, or holds anything else; it names the position.

    >>> parse("exp(log_pt) / jet_pt").names
    ('log_pt', 'jet_pt')
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        text = repr(text)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where} is {text!r}, expected a formula such as 'exp(log_pt) / jet_pt'")
    text = text.strip()
    if len(text) > LONGEST:
        raise ValueError(f"{where} has {len(text)} characters, expected at most {LONGEST}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that run into words
            tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        at = "" if error.offset is None else f" at position {min(error.offset, len(text) + 1)}"
        raise ValueError(f"{where}, {text!r}, cannot be read{at}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{where}, {text!r:.60}, cannot be read: {error}") from None
    names: dict[str, None] = {}
    _check(tree, text, where, names, DEEPEST)
    return Expression(text, tuple(names), tree)


def no_such_name(name: str, known: Iterable[str], where: str) -> ValueError:
    """Return the error that a name is not there, with the nearest that is."""
    known = tuple(known)
    shown = ", ".join(known[:30]) + (f" and {len(known) - 30} more" if len(known) > 30 else "")
    return ValueError(
        f"{where}: there is no '{name}'; there are {shown or 'none'}"
        + nearest(name, known, cutoff=0.5)
    )


def _check(node: ast.AST, text: str, where: str, names: dict[str, None], depth: int) -> None:
    """Refuse all but what a formula may hold, and collect the names of columns."""

    def refuse(what: str) -> ValueError:
        # positions count bytes in the tree and characters here
        column = getattr(node, "col_offset", 0)
        at = len(text.encode()[:column].decode(errors="ignore")) + 1
        return ValueError(f"{where}, {text!r}, at position {at}: {what}")

    if depth == 0:
        raise refuse(f"brackets lie deeper than {DEEPEST}")
    parts: list[ast.expr] = []
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            raise refuse(f"{node.value!r} is no number")
        try:
            finite = math.isfinite(float(node.value))
        except OverflowError:
            finite = False
        if not finite:
            raise refuse("the number is too large")
    elif isinstance(node, ast.Name):
        if node.id.startswith("__"):
            raise refuse(f"{node.id} is no name of a column")
        names[node.id] = None
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        parts = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        parts = [node.operand]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        function = node.func.id
        if function not in FUNCTIONS:
            hint = nearest(function, FUNCTIONS, cutoff=0.5)
            raise refuse(f"there is no function {function}, expected {', '.join(FUNCTIONS)}{hint}")
        expected = FUNCTIONS[function][0]
        if node.keywords or len(node.args) != expected:
            raise refuse(f"{function} takes {expected} argument{'s' if expected > 1 else ''}")
        parts = list(node.args)
    else:
        raise refuse(f"expected names, numbers, + - * / **, and functions: {', '.join(FUNCTIONS)}")
    for part in parts:
        _check(part, text, where, names, depth - 1)


def _value(node: ast.expr, columns: Mapping[str, Column]) -> Column:
    """Return the value of a tree that `_check` has passed."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, (int, float))
        return np.float64(node.value)  # type: ignore[return-value]
    if isinstance(node, ast.Name):
        return np.asarray(columns[node.id], np.float64)
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_value(node.left, columns), _value(node.right, columns))
    if isinstance(node, ast.UnaryOp):
        return _UNARY[type(node.op)](_value(node.operand, columns))
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return FUNCTIONS[node.func.id][1](*(_value(part, columns) for part in node.args))
