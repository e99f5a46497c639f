"""A padded batch: ragged round trips, trimming, selection, and what does not fit together."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from each import each
from setflow.data import SetBatch, SetDataset, pad_collate, read_jets
from setflow.sets.batch import listed
from setflow.training.data import PlacedDataset


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


# --- how it is built and printed ---


def test_without_a_mask_all_objects_are_real():
    x = torch.randn(2, 4, 5, 3)
    for batch in (SetBatch(x), SetBatch(x, None)):
        assert batch.mask.shape == (2, 4, 5)
        assert batch.mask.all()
    with pytest.raises(ValueError, match=r"expected \(\*batch, N, D\) where no mask tells"):
        SetBatch(torch.randn(3))


def test_printing_is_one_line_that_says_what_it_holds():
    mask = torch.arange(30) < torch.tensor([[2], [30], [7], [13]])
    for batch, expected in (
        (
            SetBatch(torch.zeros(4, 30, 3, dtype=torch.float32), mask, torch.zeros(4, 2)),
            "SetBatch(4 sets of 2 to 30 objects (mean 13.0), 3 features, context of 2, "
            "float32 on cpu)",
        ),
        (
            SetBatch(torch.zeros(1, 5, 1, 8, 8), torch.ones(1, 5)),
            "SetBatch(1 set of 5 objects, features (1, 8, 8), no context, float64 on cpu)",
        ),
        (
            SetBatch(torch.zeros(2, 3, 5, 2)),
            "SetBatch(6 sets in the shape (2, 3) of 5 objects, 2 features, no context, "
            "float64 on cpu)",
        ),
        (
            SetBatch(torch.zeros(5, 2)),
            "SetBatch(1 set of 5 objects, 2 features, no context, float64 on cpu)",
        ),
        (
            SetBatch(torch.zeros(0, 5, 2)),
            "SetBatch(0 sets of up to 5 objects, 2 features, no context, float64 on cpu)",
        ),
    ):
        assert repr(batch) == str(batch) == expected


def test_ragged_arrays_are_padded_and_come_back():
    events = [np.arange(6.0).reshape(2, 3), np.zeros((0, 3)), np.ones((4, 3))]
    for given in (
        events,
        [torch.as_tensor(event) for event in events],
        [events[0], *map(torch.as_tensor, events[1:])],
    ):
        batch = SetBatch.from_ragged(given, np.ones((3, 1)))
        assert batch.lengths.tolist() == [2, 0, 4]
        for event, back in zip(events, batch.to_ragged(), strict=True):
            assert np.array_equal(event, back.numpy())
        assert batch.x[~batch.mask].abs().sum() == 0
        assert batch.c.dtype == torch.float64
    mixed = SetBatch.from_ragged([torch.ones(2, 1, dtype=torch.int64), torch.full((1, 1), 0.5)])
    assert mixed.x.flatten().tolist() == [1, 1, 0.5, 0]  # nothing is cut to integers


def test_padding_passes_gradients_on():
    events = [torch.randn(n, 3, requires_grad=True) for n in (2, 0, 3)]
    (SetBatch.from_ragged(events).x ** 2).sum().backward()
    for event in events:
        assert torch.equal(event.grad, 2 * event)


def test_graphs_are_those_that_torch_geometric_makes():
    from torch_geometric.data import Batch, Data

    batch = SetBatch.from_ragged([torch.randn(n, 3) for n in (2, 0, 5, 1)], torch.randn(4, 2))
    rows = zip(batch.to_ragged(), batch.c, strict=True)
    expected = Batch.from_data_list([Data(x=x, c=c[None]) for x, c in rows])
    got = batch.to_pyg()
    assert got.num_graphs == 4
    assert set(got.keys()) == set(expected.keys())
    for key in expected.keys():  # noqa: SIM118 (a graph is no mapping)
        assert torch.equal(got[key], expected[key]), key
    for one, other in zip(got.to_data_list(), expected.to_data_list(), strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.c, other.c)


BATCH = SetBatch(torch.randn(4, 5, 3), torch.arange(5) < torch.tensor([[2], [0], [5], [3]]))


@pytest.mark.parametrize(
    "index", [(0, 1), (slice(None), 0), (..., 0, 0), BATCH.mask, "x", 1.0, 7, [0, 7]], ids=repr
)
def test_an_index_that_selects_no_events_is_refused(index):
    """`batch[:, 0]` made one event of the first objects of all."""
    with pytest.raises(IndexError, match=r"selects no events of a batch with shape \(4,\).*\.x"):
        BATCH[index]


def test_an_index_selects_events():
    grid = SetBatch(torch.randn(2, 3, 5, 3), torch.ones(2, 3, 5))
    assert grid[0, 1] == SetBatch(grid.x[0, 1])
    assert grid[:, 1] == SetBatch(grid.x[:, 1])
    assert BATCH[BATCH.lengths > 2] == BATCH[[2, 3]] == BATCH[2:] == BATCH[-2:, ...]
    assert len(list(BATCH)) == 4


def test_batches_are_equal_where_their_events_are():
    c = torch.randn(4, 2)
    x = torch.where(BATCH.mask[..., None], BATCH.x, torch.nan)
    same = SetBatch(x.clone(), BATCH.mask.clone())
    assert same == BATCH
    assert same.to(torch.float64) == BATCH
    moved = SetBatch(BATCH.x + BATCH.x.new_tensor([0, 0, 1]), BATCH.mask)
    others = [moved, BATCH[1:], SetBatch(BATCH.x), SetBatch(BATCH.x, BATCH.mask, c), 3, None]
    assert all(other != BATCH for other in others)
    with_context = SetBatch(BATCH.x, BATCH.mask, c)
    assert with_context == SetBatch(x, BATCH.mask, c.clone())
    assert with_context != SetBatch(x, BATCH.mask, c + 1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(BATCH)


def test_a_single_number_per_event_is_told_how_to_be_a_context():
    with pytest.raises(ValueError, match=r"expected \(2, 'C'\).*c\[..., None\]"):
        SetBatch.from_ragged([torch.zeros(1, 3), torch.zeros(2, 3)], c=torch.zeros(2))


# --- weights ---


def _weighted():
    return SetBatch.from_ragged(_ragged(), torch.arange(3.0)[:, None], weight=[0.5, -1, 2])


def test_weights_stay_with_their_events():
    batch = _weighted()
    assert batch.weight.tolist() == [0.5, -1, 2]
    assert batch[1:].weight.tolist() == [-1, 2]
    assert batch[torch.tensor([2, 0])].weight.tolist() == [2, 0.5]
    assert batch[batch.lengths > 0].weight.tolist() == [0.5, 2]
    assert batch[0].weight.shape == ()
    assert listed(batch[0], "a test").weight.tolist() == [0.5]
    assert batch.trim().weight.tolist() == [0.5, -1, 2]
    assert [event.weight.item() for event in batch] == [0.5, -1, 2]
    assert SetBatch.from_pyg(batch.to_pyg()) == batch
    grid = SetBatch(torch.zeros(2, 3, 4, 1), weight=torch.arange(6).reshape(2, 3))
    assert grid[1, 0].weight == 3
    assert grid[:, 1].weight.tolist() == [1, 4]


def test_weights_are_float64_whatever_the_features_are():
    for given in ([1, 2, 3], np.float32([1, 2, 3]), torch.tensor([1, 2, 3])):
        batch = SetBatch(torch.zeros(3, 2, 1), weight=given)
        assert batch.weight.dtype == torch.float64
        assert batch.to(torch.float16).weight.dtype == torch.float64
        assert batch.weight.tolist() == [1, 2, 3]


def test_weights_count_where_batches_are_compared():
    batch = _weighted()
    assert batch == batch[:]
    assert batch != SetBatch(batch.x, batch.mask, batch.c)
    assert batch != SetBatch(batch.x, batch.mask, batch.c, -batch.weight)


def test_weights_are_printed():
    assert repr(_weighted()).endswith("context of 1, weights -1 to 2, float64 on cpu)")
    assert ", weights, " in repr(_weighted()[:0])


# --- other forms ---


HOLES = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]]).bool()
DTYPES = [torch.float64, torch.float32, torch.float16, torch.int64, torch.int8]


def _with_holes(dtype=torch.float64):
    x = torch.arange(1, 33).reshape(4, 4, 2).to(dtype)
    return SetBatch(x, HOLES, torch.randn(4, 1), torch.rand(4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_offsets_there_and_back(dtype):
    batch = _with_holes(dtype)
    values, offsets = batch.to_offsets()
    assert offsets.tolist() == [0, 2, 2, 6, 7]
    assert values.dtype == dtype
    again = SetBatch.from_offsets(values, offsets, batch.c, weight=batch.weight)
    assert again.x.dtype == dtype
    assert again.mask.tolist() == (torch.arange(4) < batch.lengths[:, None]).tolist()
    for one, other in zip(again.to_ragged(), batch.to_ragged(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(again.weight, batch.weight)
    assert torch.equal(again.c, batch.c)
    arrays = SetBatch.from_offsets(values.numpy(), offsets.numpy().astype(np.uint32), length=6)
    assert arrays.x.shape == (4, 6, 2)
    assert arrays.trim() == SetBatch(again.x, again.mask)


def test_no_events_have_one_offset():
    batch = SetBatch.from_offsets(np.zeros((0, 3), np.float32), [0])
    assert batch.x.shape == (0, 0, 3)
    values, offsets = batch.to_offsets()
    assert (tuple(values.shape), offsets.tolist()) == ((0, 3), [0])
    assert SetBatch.from_offsets(np.zeros((0, 3)), [0, 0, 0]).lengths.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 3], "lead from 1 to 3, expected from 0 to 3"),
        ([0, 2], "lead from 0 to 2, expected from 0 to 3"),
        ([0, 4], "lead from 0 to 4, expected from 0 to 3"),
        ([0, 2, 1, 3], "fall from 2 to 1 at event 1"),
        ([], r"offsets have shape \(0,\), expected \(n \+ 1,\)"),
        ([[0, 3]], r"offsets have shape \(1, 2\)"),
        ([0.0, 3.0], "dtype torch.float64, expected whole numbers"),
    ],
)
def test_offsets_that_do_not_fit(offsets, message):
    with pytest.raises(ValueError, match=message):
        SetBatch.from_offsets(torch.zeros(3, 2), torch.tensor(offsets))


def test_values_of_one_dimension_are_no_objects():
    with pytest.raises(ValueError, match=r"values have shape \(3,\), expected \(objects, D\)"):
        SetBatch.from_offsets(np.zeros(3), [0, 3])
    with pytest.raises(ValueError, match="to_offsets needs one batch dimension"):
        SetBatch(torch.zeros(2, 2, 3, 1)).to_offsets()


def test_arrays_that_are_padded_already():
    batch = _with_holes()
    x = batch.x.numpy()
    assert SetBatch.from_numpy(x).mask.all()
    assert SetBatch.from_numpy(x, mask=HOLES.numpy()) == SetBatch(batch.x, HOLES)
    lengths = SetBatch.from_numpy(x, lengths=[2, 0, 4, 1], c=batch.c, weight=batch.weight)
    assert lengths.lengths.tolist() == [2, 0, 4, 1]
    assert torch.equal(lengths.weight, batch.weight)
    assert lengths.x.numpy().base is x or np.shares_memory(lengths.x.numpy(), x)
    for pad in (0, -999.0, np.nan):
        filled = np.where(HOLES[..., None], x, pad)
        filled[2, 0, 0] = pad  # one feature alone is no padding
        assert torch.equal(SetBatch.from_numpy(filled, pad=pad).mask, HOLES)
    grid = SetBatch.from_numpy(np.float32(x).reshape(2, 2, 4, 2), lengths=[[2, 0], [4, 1]])
    assert (grid.x.dtype, grid.lengths.tolist()) == (torch.float32, [[2, 0], [4, 1]])
    assert SetBatch.from_numpy(np.zeros((0, 4, 2)), lengths=np.zeros(0, int)).mask.shape == (0, 4)
    assert SetBatch.from_numpy(np.zeros((1, 3, 2), np.int32), pad=0).lengths.item() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pad": 0, "lengths": [1, 2]}, "from_numpy got lengths and pad, expected one of"),
        ({"pad": 0, "mask": np.ones((2, 3))}, "from_numpy got mask and pad"),
        ({"lengths": [1, 4]}, "lengths reach from 1 to 4, expected 0 to 3"),
        ({"lengths": [-1, 2]}, "lengths reach from -1 to 2"),
        ({"lengths": [1, 2, 3]}, r"lengths have shape \(3,\), expected \(2,\)"),
        ({"lengths": [1.0, 2.0]}, "expected whole numbers"),
        ({"mask": np.ones((2, 2))}, r"mask has shape \(2, 2\), expected \(2, 3\)"),
    ],
)
def test_padding_that_is_not_told_once(options, message):
    with pytest.raises(ValueError, match=message):
        SetBatch.from_numpy(np.zeros((2, 3, 1)), **options)


def test_an_empty_list_is_an_event_without_objects():
    one = [[1, 2, 3]]
    batch = SetBatch.from_ragged([[], one, []])
    assert batch.lengths.tolist() == [0, 1, 0]
    assert batch.x.dtype == torch.int64  # that of the others
    arrays = SetBatch.from_ragged([np.ones((2, 3), np.float32), np.array([])])
    assert (arrays.lengths.tolist(), arrays.x.dtype) == ([2, 0], torch.float32)


def test_unequal_events_are_told_by_their_place():
    events = [[], torch.zeros(2, 3), torch.zeros(1, 3), torch.zeros(5, 4)]
    with pytest.raises(ValueError, match=r"got \(2, 3\) for event 1 and \(5, 4\) for event 3"):
        SetBatch.from_ragged(events)
    with pytest.raises(ValueError, match=r"got \(3,\) for event 0; of one .* event\[:, None\]"):
        SetBatch.from_ragged([np.zeros(3), np.zeros(2)])


def test_padding_that_is_no_number_is_refused():
    for pad in ("0", True, torch.zeros(2)):
        with pytest.raises(TypeError, match=r"pad is .*, expected one number, such as 0"):
            SetBatch.from_numpy(np.zeros((2, 3, 2)), pad=pad)


def test_a_sample_of_a_file_says_where_its_batch_is():
    with pytest.raises(TypeError, match=r"got JetSample; give its \.objects"):
        listed(read_jets("pythia-top/heldout.h5", stop=2), "loss")


def test_a_field_named_twice_is_refused():
    """As one of two features would be lost."""
    batch = SetBatch(torch.randn(2, 4, 2))
    with pytest.raises(ValueError, match="to_awkward got the field 'pt' twice"):
        batch.to_awkward(["pt", "pt"])
    with pytest.raises(ValueError, match="from_awkward got the field 'pt' twice"):
        SetBatch.from_awkward(batch.to_awkward(["pt", "eta"]), ["pt", "pt"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fields", [None, ["pt", "eta"]], ids=str)
def test_awkward_arrays_there_and_back(dtype, fields):
    ak = pytest.importorskip("awkward")
    batch = _with_holes(dtype)
    array = batch.to_awkward(fields)
    assert ak.num(array).tolist() == [2, 0, 4, 1]
    again = SetBatch.from_awkward(array, fields, batch.c, weight=batch.weight)
    assert again.x.dtype == dtype
    assert again == SetBatch.from_ragged(batch.to_ragged(), batch.c, weight=batch.weight)
    assert SetBatch.from_awkward(array[:0]).x.shape == (0, 0, 2)
    assert SetBatch.from_awkward(array[1:2]).x.shape == (1, 0, 2)


def test_fields_are_features_in_the_order_of_their_names():
    ak = pytest.importorskip("awkward")
    array = ak.Array([[{"pt": 1.5, "n": 2, "eta": 0.5}], []])
    assert SetBatch.from_awkward(array, ["eta", "pt"]).x.tolist() == [[[0.5, 1.5]], [[0, 0]]]
    assert SetBatch.from_awkward(array).x[0].tolist() == [[1.5, 2, 0.5]]
    assert SetBatch.from_awkward(array, ["n"]).x.dtype == torch.int64
    regular = SetBatch.from_awkward(ak.Array(np.float32([[[1, 2]], [[3, 4]]])))
    assert (regular.x.tolist(), regular.x.dtype) == ([[[1, 2]], [[3, 4]]], torch.float32)
    maybe = ak.Array([[{"pt": 1.0}], None])[:1]  # of a type that may lack values, and lacks none
    assert SetBatch.from_awkward(maybe).x.tolist() == [[[1]]]


@pytest.mark.parametrize(
    ("events", "fields", "message"),
    [
        ([[{"pt": 1.0}]], ["eta"], "no field 'eta'; it has pt"),
        ([[[1.0, 2.0]]], ["pt"], "has no fields, and fields=.'pt'. were asked for"),
        ([[{"pt": 1.0}, {"pt": None}]], None, r"the values of 'pt' are .*none missing"),
        ([[{"pt": 1.0}, None]], None, "none missing"),
        ([[{"pt": 1.0}], None], None, "the events are .*none missing"),
        ([[{"pt": "x"}]], None, "expected numbers"),
        ([[{"pt": [1.0]}]], None, "records of numbers"),
        ([[[1.0, 2.0], [1.0]]], None, "equally many for each object"),
        ([[1.0, 2.0]], None, "one number per object is"),
        ([1.0, 2.0], None, "events of objects"),
    ],
)
def test_awkward_arrays_that_are_no_events(events, fields, message):
    ak = pytest.importorskip("awkward")
    with pytest.raises(ValueError, match=message):
        SetBatch.from_awkward(ak.Array(events), fields)


def test_what_is_no_awkward_array_and_no_awkward_at_all(monkeypatch):
    pytest.importorskip("awkward")
    with pytest.raises(TypeError, match=r"got list, expected an awkward.Array"):
        SetBatch.from_awkward([[{"pt": 1.0}]])
    with pytest.raises(ValueError, match="got 1 fields, expected one for each of the features"):
        _with_holes().to_awkward(["pt"])
    monkeypatch.setitem(sys.modules, "awkward", None)
    with pytest.raises(ImportError, match=r"pip install 'setflow\[awkward\]'"):
        _with_holes().to_awkward()


# --- lengths on the CPU ---

OPERATIONS = {
    "int": lambda batch: batch[1],
    "slice": lambda batch: batch[1:],
    "step": lambda batch: batch[::2],
    "list": lambda batch: batch[[2, 0]],
    "tensor": lambda batch: batch[torch.tensor([2, 2, 1])],
    "array": lambda batch: batch[np.array([1, 0])],
    "mask": lambda batch: batch[torch.tensor([True, False, True])],
    "none": lambda batch: batch[torch.zeros(3, dtype=torch.bool)],
    "new dimension": lambda batch: batch[None, 1:],
    "two indices": lambda batch: batch[None][0, torch.tensor([1, 2])],
    "ellipsis": lambda batch: batch[...],
    "dtype": lambda batch: batch.to(torch.float16),
    "device": lambda batch: batch.to("cpu", non_blocking=True),
    "trim": lambda batch: batch.trim(),
    "trim of the shortest": lambda batch: batch[[0, 1]].trim(),
    "trim of none": lambda batch: batch[:0].trim(),
    "listed": lambda batch: listed(batch[2], "test"),
    "copy": copy.deepcopy,
    "process": lambda batch: pickle.loads(pickle.dumps(batch)),
    "counted": lambda batch: SetBatch(batch.x, batch.mask, batch.c).counted(),
    "ragged": lambda batch: SetBatch.from_ragged(batch.to_ragged(), batch.c, length=7),
    "graphs": lambda batch: SetBatch.from_pyg(batch.to_pyg()),
    "collated": lambda batch: pad_collate(batch.to_ragged()),
    "dataset": lambda batch: SetDataset(SetBatch(batch.x, batch.mask))[[2, 0]],
    "inner": lambda batch: PlacedDataset(SetDataset(batch))[[2, 0]].events,
}


@each("name", OPERATIONS)
def test_lengths_are_kept_in_step(name):
    batch = SetBatch.from_ragged(_ragged(), torch.arange(3.0)[:, None], length=6)
    made = OPERATIONS[name](batch)
    assert made.cpu_lengths is not None
    assert made.cpu_lengths.dtype == np.int64
    assert made.cpu_lengths.shape == made.mask.shape[:-1]
    assert made.cpu_lengths.tolist() == made.lengths.tolist()
    front = torch.arange(made.mask.shape[-1]) < made.lengths[..., None]
    assert torch.equal(made.mask, front)
    # as it would have been made without them
    plain = OPERATIONS[name](SetBatch(batch.x, batch.mask, batch.c))
    assert made == plain
    assert made.x.is_contiguous() == plain.x.is_contiguous()


def test_lengths_stand_in_for_the_mask_or_agree_with_it():
    batch = SetBatch(torch.zeros(2, 4, 3), lengths=[3, 0])
    assert batch.mask.tolist() == [[True, True, True, False], [False] * 4]
    assert batch.cpu_lengths.tolist() == [3, 0]
    again = SetBatch(batch.x, batch.mask, lengths=torch.tensor([3, 0], dtype=torch.int32))
    assert again.cpu_lengths.tolist() == [3, 0]
    for mask, lengths, message in (
        (batch.mask, [3, 1], r"event 1 has 1 objects in front, and the mask of 4 slots is \[0, 0"),
        (batch.mask, [4, 0], "event 0 has 4 objects"),
        (batch.mask, [3], r"lengths have shape \(1,\), expected \(2,\)"),
        (batch.mask, [3.0, 0.0], "dtype torch.float64, expected"),
        (torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]]), [2, 0], "event 0 has 2 objects in front"),
        (None, [5, 0], "lengths reach from 0 to 5, expected 0 to 4"),
        (None, [-1, 0], "lengths reach from -1 to 0, expected 0 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            SetBatch(batch.x, mask, lengths=lengths)


def test_lengths_that_no_longer_hold_are_not_told():
    assert SetBatch(torch.zeros(2, 4, 3), torch.ones(2, 4)).cpu_lengths is None
    holes = SetBatch(torch.zeros(1, 3, 1), torch.tensor([[True, False, True]]))
    assert holes.counted().cpu_lengths is None
    batch = SetBatch(torch.zeros(2, 4, 3), lengths=[3, 1])
    part = batch[:1]
    batch.mask[0, 2] = False
    assert batch.cpu_lengths is None
    assert part.cpu_lengths is None
    assert batch.counted().cpu_lengths.tolist() == [2, 1]


@pytest.mark.parametrize("path", ["a.h5", Path("a.h5")])
def test_a_path_is_told_what_reads_it(path):
    with pytest.raises(TypeError, match=r"loss expects .*read the file: setflow.data.read_jets"):
        listed(path, "loss")
    with pytest.raises(TypeError, match=r"x is of type .*setflow.data.read_events"):
        SetBatch(path)
