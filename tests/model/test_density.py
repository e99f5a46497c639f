"""What a Box-Cox exponent above 0 leaves out of the density, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

import setflow
from setflow.data import Standardizer
from setflow.model import missing_mass

LOWEST = -0.6


def make(power=0.5, **options):
    """A feature whose scaled value is standard normal, so that Phi(-0.6) of it is cut."""
    lowest = {"lowest": [LOWEST]} if power else {}
    scaler = Standardizer(kinds=[f"positive(boxcox={power})"], mean=[0.0], std=[1.0], **lowest)
    field = setflow.GaussianSetField([0.0], [1.0])
    return setflow.SetFlow(field, scaler=scaler, features=["pt"], **options)


def below(value):
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


@pytest.mark.parametrize("counts", [[0, 1], [1, 0, 0, 3]])
def test_the_missing_mass_is_that_of_events_with_any_object_below(counts):
    """One in which an event has one object, and one in which it has none or three."""
    flow = make(cardinality=setflow.EmpiricalCardinality(counts=counts))
    share = [count / sum(counts) for count in counts]
    expected = sum(p * (1 - (1 - below(LOWEST)) ** n) for n, p in enumerate(share))
    got = missing_mass(flow, 4000, seed=1, solver=setflow.Midpoint(20))
    assert got.events == 4000
    error = math.sqrt(expected * (1 - expected) / 4000)
    assert got.mass == pytest.approx(expected, abs=4 * error)
    assert got.standard_error == pytest.approx(error, rel=0.1)


def test_mass_and_integral_of_the_density_are_one():
    """Over what can be sampled: from the smallest training value on."""
    flow = make()
    smallest = (0.5 * LOWEST + 1) ** 2
    x = torch.linspace(smallest, 40.0, 20_001, dtype=torch.float64)
    with torch.no_grad():
        log_p = flow.log_prob(setflow.SetBatch(x[:, None, None]), solver=setflow.RK4(10))
    integral = torch.trapezoid(log_p.exp(), x).item()
    assert integral == pytest.approx(1 - below(LOWEST), abs=1e-5)
    got = missing_mass(flow, 4000, lengths=[1] * 4000, seed=2)
    assert got.mass + integral == pytest.approx(1, abs=4 * got.standard_error)


def test_nothing_is_missing_with_the_logarithm():
    flow = make(0.0, cardinality=setflow.EmpiricalCardinality(counts=[0, 1]))
    assert missing_mass(flow, 100) == (0.0, 0.0, 0)


def test_an_estimate_of_no_hit_has_an_error():
    flow = make(cardinality=setflow.EmpiricalCardinality(counts=[1, 0]))
    got = missing_mass(flow, 50, solver=setflow.Euler(1))
    assert got.mass == 0
    assert 0.01 < got.standard_error < 0.03
    with pytest.raises(ValueError, match="n must be at least 1"):
        missing_mass(flow, 0)
