"""Which events are taken."""

from __future__ import annotations

import numpy as np
import pytest

from each import each
from setflow.data.selection import selection_of

COLUMNS = {"pt": np.array([100.0, 500.0, 900.0, np.nan]), "eta": np.array([-3.0, 1.0, 2.0, 0.0])}


@each(
    ("text", "expected"),
    [
        ("pt > 500", [2]),
        ("pt >= 500", [1, 2]),
        ("100 < pt < 900", [1]),
        ("pt > 50 and abs(eta) < 2.5", [1, 2]),
        ("pt != 500", [0, 2]),
        ("pt == 500", [1]),
        ("sqrt(pt) <= 10", [0]),
        ("eta < 0.5", [0, 3]),
        ("pt * 2 > 900 - eta and eta != 2", [1]),
    ],
)
def test_comparisons_of_formulas(text, expected):
    assert np.flatnonzero(selection_of(text)(COLUMNS)).tolist() == expected


@each(
    "text",
    [
        "", "pt", "pt +", "pt > 1 or eta > 1", "not pt > 1", "pt in (1, 2)", "pt is 3",
        "__import__('os').system('x') > 1", "pt.real > 1", "(lambda: 1)() > 0", "1 < 2",
        "pt[0] > 1", "pt > 'a'", "[pt] > 1", "(pt > 1) + 1 > 1", "pt > 1; eta", 3, None,
    ],
)  # fmt: skip
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="select"):
        selection_of(text)


@each("text", ["pt > 1 or eta > 1", "not pt > 1", "pt > 1 and (eta > 1 or eta < 0)"])
def test_only_and_joins_conditions(text):
    with pytest.raises(ValueError, match="only `and` joins conditions"):
        selection_of(text)


def test_a_name_that_is_not_there_is_told_with_the_nearest():
    with pytest.raises(ValueError, match=r"there is no 'ptt'.*did you mean 'pt'"):
        selection_of("ptt > 1")(COLUMNS)
