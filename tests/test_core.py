"""Floor 0: shapes, masks, batches, expansion, folders by rename."""

from __future__ import annotations

import pytest
import torch

import setflow
from setflow.data import SetBatch
from setflow.sets.context import AnotherSet, PerObject, Row, resolve_context
from setflow.sets.events import Events
from setflow.sets.masks import as_mask, rank_of_real, zero_padding
from setflow.sets.shapes import (
    TensorSpec,
    as_tuple,
    event_numel,
    expand_time,
    flatten_event,
    split_event,
    unflatten_event,
    validate_shapes,
)

# --- shapes ---


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


# --- masks ---


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32])
def test_masks_of_any_dtype(dtype):
    mask = torch.tensor([[1, 0, 1]], dtype=dtype)
    assert torch.equal(as_mask(mask), torch.tensor([[True, False, True]]))


def test_rank_counts_real_objects():
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1]]).bool()
    assert rank_of_real(mask)[mask].tolist() == [0, 1, 2, 0, 1]


def test_zero_padding_keeps_real_values_and_gradients():
    x = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]], requires_grad=True)
    mask = torch.tensor([True, False])
    out = zero_padding(x, mask)
    out.sum().backward()
    assert out.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert x.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]


# --- time and context ---


def test_time_is_expanded_to_the_lead_shape():
    like = torch.zeros((), dtype=torch.float32)
    for t in (0.5, torch.tensor(0.5), torch.full((2, 3), 0.5)):
        assert torch.equal(
            expand_time(t, (2, 3), like), torch.full((2, 3), 0.5, dtype=torch.float32)
        )
    with pytest.raises(ValueError, match="one time per event"):
        expand_time(torch.zeros(3), (2, 3), like)


def test_the_kind_of_a_context_is_decided_once():
    def shape(c, lead=(5, 2), event=(7, 3), batch_ndim=1):
        context = resolve_context(c, lead, event, batch_ndim)
        return type(context), tuple(context.values[0].shape)

    assert shape(torch.zeros(2, 4)) == (Row, (5, 2, 4))
    assert shape(torch.zeros(2, 7, 4)) == (PerObject, (5, 2, 7, 4))
    assert shape(torch.zeros(2, 1, 8, 8), event=(3, 8, 8)) == (Row, (5, 2, 1, 8, 8))
    another = setflow.SetBatch(torch.zeros(2, 4, 6), torch.ones(2, 4), torch.zeros(2, 3))
    assert shape(another) == (AnotherSet, (5, 2, 4, 6))
    assert resolve_context(another, (5, 2), (7, 3), 1).row.shape == (5, 2, 3)
    for wrong in ((3, 4), (4,), (2,), (2, 6, 4), (5, 2, 4)):
        with pytest.raises(ValueError, match="one context row per event"):
            shape(torch.zeros(wrong))
    with pytest.raises(ValueError, match="one set per event"):
        shape(setflow.SetBatch(torch.zeros(3, 4, 6), torch.ones(3, 4)))


@pytest.mark.parametrize("kind", [Row, PerObject, AnotherSet])
def test_unused_context_is_selected_away_and_comes_back_in_order(kind):
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    values = torch.randn(3, 3, 2)
    context = {
        Row: lambda: Row(values[:, 0].clone()),
        PerObject: lambda: PerObject(values.clone()),
        AnotherSet: lambda: AnotherSet(values.clone(), ~mask, values[:, 0].clone()),
    }[kind]()
    for value in context.values:
        value[1] = torch.nan
    events = Events(torch.randn(3, 3, 4), mask, 2, torch.rand(3), context.selected(mask))
    assert all(bool(value.isfinite().all()) for value in events.context.values)
    if kind is AnotherSet:
        assert not events.context.mask[1].any()
    rows, slots = torch.tensor([2, 0]), torch.tensor([[2, 0], [0, 2]])
    taken = events.taken(rows, slots, mask[rows[:, None], slots])
    assert torch.equal(taken.x, events.x[rows[:, None], slots])
    assert torch.equal(taken.t, events.t[rows])
    for mine, theirs in zip(taken.context.values, events.context.values, strict=True):
        expected = theirs[rows[:, None], slots] if kind is PerObject else theirs[rows]
        assert torch.equal(mine, expected)


# --- batches ---


def _ragged():
    return [torch.randn(2, 3), torch.randn(0, 3), torch.randn(4, 3)]


def test_ragged_round_trip():
    events = _ragged()
    batch = SetBatch.from_ragged(events, torch.arange(3.0)[:, None])
    assert batch.lengths.tolist() == [2, 0, 4]
    assert len(batch) == 3
    for one, other in zip(batch.to_ragged(), events, strict=True):
        assert torch.equal(one, other)
    assert batch.x[~batch.mask].abs().sum() == 0
    assert SetBatch.from_ragged(events, length=9).x.shape == (3, 9, 3)


def test_trim_drops_columns_that_no_event_uses():
    mask = torch.tensor([[0, 1, 0, 1, 0], [0, 1, 0, 0, 0]]).bool()
    batch = SetBatch(torch.randn(2, 5, 3), mask)
    trimmed = batch.trim()
    assert trimmed.x.shape == (2, 2, 3)
    for one, other in zip(trimmed.to_ragged(), batch.to_ragged(), strict=True):
        assert torch.equal(one, other)
    assert SetBatch(torch.zeros(2, 5, 3), torch.zeros(2, 5)).trim().x.shape == (2, 0, 3)
    assert SetBatch(torch.zeros(5, 3), mask[0]).trim().x.shape == (2, 3)


def test_to_changes_values_and_not_the_mask():
    batch = SetBatch.from_ragged(_ragged(), torch.zeros(3, 1)).to(torch.float32)
    assert (batch.x.dtype, batch.c.dtype, batch.mask.dtype) == (
        torch.float32, torch.float32, torch.bool
    )  # fmt: skip


def test_selecting_events():
    batch = SetBatch.from_ragged(_ragged(), torch.arange(3.0)[:, None])
    assert batch[1:].lengths.tolist() == [0, 4]
    assert batch[torch.tensor([2, 0])].c.flatten().tolist() == [2.0, 0.0]
    with pytest.raises(IndexError, match="no batch dimension"):
        batch[0][0]


@pytest.mark.parametrize(
    ("x", "mask", "c", "message"),
    [
        ((2, 5, 3), (2, 4), None, r"mask has shape \(2, 4\), expected \(2, 5\)"),
        ((2, 5), (2, 5), None, "at least one dimension more"),
        ((2, 5, 3), (2, 5), (3, 1), "one row per event"),
        ((2, 5, 3), (2, 5), (1,), "one row per event"),
    ],
)
def test_batches_that_do_not_fit_together(x, mask, c, message):
    with pytest.raises(ValueError, match=message):
        SetBatch(torch.zeros(x), torch.ones(mask), None if c is None else torch.zeros(c))


@pytest.mark.parametrize(
    ("events", "length", "message"),
    [
        ([], None, "empty list"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], None, "equal feature shapes"),
        ([torch.zeros(3)], None, "equal feature shapes"),
        ([torch.zeros(5, 3)], 4, "does not fit into length=4"),
    ],
)
def test_ragged_events_that_do_not_fit(events, length, message):
    with pytest.raises(ValueError, match=message):
        SetBatch.from_ragged(events, length=length)
