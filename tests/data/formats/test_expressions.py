"""Formulas of columns: values against NumPy, and nothing else that Python could do."""

import math

import numpy as np
import pytest

from each import each
from setflow.data.formats.expressions import FUNCTIONS, parse

COLUMNS = {"x": np.array([0.3, -1.7, 2.5]), "y": np.array([1.1, 0.4, -0.2]), "part_pt": np.ones(3)}


def wrapped(a, b):
    return np.arctan2(np.sin(a - b), np.cos(a - b))


NUMPY = {name: getattr(np, name, None) for name in FUNCTIONS}
NUMPY |= {"sign": lambda x: np.where(x < 0, -1, 1), "deltaphi": wrapped}


def drawn(rng, depth):
    """A formula, with what Python makes of it where names are columns and functions NumPy's."""
    kind = rng.integers(0, 6 if depth else 2)
    if kind == 0:
        return str(rng.choice(["x", "y"]))
    if kind == 1:
        return str(rng.choice(["2", "0.5", "1e-3", "3.25"]))
    if kind == 2:
        name = str(rng.choice(list(FUNCTIONS)))
        parts = [drawn(rng, depth - 1) for _ in range(FUNCTIONS[name][0])]
        return f"{name}({', '.join(parts)})"
    if kind == 3:
        return f"-{drawn(rng, depth - 1)}"
    left, right = drawn(rng, depth - 1), drawn(rng, depth - 1)
    form = str(rng.choice(["({}) {} ({})", "{} {} {}"]))
    return form.format(left, rng.choice(["+", "-", "*", "/", "**"]), right)


def test_values_are_those_of_numpy():
    rng, finite = np.random.default_rng(3), 0
    for _ in range(500):
        text = drawn(rng, 4)
        with np.errstate(all="ignore"):
            scope = {"__builtins__": {}, **NUMPY, **COLUMNS}
            for number in ("2", "0.5", "1e-3", "3.25"):
                scope[f"c{number}"] = number
            numbers = text
            expected = np.broadcast_to(eval(_in_float64(numbers), {**scope, "f": np.float64}), 3)
        got = np.broadcast_to(parse(text)(COLUMNS), 3)
        finite += int(np.isfinite(expected).all())
        near = np.abs(np.where(np.isfinite(expected), expected, 0)) < 1e6  # of sines and angles
        np.testing.assert_allclose(got[near], expected[near], rtol=1e-9, atol=1e-9, err_msg=text)
    assert finite > 200


def _in_float64(text):
    """The same formula with the numbers as NumPy has them: 2 / 0 is no error there."""
    import re

    return re.sub(r"(?<![\w.])(\d[\w.]*(?:-\d+)?)", r"f('\1')", text)


def test_what_a_function_means_at_its_edges():
    at = {"x": np.array([0.0, -0.0, -2.0, math.pi, 3 * math.pi, -math.pi])}
    assert parse("sign(x)")(at).tolist() == [1, 1, -1, 1, 1, -1]
    wrapped = parse("deltaphi(x, 0)")(at)
    assert ((wrapped >= -math.pi) & (wrapped < math.pi)).all()
    np.testing.assert_allclose(wrapped[3:], -math.pi)
    assert parse(3)({}) == 3


@each(
    "text",
    [
        "__import__('os').system('true')",
        "x.__class__",
        "(1).__class__.__bases__[0]",
        "x[0]",
        "lambda: 1",
        "[y for y in x]",
        "(y := 3)",
        "x if y else 2",
        "x < y",
        "x and y",
        "not x",
        "~x",
        "x // y",
        "x % y",
        "x @ y",
        "x << y",
        "'text'",
        "b'text'",
        "f'{x}'",
        "1j",
        "True",
        "None",
        "...",
        "{1: 2}",
        "*x",
        "exec('1')",
        "eval(x)",
        "open(x)",
        "getattr(x, y)",
        "exp(x)(y)",
        "exp(*x)",
        "exp(x, out=y)",
        "hypot(x)",
        "np.exp(x)",
        "exp",
        "__builtins__",
        "x; y",
        "x = 1",
        "import os",
        "await x",
        "yield x",
        "",
        "   ",
        "x +",
        "((x)",
        "x\x00",
        "9" * 400,
        "1e999",
        "(" * 900,
        "-" * 900 + "x",
        "+".join("x" * 900),
        "x" * 2000,
        None,
        True,
        [1],
    ],
)
def test_nothing_else_is_a_formula(text):
    if text == "exp":
        assert parse(text).names == ("exp",)  # the name of a column, which no file need have
        return
    with pytest.raises(ValueError, match="the expression"):
        parse(text)


def test_large_powers_take_no_time():
    assert np.isinf(parse("9 ** 9 ** 9")({}))


@each(
    ("text", "told"),
    [
        ("x + hypo(x, y)", "at position 5: there is no function hypo.*did you mean 'hypot"),
        ("x + (y", "cannot be read at position 5"),
        ("x * y[0]", "at position 5: expected names"),
        ("exp(x, y)", "exp takes 1 argument$"),
        ("'é' + x", "at position 1: 'é' is no number"),
        ("x * 'é' + y[0]", "at position 5"),
    ],
)
def test_errors_name_the_position_and_the_nearest_name(text, told):
    with pytest.raises(ValueError, match=told):
        parse(text)
