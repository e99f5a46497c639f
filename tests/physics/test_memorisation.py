"""The nearest-neighbour ratio: 1 for jets of the truth, less for copies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from setflow.physics import nearest_neighbour_ratio

F64 = torch.float64


def normal(n, seed, features=5):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_held_out_jets_have_one_and_copies_zero():
    training, held_out, other = normal(2000, 0), normal(800, 1), normal(800, 2)
    found = nearest_neighbour_ratio(other, held_out, training)
    assert abs(found.value - 1) < 4 * found.error
    assert 0.01 < found.error < 0.1
    assert nearest_neighbour_ratio(training[:800], held_out, training).value == 0.0
    nearly = training[:800] + 1e-3 * normal(800, 3)
    assert nearest_neighbour_ratio(nearly, held_out, training).value < 0.02
    some = torch.cat([training[:320], other[:480]])
    seen = nearest_neighbour_ratio(some, held_out, training)
    assert 1 - seen.value > 5 * seen.error


def test_the_error_is_the_scatter_of_the_value():
    training = normal(2000, 0)
    found = [
        nearest_neighbour_ratio(normal(400, 2 * k), normal(400, 2 * k + 1), training)
        for k in range(1, 30)
    ]
    values = torch.tensor([estimate.value for estimate in found])
    errors = torch.tensor([estimate.error for estimate in found])
    assert values.std() / errors.mean() == pytest.approx(1, abs=0.4)


def test_units_do_not_matter_and_neighbours_are_exact():
    training, held_out, other = normal(50, 0), normal(20, 1), normal(20, 2)
    units = torch.tensor([1.0, 1e-6, 1e3, 1.0, 0.0], dtype=F64)  # the last is a constant
    found = nearest_neighbour_ratio(other * units, held_out * units, training * units)
    scale = training.std(0, unbiased=False)
    near, far = (
        torch.cdist((side / scale)[:, :4], (training / scale)[:, :4]).amin(1).numpy()
        for side in (other, held_out)
    )
    assert math.isclose(found.value, np.median(near) / np.median(far), rel_tol=1e-8)


def test_true_jets_are_not_copies_and_copies_are_seen(published):
    training = published.same.efps
    half = published.real.efps[:2500], published.real.efps[2500:]
    fresh = nearest_neighbour_ratio(*half, training)
    assert abs(fresh.value - 1) < 5 * fresh.error
    assert nearest_neighbour_ratio(training[:1000], half[1], training).value == 0.0


def test_what_is_not_defined_is_refused():
    training, held_out = normal(50, 0), normal(20, 1)
    with pytest.raises(ValueError, match="half of the held-out jets are in the training"):
        nearest_neighbour_ratio(held_out, training[:20], training)
    with pytest.raises(ValueError, match=r"generated has shape \(20, 4\) and training \(50, 5\)"):
        nearest_neighbour_ratio(held_out[:, :4], held_out, training)
    held_out[3, 1] = float("inf")
    with pytest.raises(ValueError, match="held_out holds values that are not finite"):
        nearest_neighbour_ratio(training, held_out, training)
