"""What events hold, counted: numbers by hand, and one fault at a time."""

from __future__ import annotations

import re

import numpy as np
import pytest

from each import each
from setflow.data.tally import ACCEPTED, Rows, Tally
from setflow.data.valid import OF_JETS
from setflow.schema import JETNET, Feature, Schema

RNG = np.random.default_rng(2)
SCHEMA = Schema(JETNET.objects, [Feature("pt", "GeV"), Feature("class", kind="category(a, b)")])


def rows(n=100, slots=10):
    lengths = RNG.integers(2, slots + 1, n)
    real = np.arange(slots) < lengths[:, None]
    x = RNG.normal(0, 0.1, (n, slots, 3))
    x[..., 2] = 0.9 / lengths[:, None]
    x[~real] = np.nan
    event = np.stack([RNG.uniform(800, 1200, n), np.arange(n) % 2], -1)
    return x, real, event, lengths.astype(float)


def counted(x, real, event, counts=None, weights=None, blocks=1):
    tally = Tally(SCHEMA, OF_JETS)
    for there in np.array_split(np.arange(len(x)), blocks):
        some = {name: weight[there] for name, weight in (weights or {}).items()}
        told = None if counts is None else counts[there]
        tally.add(Rows(x[there], real[there], event[there], told, weights=some))
    return tally


@each("blocks", [1, 3, 100])
def test_numbers_of_a_good_file(blocks):
    x, real, event, counts = rows()
    tally = counted(x, real.astype("i1"), event, counts, {"weight": event[:, 0]}, blocks)
    assert (tally.faults(), tally.doubts()) == ([], [])
    assert (tally.n, tally.objects, tally.zeros) == (100, real.sum(), 0)
    assert tally.lengths.tolist() == np.bincount(real.sum(1)).tolist()
    assert tally.numbers.mean == pytest.approx(real.sum(1).mean())
    for k, (feature, spread) in enumerate(tally.spreads[:3]):
        assert feature == JETNET.objects[k]
        assert (spread.n, spread.low) == (real.sum(), x[real][:, k].min())
        np.testing.assert_allclose(spread.quantiles([0.3]), np.quantile(x[real][:, k], 0.3))
    assert tally.spreads[3][1].high == event[:, 0].max()
    (label, codes), *others = tally.codes
    assert (label.name, dict(codes), others) == ("class", {0: 50, 1: 50}, [])
    np.testing.assert_allclose([tally.sums.low, tally.sums.high], 0.9)
    total, least = tally.weights["weight"]
    assert (total, least) == (pytest.approx(event[:, 0].sum()), event[:, 0].min())
    assert tally.counted


def spoilt(what):
    x, real, event, counts = rows()
    flags, weights = real.astype("f8"), {}
    if what == "mask":
        flags[7, 1] = 2
    elif what == "nan":
        x[7, 1, 0] = np.nan
    elif what == "ptrel":
        x[7, 1, 2] = -1
    elif what == "phirel":
        x[7, 1, 1] = 3.5
    elif what == "pt":
        event[7, 0] = np.inf
    elif what == "class":
        event[7, 1] = 2
    elif what == "counts":
        counts[7] += 1 - 2 * (counts[7] == 10)
    elif what == "weights":
        weights = {"weight": np.where(np.arange(100) == 7, np.nan, 1.0)}
    elif what == "gev":
        x[..., 2] *= 2
    elif what == "zeros":
        x[:, 0] = 0
    return counted(x, flags, event, counts, weights, blocks=4)


@each(
    ("what", "name", "told"),
    [
        ("mask", "mask", r"1 of 100 jets have a mask .* row 7, particle 1, .* 2\.0, expected 1"),
        ("nan", "finite", r"1 of 100 jets have real particles .* row 7, .*'etarel' holds nan"),
        ("ptrel", "limits", r"1 of 100 jets hold 1 value of ptrel .* row 7, .* holds -1"),
        ("phirel", "limits", r"1 value of phirel .* radians in \[-pi, pi\); wrap the angles"),
        ("pt", "event", r"row 7, column 'pt' of jet_features holds inf"),
        ("class", "event", r"row 7, column 'class' .* holds 2, expected a whole number from 0"),
        ("counts", "counts", r"1 of 100 jets have another number .* row 7, .* the mask says"),
        ("weights", "weights", r"1 of 100 jets have a weight .* row 7, weight holds nan"),
        ("gev", "ptrel", r"ptrel sums to 1\.8 over a jet .* expected at most 1\.5"),
    ],
)
def test_a_fault_is_counted_with_its_first_row(what, name, told):

    (fault,) = spoilt(what).faults()
    assert fault.name == name
    assert re.search(told, fault.text), fault.text


def test_padding_that_is_called_real():
    tally = spoilt("zeros")
    names = [fault.name for fault in tally.faults()]
    assert names == ["limits", "zeros"]  # a ptrel of 0 cannot be
    assert tally.zeros == 100
    assert {"zeros", "ptrel", "counts", "same"} == set(ACCEPTED)
    # a few may happen
    plain = Tally(Schema([Feature("x"), Feature("y")]))
    x = RNG.normal(size=(50, 10, 2))
    x[3, 4] = 0
    plain.add(Rows(x, np.ones((50, 10)), np.zeros((50, 0))))
    assert plain.faults() == []
    assert plain.doubts() == ["1 of 500 real objects (0.002) are all 0"]


def test_what_is_doubtful_is_told():
    x, real, event, _ = rows()
    x[50:60], real[50:60] = x[:10, ::-1], real[:10, ::-1]  # in another order of the slots
    event[:, 0] = 1000
    assert counted(x, real, event).doubts() == [
        "10 of 100 jets are the same as one before",
        "pt is 1000 everywhere",
    ]
    x, real, event, _ = rows()
    x[..., 1] = RNG.uniform(-np.pi, np.pi, x.shape[:2])
    (doubt,) = counted(x, real, event).doubts()
    assert "phirel fills the whole circle" in doubt


def test_no_events():
    tally = counted(*(part[:0] for part in rows()[:3]))
    assert (tally.n, tally.faults(), tally.doubts()) == (0, [], [])
