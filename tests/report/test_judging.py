"""What numbers mean: every verdict, the line on all of them, and limits."""

from __future__ import annotations

import pytest

from setflow.report.judging import Limit, Result, broken, limits_of, shortly, summary_of, verdict_of

CONTROLS = {"shuffled": 9.0, "swapped": 4.0}


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (0.2, "at the floor"),
        (1.59, "at the floor"),  # 1 + 2 * 0.3
        (1.61, "better than both controls"),
        (4.0, "better than the shuffled one only"),
        (8.9, "better than the shuffled one only"),
        (9.5, "worse than the controls"),
    ],
)
def test_every_value_has_its_verdict(value, verdict):
    assert verdict_of(value, 1.0, 0.3, CONTROLS) == verdict
    # the same mirrored, for what is better when it is larger
    mirrored = {name: -control for name, control in CONTROLS.items()}
    assert verdict_of(-value, -1.0, 0.3, mirrored, larger_is_better=True) == verdict


@pytest.mark.parametrize(
    ("value", "controls", "verdict"),
    [
        (5.0, {"shuffled": 4.0, "swapped": 9.0}, "better than the swapped one only"),
        (5.0, {"shuffled": 0.0, "swapped": 0.0}, "above the floor"),
        (5.0, {"shuffled": 1e-17, "swapped": 0.0}, "above the floor"),
        (5.0, {"shuffled": 0.0, "swapped": 9.0}, "better than the control"),
        (5.0, {"shuffled": 0.0, "swapped": 2.0}, "worse than the controls"),
        (1.0, {"shuffled": 0.0, "swapped": 0.0}, "at the floor"),
    ],
)
def test_a_control_that_is_zero_by_construction_is_no_rival(value, controls, verdict):
    assert verdict_of(value, 1.0, 0.3, controls) == verdict
    assert len(shortly(verdict)) <= 8


def result(verdict: str, value: float = 1.0) -> Result:
    return Result(value, 0.1, 1.0, 0.3, 9.0, 4.0, "", verdict)


TITLES = {"w1m": "W1M", "w1_tau21": "tau21", "fpd": "FPD", "auc_trees": "AUC"}
FLOOR, BOTH, ONLY = "at the floor", "better than both controls", "better than the shuffled one only"


@pytest.mark.parametrize(
    ("verdicts", "area", "grade"),
    [
        ((FLOOR, FLOOR, FLOOR, FLOOR), 0.51, "Like the truth, as far as 5,000 jets can tell:"),
        ((FLOOR, FLOOR, FLOOR, BOTH), 0.56, "Good, and not yet like the truth:"),
        ((BOTH, BOTH, FLOOR, BOTH), 0.65, "Good, and not yet like the truth:"),
        ((BOTH, BOTH, FLOOR, BOTH), 0.75, "Fair:"),
        ((BOTH, ONLY, FLOOR, BOTH), 0.55, "Fair:"),
        ((BOTH, BOTH, BOTH, BOTH), 0.95, "Poor:"),
        ((BOTH, "worse than the controls", BOTH, BOTH), 0.6, "Poor:"),
    ],
)
def test_one_line_says_how_good_it_is(verdicts, area, grade):
    """By W1M, tau21, FPD and the AUC together: one at the floor does not make it good."""
    metrics = {name: result(v) for name, v in zip(TITLES, verdicts, strict=True)}
    metrics["auc_trees"] = result(verdicts[-1], area)
    line = summary_of(metrics, TITLES, 5000, "jets", "momenta")
    assert line.startswith(grade)
    assert "\n" not in line
    assert f"AUC of {area:.2f} (0.5: not at all; 1: always)" in line
    assert all(title in line for title in ("W1M", "tau21", "FPD"))
    assert ("worse than true jets with swapped momenta in tau21" in line) == (ONLY in verdicts)


def test_the_line_on_other_sets_takes_all_metrics():
    metrics = {"w1_x": result(BOTH), "w1_y": result(FLOOR), "w1_pairs": result(FLOOR)}
    titles = {"w1_x": "x", "w1_y": "y", "w1_pairs": "pair distance"}
    line = summary_of(metrics, titles, 300, "events")
    assert line == (
        "Good, and not yet like the truth: at the floor of truth against truth in y and pair "
        "distance; better than both wrong controls in x."
    )


# --- limits ---

NAMES = ["w1m", "fpd", "auc_trees", "auc_transformer", "coverage"]


def test_limits_are_read():
    assert limits_of("w1m<2e-3, auc < .7,coverage>0.5", NAMES) == [
        Limit("w1m", True, 2e-3),
        Limit("auc", True, 0.7),
        Limit("coverage", False, 0.5),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("w1m", "got 'w1m', expected a metric, < or >, and a number, such as w1m<2e-3"),
        ("w1m<little", "got 'w1m<little'"),
        ("w1m<nan", "got 'w1m<nan'"),
        ("w1m<=2", "got 'w1m<=2'"),
        ("w1m<1,", "got ''"),
        ("mass<1", "no metric 'mass' to require, expected one of: w1m, fpd, auc_trees, .*, auc$"),
    ],
)
def test_what_is_no_limit_is_refused_with_what_there_is(text, told):
    with pytest.raises(ValueError, match=told):
        limits_of(text, NAMES)
    with pytest.raises(ValueError, match="no metric 'auc'"):
        limits_of("auc<0.7", ["w1m"])


def test_broken_limits_are_told_and_what_was_not_measured_is_no_pass():
    metrics = {
        "w1m": result(BOTH, 3e-3),
        "auc_trees": result(BOTH, 0.6),
        "auc_transformer": result(BOTH, 0.8),
    }
    missing = {"fpd": "needs at least 1,000 jets on each side, and there are 120"}
    told = broken(
        limits_of("w1m<2e-3,w1m>1e-3,auc<0.7,auc_trees<0.7,fpd<1", NAMES), metrics, missing
    )
    assert told == [
        "w1m<0.002 is required, and w1m is 0.003",
        "auc<0.7 is required, and auc_transformer is 0.8",
        f"fpd<1 is required, and fpd was not measured: {missing['fpd']}",
    ]
