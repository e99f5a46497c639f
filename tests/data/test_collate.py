"""Padding, grouping by length, and data in memory: nothing is lost, nothing is seen twice."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.data import DataLoader

from setflow.data.collate import LengthBatchSampler, SetDataset, pad_collate
from setflow.sets.batch import SetBatch

LENGTHS = torch.randint(0, 60, (1003,), generator=torch.Generator().manual_seed(1))


def _ragged(sizes: list[int]) -> list[torch.Tensor]:
    return [torch.full((size, 3), float(k + 1)) for k, size in enumerate(sizes)]


def _padding(batches: list[list[int]]) -> int:
    return sum(int((LENGTHS[b].max() - LENGTHS[b]).sum()) for b in batches)


def test_pad_collate_keeps_every_event_and_says_what_is_padding() -> None:
    events = _ragged([3, 0, 1])
    batch = pad_collate(events)
    assert batch.x.shape == (3, 3, 3)
    assert batch.mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert batch.c is None
    for event, back in zip(events, batch.to_ragged(), strict=True):
        assert torch.equal(event, back)
    assert (batch.x[~batch.mask] == 0).all()


def test_pad_collate_stacks_the_contexts() -> None:
    contexts = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    batch = pad_collate(list(zip(_ragged([2, 1]), contexts, strict=True)))
    assert batch.c is not None
    assert batch.c.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_pad_collate_works_in_a_data_loader() -> None:
    loader = DataLoader(_ragged([2, 5, 1]), batch_size=2, collate_fn=pad_collate)  # type: ignore[arg-type]
    assert [tuple(batch.x.shape) for batch in loader] == [(2, 5, 3), (1, 1, 3)]


def test_pad_collate_refuses_what_does_not_belong_together() -> None:
    with pytest.raises(ValueError, match="no items, expected at least one"):
        pad_collate([])
    with pytest.raises(TypeError, match="1 of 2 items have a context; expected all of them"):
        pad_collate([torch.zeros(2, 3), (torch.zeros(2, 3), torch.zeros(1))])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="item of type dict, expected a tensor"):
        pad_collate([{"x": 1}])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="equal feature shapes"):
        pad_collate([torch.zeros(2, 3), torch.zeros(2, 4)])
    pair = [(torch.zeros(1, 3), torch.zeros(1)), (torch.zeros(1, 3), torch.zeros(2))]
    with pytest.raises(ValueError, match=r"contexts have shapes \[\(1,\), \(2,\)\], expected one"):
        pad_collate(pair)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("window", [1, 3, 50])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 2000])
def test_an_epoch_holds_every_event_once(batch_size: int, window: int, shuffle: bool) -> None:
    sampler = LengthBatchSampler(LENGTHS, batch_size, shuffle=shuffle, window=window)
    batches = list(sampler)
    assert sorted(k for batch in batches for k in batch) == list(range(len(LENGTHS)))
    assert len(batches) == len(sampler)
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)


def test_drop_last_leaves_out_fewer_than_a_batch() -> None:
    sampler = LengthBatchSampler(LENGTHS, 64, drop_last=True)
    batches = list(sampler)
    seen = [k for batch in batches for k in batch]
    assert len(batches) == len(sampler) == 1003 // 64
    assert {len(batch) for batch in batches} == {64}
    assert len(set(seen)) == len(seen) == 1003 - 1003 % 64
    dropped = set(range(1003)) - set(seen)
    again = {k for batch in sampler for k in batch}
    assert set(range(1003)) - again != dropped, "another epoch drops other events"


def test_grouping_saves_padding_and_a_window_of_one_does_not_group() -> None:
    grouped = _padding(list(LengthBatchSampler(LENGTHS, 16, window=50)))
    plain = _padding(list(LengthBatchSampler(LENGTHS, 16, window=1)))
    assert grouped < 0.1 * plain


def test_batches_do_not_come_in_order_of_length() -> None:
    means = [
        LENGTHS[b].double().mean().item() for b in LengthBatchSampler(LENGTHS, 16, window=1000)
    ]
    falls = sum(after < before for before, after in itertools.pairwise(means))
    assert 0.3 * len(means) < falls < 0.7 * len(means), "as often up as down"
    unshuffled = LengthBatchSampler(LENGTHS, 16, shuffle=False, window=1000)
    means = [LENGTHS[b].double().mean().item() for b in unshuffled]
    assert means == sorted(means)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    sampler, twin = LengthBatchSampler(LENGTHS, 16, seed=3), LengthBatchSampler(LENGTHS, 16, seed=3)
    first, second = list(sampler), list(sampler)
    torch.manual_seed(99)
    torch.rand(7)
    assert list(twin) == first
    assert list(twin) == second
    assert first != second
    assert list(LengthBatchSampler(LENGTHS, 16, seed=4)) not in (first, second)


def test_the_sampler_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    list(LengthBatchSampler(LENGTHS, 16))
    assert torch.equal(before, torch.get_rng_state())


def test_set_epoch_names_the_next_iteration_and_counting_goes_on() -> None:
    counted = LengthBatchSampler(LENGTHS, 16)
    epochs = [list(counted) for _ in range(4)]
    told = LengthBatchSampler(LENGTHS, 16)
    for epoch in range(4):
        told.set_epoch(epoch)
        assert list(told) == epochs[epoch]
    told.set_epoch(2)
    assert list(told) == epochs[2]
    assert list(told) == epochs[3]


def test_the_sampler_of_no_events_and_wrong_arguments() -> None:
    assert list(LengthBatchSampler([], 4)) == []
    with pytest.raises(ValueError, match=r"lengths has shape \(2, 2\), expected \(n,\)"):
        LengthBatchSampler(torch.ones(2, 2), 4)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        LengthBatchSampler([1], 0)


def _events() -> SetBatch:
    mask = torch.arange(60) < LENGTHS[:, None]
    x = torch.arange(len(LENGTHS) * 60 * 2, dtype=torch.float64).reshape(-1, 60, 2)
    return SetBatch(torch.where(mask[..., None], x, torch.nan), mask, LENGTHS[:, None].double())


def test_a_set_dataset_gives_batches_trimmed_in_the_order_asked_for() -> None:
    events = _events()
    data = SetDataset(events)
    indices = [5, 900, 5, 0]
    batch = data[indices]
    assert torch.equal(data.lengths, LENGTHS)
    assert torch.equal(batch.lengths, LENGTHS[indices])
    assert batch.x.shape[1] == LENGTHS[indices].max()
    assert batch.c is not None
    assert torch.equal(batch.c[:, 0].long(), LENGTHS[indices])
    for k, back in zip(indices, batch.to_ragged(), strict=True):
        assert torch.equal(back, events.x[k][events.mask[k]])
    assert torch.equal(data[-1].x[0], events.x[-1][events.mask[-1]])
    with pytest.raises(IndexError, match="event 1003 of 1003"):
        data[1003]


def test_a_set_dataset_with_the_sampler_in_a_data_loader_is_one_epoch() -> None:
    data = SetDataset(_events())
    sampler = LengthBatchSampler(data.lengths, 100)
    loader = DataLoader(data, sampler=sampler, batch_size=None)
    batches = list(loader)
    firsts = torch.cat([batch.c[:, 0] for batch in batches if batch.c is not None])
    assert len(batches) == 11
    assert torch.equal(firsts.sort().values.long(), LENGTHS.sort().values)
    values = torch.cat([batch.x[batch.mask].flatten() for batch in batches])
    assert torch.equal(values.sort().values, _events().x[_events().mask].flatten().sort().values)


def test_a_set_dataset_needs_one_batch_dimension() -> None:
    with pytest.raises(ValueError, match=r"mask has shape \(5,\), expected \(n, N\)"):
        SetDataset(SetBatch(torch.zeros(5, 3), torch.ones(5)))


def test_pad_collate_keeps_the_weights() -> None:
    events, c = _ragged([2, 1]), torch.ones(1)
    batch = pad_collate([(events[0], c, 0.5), (events[1], c, -1)])
    assert batch.weight is not None
    assert batch.weight.tolist() == [0.5, -1]
    assert batch.c is not None
    bare = pad_collate([(events[0], None, 0.5), (events[1], None, -1)])
    assert bare.c is None
    assert bare.weight is not None
    with pytest.raises(TypeError, match="1 of 2 items have a weight; expected all of them or none"):
        pad_collate([(events[0], c, 1.0), (events[1], c)])
    with pytest.raises(ValueError, match="weights have shapes"):
        pad_collate([(events[0], c, [1.0]), (events[1], c, [1.0])])


def test_a_data_set_keeps_the_weights() -> None:
    data = SetDataset(SetBatch(torch.zeros(4, 3, 1), weight=[1, 2, 3, 4]))
    (batch,) = DataLoader(data, sampler=LengthBatchSampler(data.lengths, 4), batch_size=None)
    assert batch.weight.sort().values.tolist() == [1, 2, 3, 4]
    assert data[[2, 0]].weight is not None
    assert data[[2, 0]].weight.tolist() == [3, 1]
