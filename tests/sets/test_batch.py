"""A padded batch: ragged round trips, trimming, selection, and what does not fit together."""

from __future__ import annotations

import pytest
import torch

from setflow.data import SetBatch


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
