"""Events of different size in other forms, to and from padded tensors; `SetBatch` has the methods.

Notation. The objects of n events stand one behind the other in `objects`, with shape
`(sum of N_i, ...)`; `lengths` are the N_i, and the n + 1 `offsets` say where each event begins, and
where the last one ends. No Python runs per event.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from setflow.sets.arrays import Array, as_tensor, shown
from setflow.sets.masks import over_features

__all__ = [
    "as_awkward",
    "as_graphs",
    "lengths_of",
    "of_awkward",
    "padded",
    "real_by_lengths",
    "real_by_padding",
]


def padded(objects: Tensor, lengths: Tensor, length: int | None) -> tuple[Tensor, Tensor]:
    """Return `x` and `mask` of events whose objects stand one behind the other.

    Arguments:
        objects: with shape `(sum of N_i, ...)`.
        lengths: the N_i, with shape `(n,)`.
        length: the number of slots; None takes the longest event's.

    Raises:
        ValueError: if an event has more objects than `length`.
    """
    longest = int(lengths.max()) if len(lengths) else 0
    if length is not None and length < longest:
        raise ValueError(
            f"an event of {longest} objects does not fit into length={length}; "
            "cut the events first or raise length"
        )
    slots = longest if length is None else length
    mask = (torch.arange(slots) < lengths[:, None]).to(objects.device)
    x = objects.new_zeros(len(lengths), slots, *objects.shape[1:])
    return x.masked_scatter_(over_features(mask, x.ndim), objects), mask


def lengths_of(offsets: Array, objects: int) -> Tensor:
    """Return the number of objects of each event, with shape `(n,)`, int64, on the CPU.

    Arguments:
        offsets: where each event begins and the last one ends, with shape `(n + 1,)`.
        objects: how many objects there are.

    Raises:
        ValueError: if they are no whole numbers that rise from 0 to `objects`.
    """
    offsets = as_tensor(offsets, "offsets").cpu()
    if offsets.ndim != 1 or not len(offsets):
        raise ValueError(
            f"offsets have shape {tuple(offsets.shape)}, expected (n + 1,): where each of n events "
            "begins, and where the last one ends"
        )
    if offsets.is_floating_point() or offsets.dtype == torch.bool:
        raise ValueError(f"offsets have dtype {offsets.dtype}, expected whole numbers")
    offsets = offsets.to(torch.int64)
    lengths = offsets.diff()
    if bool((lengths < 0).any()):
        event = int((lengths < 0).nonzero()[0])
        first, last = offsets[event : event + 2].tolist()
        raise ValueError(
            f"offsets fall from {first} to {last} at event {event}, expected numbers that never "
            "fall; lengths become offsets by their cumulative sum, with a 0 in front"
        )
    if int(offsets[0]) != 0 or int(offsets[-1]) != objects:
        raise ValueError(
            f"offsets lead from {int(offsets[0])} to {int(offsets[-1])}, expected from 0 to "
            f"{objects}, the number of objects; lengths become offsets by their cumulative sum, "
            "with a 0 in front"
        )
    return lengths


def real_by_lengths(lengths: Array, shape: Sequence[int]) -> Tensor:
    """Return the mask of events whose first objects are real.

    Arguments:
        lengths: how many are, whole numbers with shape `batch`.
        shape: that of the mask, `(*batch, N)`.

    Raises:
        ValueError: if the shape differs, or a length lies outside [0, N].
    """
    lengths, slots = as_tensor(lengths, "lengths"), shape[-1]
    if tuple(lengths.shape) != tuple(shape[:-1]):
        raise ValueError(
            f"lengths have shape {tuple(lengths.shape)}, expected {tuple(shape[:-1])}: one per "
            "event"
        )
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths have dtype {lengths.dtype}, expected whole numbers")
    if lengths.numel() and not bool(((lengths >= 0) & (lengths <= slots)).all()):
        raise ValueError(
            f"lengths reach from {int(lengths.min())} to {int(lengths.max())}, expected 0 to "
            f"{slots}, the number of slots"
        )
    return torch.arange(slots, device=lengths.device) < lengths[..., None]


def real_by_padding(x: Tensor, pad: Any) -> Tensor:
    """Return the mask of events whose padded slots hold one number in all of their features.

    Arguments:
        x: the objects, with shape `(*batch, N, D)`.
        pad: that number; it may be NaN.

    Raises:
        TypeError: if it is none.
    """
    if isinstance(pad, bool) or not isinstance(pad, Real):
        raise TypeError(f"pad is {shown(pad)}, expected one number, such as 0, -1 or NaN")
    same = x.isnan() if pad != pad else x == float(pad)
    return ~same.all(-1)


# --- Awkward Array ---


def _awkward() -> Any:
    try:
        import awkward
    except ImportError:
        raise ImportError(
            "awkward is not installed; its arrays need `pip install 'setflow[awkward]'`"
        ) from None
    return awkward


def of_awkward(array: Any, fields: Sequence[str] | None) -> tuple[Tensor, Tensor]:
    """Return the objects and the lengths of an array of Awkward Array.

    Arguments:
        array: `n * var * {records}`, or `n * var * D * numbers`.
        fields: the names of the fields of a record, in the order of the features; None takes all
            of them, in the order of the array.

    Raises:
        ImportError: if Awkward Array is not installed.
        TypeError: if it is no array of Awkward Array.
        ValueError: if it is not of that form, a value is missing, there is no such field, or one is
            asked for twice.
    """
    ak = _awkward()
    if not isinstance(array, ak.Array):
        raise TypeError(
            f"from_awkward got {type(array).__name__}, expected an awkward.Array; lists of events "
            "become a batch by from_ragged, flat values by from_offsets"
        )
    form = f"from_awkward got {str(array.type)[:200]}"
    if array.ndim < 2:
        raise ValueError(
            f"{form}, expected n * var * {{records}} or n * var * D * numbers: events of objects"
        )
    lengths = torch.from_numpy(_numbers(ak, ak.num(array, axis=1), "the events").astype(np.int64))
    flat, names = ak.flatten(array, axis=1), list(ak.fields(array))
    if not names and fields is not None:
        raise ValueError(f"{form}, which has no fields, and fields={list(fields)} were asked for")
    wanted = names if fields is None else list(fields)
    if twice := [name for name in wanted if wanted.count(name) > 1]:
        raise ValueError(f"from_awkward got the field '{twice[0]}' twice; name each once")
    if lacking := [name for name in wanted if name not in names]:
        raise ValueError(f"{form}, which has no field '{lacking[0]}'; it has {', '.join(names)}")
    columns = [_numbers(ak, flat[name], f"the values of '{name}'") for name in wanted]
    values = np.stack(columns, -1) if names else _numbers(ak, flat, "the objects")
    if values.ndim < 2 or any(column.ndim != 1 for column in columns):
        raise ValueError(
            f"{form}, expected n * var * {{records of numbers}} or n * var * D * numbers; one "
            "number per object is array[..., np.newaxis]"
        )
    return as_tensor(values, "array"), lengths


def _numbers(ak: Any, values: Any, what: str) -> Any:
    """Return values as an array of NumPy, if they are regular and none is missing."""
    try:
        array = ak.to_numpy(values, allow_missing=False)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"from_awkward: {what} are {str(values.type)[:200]}, expected numbers, equally many "
            "for each object, and none missing (None); fill or drop what is missing, ak.fill_none "
            "and ak.drop_none do"
        )
    return array


def as_awkward(objects: Tensor, lengths: Tensor, fields: Sequence[str] | None) -> Any:
    """Return events as an array of Awkward Array; the inverse of `of_awkward`.

    Raises:
        ImportError: if Awkward Array is not installed.
        ValueError: if there are not as many names as features, or one stands twice.
    """
    ak = _awkward()
    values = objects.detach().cpu().numpy()
    if fields is not None:
        if values.ndim != 2 or len(fields) != values.shape[1]:
            raise ValueError(
                f"to_awkward got {len(fields)} fields, expected one for each of the features, "
                f"whose shape is {tuple(values.shape[1:])}"
            )
        if twice := [name for name in fields if list(fields).count(name) > 1]:
            raise ValueError(f"to_awkward got the field '{twice[0]}' twice; name each once")
        columns = {name: values[:, k] for k, name in enumerate(fields)}
        return ak.unflatten(ak.zip(columns), lengths.cpu().numpy())
    return ak.unflatten(ak.from_numpy(values, regulararray=True), lengths.cpu().numpy())


# --- graphs ---


def as_graphs(objects: Tensor, lengths: Tensor, rows: dict[str, Tensor]) -> Any:
    """Return a `torch_geometric.data.Batch` of graphs without edges, one for each event.

    Arguments:
        objects: with shape `(sum of N_i, ...)`.
        lengths: the N_i, with shape `(n,)`, n at least 1.
        rows: what else each graph has, by name: tensors whose first dimension counts the events.
    """
    from torch_geometric.data import Batch, Data  # takes its time

    n = len(lengths)
    graph = Data(x=objects[:0])
    for name, values in rows.items():
        graph[name] = values[:1]
    graphs = Batch.from_data_list([graph])  # of one event, whose tensors become those of all
    ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    graphs.x = objects
    graphs.batch = torch.arange(n, device=ends.device).repeat_interleave(lengths)
    graphs.ptr = ends
    slices = {"x": ends.cpu()}
    for name, values in rows.items():
        graphs[name] = values
        slices[name] = torch.arange(n + 1)
    graphs._num_graphs = n
    graphs._slice_dict = slices
    graphs._inc_dict = {name: torch.zeros(n, dtype=torch.int64) for name in slices}
    return graphs
