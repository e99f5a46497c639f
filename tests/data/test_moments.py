"""Mean and deviation in one pass, against those of all rows at once."""

from __future__ import annotations

from functools import reduce
from operator import add

import pytest
import torch

from each import each
from setflow.data import Standardizer
from setflow.data.moments import Moments
from setflow.sets.weights import weighted_std_mean


def rows(n=1000, offset=0.0):
    return offset + torch.randn(n, 3, generator=torch.Generator().manual_seed(n)).double()


@each("sizes", [[1000], [1] * 1000, [1, 998, 1], [0, 300, 0, 700], [17] * 58 + [14]])
@each("offset", [0.0, 1e4])
def test_parts_add_to_the_whole(sizes, offset):
    values = rows(offset=offset)
    found = reduce(add, map(Moments.of, values.split(sizes)), Moments.none(3))
    std, mean = torch.std_mean(values, dim=0)
    torch.testing.assert_close(found.std_mean(), (std, mean), rtol=1e-12, atol=1e-12)
    assert torch.equal(found.lowest, values.amin(0))


@each("sizes", [[1000], [1] * 1000, [2] * 500, [333, 667]])
def test_weights_of_both_signs_that_cancel_within_a_part_do_no_harm(sizes):
    values = rows(offset=30.0)
    weight = torch.ones(1000).double()
    weight[1::2] = -1.0  # each pair sums to nothing
    weight[::5] += 2.0
    parts = zip(values.split(sizes), weight.split(sizes), strict=True)
    found = reduce(add, (Moments.of(*part) for part in parts))
    expected = weighted_std_mean(values, weight)
    torch.testing.assert_close(found.std_mean(weighted=True), expected, rtol=1e-11, atol=1e-12)


def test_a_constant_has_no_deviation():
    values = torch.full((1000, 1), 0.1)
    found = reduce(add, map(Moments.of, values.split(7)))
    assert float(found.std_mean()[0]) == 0
    with pytest.raises(ValueError, match=r"feature 0 is constant \(0.1\)"):
        Standardizer(1).fit_moments(found)


def test_too_few_rows_are_refused_as_in_fit():
    with pytest.raises(ValueError, match="at least two real objects, got 1"):
        Standardizer(3).fit_moments(Moments.of(rows(1)))
