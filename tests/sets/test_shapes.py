"""Shapes: events are the trailing dimensions, and nothing is broadcast."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from each import each
from setflow.sets.shapes import (
    TensorSpec,
    as_tuple,
    event_numel,
    flatten_event,
    split_event,
    unflatten_event,
    validate_shapes,
)


def test_events_are_the_trailing_dimensions():
    x = torch.randn(2, 3, 4, 5)
    assert split_event(x, 2) == ((2, 3), (4, 5))
    assert split_event(x, 0) == ((2, 3, 4, 5), ())
    flat = flatten_event(x, event_ndim=2)
    assert flat.shape == (2, 3, 20)
    assert torch.equal(unflatten_event(flat, event_shape=(4, 5)), x)
    assert flatten_event(torch.zeros(0, 4, 5), 2).shape == (0, 20)
    assert event_numel(()) == 1
    assert as_tuple([2, 3]) == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_ndim": 2, "expected_event_shape": (5, 4)}, r"expected \(5, 4\), got \(4, 5\)"),
        ({"event_ndim": 2, "batch_shape": (2, 1)}, r"expected \(2, 1\), got \(2, 3\)"),
        ({"event_ndim": 5}, "at least 5 dimensions"),
        ({"event_ndim": -1}, "at least 0"),
    ],
)
def test_shapes_are_exact(arguments, message):
    with pytest.raises(ValueError, match=message):
        validate_shapes(torch.zeros(2, 3, 4, 5), **arguments)


def test_unflatten_checks_the_count():
    with pytest.raises(ValueError, match="last dimension of 20"):
        unflatten_event(torch.zeros(2, 19), (4, 5))


@pytest.mark.parametrize(
    ("event_shape", "expected", "numel"),
    [((4, 5), (4, 5), 20), ([4, 5], (4, 5), 20), (3, (3,), 3), ((), (), 1), ((0, 3), (0, 3), 0)],
)
def test_tensor_spec_counts_dimensions_and_coordinates(event_shape, expected, numel):
    spec = TensorSpec(event_shape)
    assert (spec.event_shape, spec.event_ndim, spec.numel) == (expected, len(expected), numel)
    assert spec == TensorSpec(expected)
    assert hash(spec) == hash(TensorSpec(expected))


def test_tensor_spec_describes_a_tensor():
    spec = TensorSpec((4, 5), torch.float32)
    assert TensorSpec((4, 5)).dtype is None
    x = torch.zeros(2, 3, *spec.event_shape, dtype=spec.dtype)
    assert x.dtype == torch.float32
    assert split_event(x, spec.event_ndim) == ((2, 3), spec.event_shape)
    assert flatten_event(x, spec.event_ndim).shape[-1] == spec.numel
    assert spec != TensorSpec((4, 5), torch.float64)
    with pytest.raises(AttributeError):
        spec.dtype = torch.float64
    with pytest.raises(ValueError, match="at least 0"):
        TensorSpec((4, -1))


@each("shape", ["3", 3.5, (3.5,), (None,), True, [[3]], ("a", "b")])
def test_a_shape_is_made_of_integers(shape):
    with pytest.raises(TypeError, match=r"a shape is .*, expected an integer of at least 0 or sev"):
        as_tuple(shape)


def test_sizes_are_not_negative():
    with pytest.raises(
        ValueError, match=r"not be negative but at least 0, got the shape \(2, -1\)"
    ):
        as_tuple((2, -1))
    assert as_tuple(np.int64(3)) == (3,)
    assert as_tuple(torch.Size((2, 0))) == (2, 0)
    assert as_tuple(np.array([2, 3])) == (2, 3)
