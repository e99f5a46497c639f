"""What a context is of: a row per event, a row per object, another set."""

from __future__ import annotations

import pytest
import torch

import setflow
from setflow.sets.context import AnotherSet, PerObject, Row, resolve_context
from setflow.sets.events import Events


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
