"""`SetBatch`: events of different size in one padded tensor, with the mask that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import as_mask
from setflow.sets.ragged import (
    as_awkward,
    as_graphs,
    lengths_of,
    of_awkward,
    padded,
    real_by_lengths,
    real_by_padding,
)
from setflow.sets.weights import as_weight

__all__ = ["SetBatch", "listed"]

_Lengths = np.ndarray[Any, Any]  # int64, with shape `batch`


@dataclass(frozen=True, init=False, repr=False, eq=False)
class SetBatch:
    """A batch of sets.

    Arguments:
        x: the objects, with shape `(*batch, N, ...)`, features behind the object dimension; a
            tensor, an array of NumPy, or lists of numbers.
        mask: which of them are real, with shape `(*batch, N)`; boolean, or 0 and 1. None means all;
            the last dimension of `x` is then the features, and the one before it the objects.
        c: the context, with shape `(*batch, C)`, or None.
        weight: how much each event counts, with shape `batch`, or None for equally much; it may be
            negative, and is float64 whatever the dtype of `x`. The statistics of a model, its loss
            and the metrics take it (`setflow.sets.weights`); density and samples do not.
        lengths: the number of real objects of each event, with shape `batch`, where these come
            first; they stand in for the mask, or must agree with it, and are kept on the CPU
            (`cpu_lengths`), so that a training step waits for no accelerator to tell them.

    Raises:
        TypeError: if something holds no plain numbers.
        ValueError: if the shapes do not belong together, the mask holds other values, lengths and
            mask contradict each other, or, on a CPU, a weight is not finite.

    >>> batch = SetBatch.from_ragged([torch.ones(2, 3), torch.ones(1, 3)])
    >>> batch.x.shape, batch.lengths
    (torch.Size([2, 2, 3]), tensor([2, 1]))
    >>> batch
    SetBatch(2 sets of 1 to 2 objects (mean 1.5), 3 features, no context, float32 on cpu)
    >>> SetBatch(torch.ones(2, 5, 3), weight=[0.5, -1])[:1].weight
    tensor([0.5000], dtype=torch.float64)
    """

    x: Tensor
    mask: Tensor
    c: Tensor | None = None
    weight: Tensor | None = None
    # the lengths, and the version of the mask that they belong to
    _known: tuple[_Lengths, int] | None = field(default=None, init=False)

    def __init__(
        self,
        x: Array,
        mask: Array | None = None,
        c: Array | None = None,
        weight: Array | None = None,
        *,
        lengths: Array | None = None,
    ) -> None:
        if not isinstance(x, Tensor) or x.is_complex():
            x = as_tensor(x, "x")
        if mask is None:
            if x.ndim < 2:
                raise ValueError(
                    f"x has shape {tuple(x.shape)}, expected (*batch, N, D) where no mask tells "
                    "which objects are real"
                )
            if lengths is None:
                mask = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
            else:
                mask = real_by_lengths(lengths, x.shape[:-1]).to(x.device)
        elif not isinstance(mask, Tensor) or mask.is_complex():
            mask = as_tensor(mask, "mask").to(x.device)
        if c is not None and (not isinstance(c, Tensor) or c.is_complex()):
            c = as_tensor(c, "c").to(x.device)
        if x.ndim <= mask.ndim:
            raise ValueError(
                f"x has shape {tuple(x.shape)} and mask {tuple(mask.shape)}; expected x "
                "(*batch, N, ...), with at least one dimension more than the mask (*batch, N)"
            )
        mask = as_mask(mask, x.shape[: mask.ndim])
        batch = mask.shape[:-1]
        if c is not None and c.shape[:-1] != batch:
            one = "; one number per event is c[..., None]" if c.shape == batch else ""
            raise ValueError(
                f"c has shape {tuple(c.shape)}, expected {(*batch, 'C')}: one row per event{one}"
            )
        if weight is not None:
            weight = as_weight(weight, batch).to(x.device)
        known = None if lengths is None else _known(_agreeing(lengths, mask), mask)
        parts = {"x": x, "mask": mask, "c": c, "weight": weight, "_known": known}
        for name, value in parts.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> Any:
        return _held, (self.x, self.mask, self.c, self.weight, self.cpu_lengths)

    def _changed(self, change: Callable[[Tensor], Tensor], lengths: _Lengths | None) -> SetBatch:
        """Return the batch with every tensor changed, and the lengths that it then has."""
        c, weight = (None if rows is None else change(rows) for rows in (self.c, self.weight))
        return _held(change(self.x), change(self.mask), c, weight, lengths)

    def __len__(self) -> int:
        return len(self.x) if self.mask.ndim > 1 else 1

    def __repr__(self) -> str:
        """Say on one line what the batch holds; the sizes are looked at."""
        lengths = self.lengths.flatten()
        batch, features = tuple(self.mask.shape[:-1]), tuple(self.x.shape[self.mask.ndim :])
        count = f"{lengths.numel()} set{'' if lengths.numel() == 1 else 's'}"
        if len(batch) > 1:
            count += f" in the shape {batch}"
        sizes = " without slots"
        if lengths.numel():
            least, most = int(lengths.min()), int(lengths.max())
            mean = "" if least == most else f" (mean {lengths.double().mean().item():.1f})"
            sizes = f" of {least if least == most else f'{least} to {most}'} objects{mean}"
        elif self.mask.shape[-1]:
            sizes = f" of up to {self.mask.shape[-1]} objects"
        numbers = f"{features[0]} features" if len(features) == 1 else f"features {features}"
        context = "no context" if self.c is None else f"context of {self.c.shape[-1]}"
        if self.weight is not None:
            context += ", weights"
            if self.weight.numel():
                context += f" {self.weight.min().item():.3g} to {self.weight.max().item():.3g}"
        dtype = str(self.x.dtype).removeprefix("torch.")
        return f"SetBatch({count}{sizes}, {numbers}, {context}, {dtype} on {self.x.device})"

    def __getitem__(self, index: Any) -> SetBatch:
        """Select events, as an index of a tensor with the shape of the batch selects its entries.

        Raises:
            IndexError: if the index does not fit the batch dimensions; objects are selected in `x`.
        """
        batch = self.mask.shape[:-1]
        if not batch:
            raise IndexError("this SetBatch holds one event and no batch dimension to select from")
        try:
            self.mask.new_empty(batch)[index]  # else an index would reach the objects, too
        except (IndexError, TypeError) as error:
            raise IndexError(
                f"{index!r} selects no events of a batch with shape {tuple(batch)}: {error}; "
                "objects and features stand in .x, as batch[0].x[1], and .trim() drops empty slots"
            ) from None
        lengths, chosen = self.cpu_lengths, index if isinstance(index, tuple) else (index,)
        if lengths is not None:
            waits = any(isinstance(part, Tensor) and part.device.type != "cpu" for part in chosen)
            plain = (part.numpy() if isinstance(part, Tensor) else part for part in chosen)
            lengths = None if waits else np.asarray(lengths[tuple(plain)])
        return self._changed(lambda value: value[index], lengths)

    def __eq__(self, other: object) -> bool:
        """Return whether another batch holds the same events, slot for slot.

        Shapes, masks, real objects, context and weights must be equal; dtypes, devices and what
        stands in padded slots do not matter.

        >>> SetBatch([[[1.0], [0.0]]], mask=[[1, 0]]) == SetBatch([[[1.0], [9.0]]], mask=[[1, 0]])
        True
        """
        if not isinstance(other, SetBatch):
            return NotImplemented
        pairs = [(self.mask, other.mask)]
        if self.x.shape != other.x.shape:
            return False
        for mine, theirs in ((self.c, other.c), (self.weight, other.weight)):
            if mine is not None and theirs is not None:
                pairs.append((mine, theirs))
            elif mine is not theirs:  # one has it and the other does not
                return False
        if not all(a.shape == b.shape and bool((a == b.to(a.device)).all()) for a, b in pairs):
            return False
        return bool((self.x[self.mask] == other.x[other.mask].to(self.x.device)).all())

    @property
    def lengths(self) -> Tensor:
        """The number of real objects of each event, with shape `batch`."""
        return self.mask.sum(-1)

    @property
    def cpu_lengths(self) -> _Lengths | None:
        """The same on the CPU, int64 with shape `batch`, where they are known without a look at the
        mask, and real objects come first; None if they are not, or the mask was changed in place.

        A batch of a dataset, of `from_ragged`, or built with `lengths` knows them, and what is
        made of it by selecting, moving and trimming does, too.

        >>> batch = SetBatch.from_ragged([torch.ones(2, 3), torch.ones(1, 3)])
        >>> batch[1:].cpu_lengths
        array([1])
        """
        if self._known is None or self._known[1] != self.mask._version:
            return None
        return self._known[0]

    def counted(self) -> SetBatch:
        """Return the batch with `cpu_lengths`, or as it is if padding stands before an object.

        The mask is looked at, which on an accelerator waits for it.

        >>> SetBatch([[[1.0], [2.0], [0.0]]], mask=[[1, 1, 0]]).counted().cpu_lengths
        array([2])
        """
        if self.cpu_lengths is not None or bool((self.mask[..., 1:] & ~self.mask[..., :-1]).any()):
            return self
        return _held(self.x, self.mask, self.c, self.weight, self.lengths.cpu().numpy())

    def to(self, *args: Any, **kwargs: Any) -> SetBatch:
        """Move or convert as `torch.Tensor.to`.

        A dtype changes `x` and `c`, never mask and weights.
        """
        x = self.x.to(*args, **kwargs)
        c = None if self.c is None else self.c.to(*args, **kwargs)
        mask = self.mask.to(x.device, non_blocking=bool(kwargs.get("non_blocking")))
        weight = None if self.weight is None else self.weight.to(x.device)
        return _held(x, mask, c, weight, self.cpu_lengths)

    def pin_memory(self) -> SetBatch:
        """Copy to page-locked memory, as a DataLoader asks for before a transfer to the GPU."""
        return self._changed(lambda value: value.pin_memory(), self.cpu_lengths)

    def trim(self) -> SetBatch:
        """Drop the columns that no event uses; the batch as it is if there is none."""
        lengths = self.cpu_lengths
        if lengths is not None:
            longest, dim = int(lengths.max(initial=0)), self.mask.ndim - 1
            if longest == self.mask.shape[-1]:
                return self
            x, mask = (value.narrow(dim, 0, longest).contiguous() for value in (self.x, self.mask))
            return _held(x, mask, self.c, self.weight, lengths)
        used = self.mask.flatten(0, -2).any(0) if self.mask.ndim > 1 else self.mask
        if bool(used.all()):
            return self
        dim = self.mask.ndim - 1
        columns = used.nonzero().squeeze(-1)
        x, mask = self.x.index_select(dim, columns), self.mask.index_select(dim, columns)
        return SetBatch(x, mask, self.c, self.weight)

    @classmethod
    def from_ragged(
        cls,
        events: Sequence[Array],
        c: Array | None = None,
        *,
        weight: Array | None = None,
        length: int | None = None,
    ) -> SetBatch:
        """Pad a list of events to one length.

        Arguments:
            events: tensors, or arrays of NumPy, with shapes `(N_i, ...)`, equal but for `N_i`,
                which may be 0: an empty list is such an event. Of different dtypes the widest is
                taken.
            c: the context, with shape `(len(events), C)`.
            weight: how much each event counts, with shape `(len(events),)`.
            length: the number of slots; None takes the longest event's.

        Raises:
            TypeError: if an event holds no plain numbers.
            ValueError: if there is no event, feature shapes differ, or one exceeds `length`.
        """
        if len(events) == 0:
            raise ValueError("from_ragged got an empty list of events, expected at least one")
        arrays = [event for event in events if isinstance(event, np.ndarray)]
        tensors = []  # arrays are joined by NumPy, which is faster than a tensor of each
        if len(arrays) < len(events):
            tensors = [as_tensor(event, "an event") for event in events]
        parts: list[Any] = tensors or arrays
        sizes = [tuple(part.shape) for part in parts]
        shapes = set(sizes)
        if (0,) in shapes and len(shapes) > 1:  # an empty list, an event without objects
            shapes.discard((0,))
            parts = [part for part in parts if tuple(part.shape) != (0,)]
        if len({shape[1:] for shape in shapes}) > 1 or any(len(shape) < 2 for shape in shapes):
            at = [k for k, size in enumerate(sizes) if size in shapes]
            other = [k for k in at if sizes[k][1:] != sizes[at[0]][1:]]
            raise ValueError(
                "from_ragged expects events (N_i, ...) with equal feature shapes, "
                f"got {sizes[at[0]]} for event {at[0]}"
                + (f" and {sizes[other[0]]} for event {other[0]}" if other else "")
                + ("" if other else "; of one number for each object they are event[:, None]")
            )
        objects = torch.cat(parts) if tensors else as_tensor(np.concatenate(parts), "an event")
        lengths = torch.tensor([size[0] for size in sizes])
        return cls(*padded(objects, lengths, length), c, weight, lengths=lengths)

    def to_ragged(self) -> list[Tensor]:
        """Return the real objects of each event as a list of tensors `(N_i, ...)`."""
        return list(torch.split(self._objects("to_ragged"), self.lengths.tolist()))

    @classmethod
    def from_numpy(
        cls,
        x: Array,
        *,
        mask: Array | None = None,
        lengths: Array | None = None,
        pad: float | None = None,
        c: Array | None = None,
        weight: Array | None = None,
    ) -> SetBatch:
        """Take events that are padded already; say in one of three ways which objects are real.

        The dtype stays, and so does the memory where it can. Padding is never guessed: with none of
        the three all objects are real.

        Arguments:
            x: the objects, with shape `(*batch, N, D)`.
            mask: which are real, with shape `(*batch, N)`, boolean or 0 and 1; holes are legal.
            lengths: how many are real, the first ones, with shape `batch`.
            pad: the number that all features of a padded slot hold, such as 0, -1 or NaN. A real
                object that holds it in all of its features would be lost.
            c: the context, with shape `(*batch, C)`.
            weight: how much each event counts, with shape `batch`.

        Raises:
            TypeError: if something holds no plain numbers.
            ValueError: if more than one of the three is given, or something does not fit.

        >>> SetBatch.from_numpy([[[1.0, 2.0], [0.0, 3.0], [0.0, 0.0]]], pad=0).mask
        tensor([[ True,  True, False]])
        """
        ways = {"mask": mask, "lengths": lengths, "pad": pad}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) > 1:
            raise ValueError(
                f"from_numpy got {' and '.join(given)}, expected one of mask, lengths and pad, or "
                "none where all objects are real"
            )
        x = as_tensor(x, "x")
        if x.ndim < 2 and mask is None:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (*batch, N, D)")
        if pad is not None:
            mask = real_by_padding(x, pad)
        return cls(x, mask, c, weight, lengths=lengths)

    @classmethod
    def from_offsets(
        cls,
        values: Array,
        offsets: Array,
        c: Array | None = None,
        *,
        weight: Array | None = None,
        length: int | None = None,
    ) -> SetBatch:
        """Pad events whose objects stand one behind the other to one length.

        Arguments:
            values: the objects of all events, with shape `(sum of N_i, ...)`; the dtype stays.
            offsets: where each of the n events begins and the last one ends, with shape
                `(n + 1,)`: whole numbers that never fall, from 0 to `len(values)`.
            c: the context, with shape `(n, C)`.
            weight: how much each event counts, with shape `(n,)`.
            length: the number of slots; None takes the longest event's.

        Raises:
            TypeError: if something holds no plain numbers.
            ValueError: if shapes or offsets do not fit, or an event exceeds `length`.

        >>> SetBatch.from_offsets([[1.0], [2.0], [3.0]], [0, 1, 1, 3]).lengths
        tensor([1, 0, 2])
        """
        values = as_tensor(values, "values")
        if values.ndim < 2:
            raise ValueError(
                f"values have shape {tuple(values.shape)}, expected (objects, D): one row for each "
                "object of all events"
            )
        lengths = lengths_of(offsets, len(values))
        return cls(*padded(values, lengths, length), c, weight, lengths=lengths)

    def to_offsets(self) -> tuple[Tensor, Tensor]:
        """Return the real objects of all events, one behind the other, and where each event begins.

        Returns:
            The objects, with shape `(sum of N_i, ...)`, and the offsets, int64 with shape
            `(n + 1,)`: event i holds the objects `offsets[i]` to `offsets[i + 1]`.

        Raises:
            ValueError: if there is not one batch dimension.

        >>> SetBatch([[[1.0], [2.0]], [[3.0], [4.0]]], mask=[[0, 1], [1, 1]]).to_offsets()[1]
        tensor([0, 1, 3])
        """
        values = self._objects("to_offsets")
        return values, torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))

    @classmethod
    def from_awkward(
        cls,
        array: Any,
        fields: Sequence[str] | None = None,
        c: Array | None = None,
        *,
        weight: Array | None = None,
        length: int | None = None,
    ) -> SetBatch:
        """Pad the events of an array of Awkward Array to one length; it needs the extra `awkward`.

        Arguments:
            array: n events of objects, `n * var * {pt: float64, eta: float64}`, say, or with D
                numbers for each object `n * var * D * float64`. Fields of different dtypes get the
                one of NumPy that holds all.
            fields: the names of the fields that are the features, in this order; None takes all, in
                the order of the array.
            c: the context, with shape `(n, C)`.
            weight: how much each event counts, with shape `(n,)`.
            length: the number of slots; None takes the longest event's.

        Raises:
            ImportError: if Awkward Array is not installed.
            TypeError: if it is no array of Awkward Array.
            ValueError: if it has another form, a field is not there, a value is missing (None), or
                an event exceeds `length`.

        >>> import awkward as ak
        >>> array = ak.Array([[{"pt": 3.0, "eta": 0.5}], [], [{"pt": 1.0, "eta": -1.0}]])
        >>> SetBatch.from_awkward(array, ["eta", "pt"]).x[0]
        tensor([[0.5000, 3.0000]], dtype=torch.float64)
        """
        objects, lengths = of_awkward(array, fields)
        return cls(*padded(objects, lengths, length), c, weight, lengths=lengths)

    def to_awkward(self, fields: Sequence[str] | None = None) -> Any:
        """Return the real objects of each event as an array of Awkward Array.

        Arguments:
            fields: names for the features, for objects that are records; None gives D numbers for
                each object. Context and weights have one row per event and are not in it.

        Raises:
            ImportError: if Awkward Array is not installed.
            ValueError: if there is not one batch dimension, or not one name for each feature.

        >>> str(SetBatch([[[1.0, 2.0], [3.0, 4.0]]]).to_awkward(["pt", "eta"]).type)
        '1 * var * {pt: float32, eta: float32}'
        """
        return as_awkward(self._objects("to_awkward"), self.lengths, fields)

    @classmethod
    def from_pyg(cls, data: Any, *, length: int | None = None) -> SetBatch:
        """Pad the graphs of torch-geometric to one length; their edges are not read.

        Arguments:
            data: a `torch_geometric.data.Batch`, or a `Data` for one event, with the objects as
                `x`, shape `(sum of N_i, ...)`, and, if they are there, the context as `c`, shape
                `(graphs, C)`, and the weights as `weight`, shape `(graphs,)`.
            length: the number of slots; None takes the longest event's.

        Raises:
            ValueError: if there is no `x`, `c` or `weight` has another shape, or an event exceeds
                `length`.
        """
        x, ptr = data.get("x"), data.get("ptr")
        if x is None:
            raise ValueError(f"from_pyg got {data}, expected the objects as `x`")
        if ptr is None and data.get("batch") is not None:
            raise ValueError(
                f"from_pyg got {data}, which has `batch` but not `ptr`; build it with "
                "torch_geometric.data.Batch.from_data_list"
            )
        x = as_tensor(x, "x")
        lengths = torch.tensor([len(x)]) if ptr is None else ptr.diff().cpu()
        rows = (data.get("c"), data.get("weight"))
        return cls(*padded(x, lengths, length), *rows, lengths=lengths)

    def to_pyg(self) -> Any:
        """Return a `torch_geometric.data.Batch` of graphs without edges, one for each event.

        Its `x` holds the real objects of all events, with shape `(sum of N_i, ...)`, and `batch`
        and `ptr` tell whose they are; `c` is the context, with shape `(graphs, C)`, and `weight`
        the weights, with shape `(graphs,)`, if there are any. Events without objects stay.

        Raises:
            ValueError: if there is not one batch dimension, or no event.

        >>> batch = SetBatch.from_ragged([torch.ones(2, 3), torch.ones(0, 3)], torch.ones(2, 1))
        >>> batch.to_pyg()
        DataBatch(x=[2, 3], c=[2, 1], batch=[2], ptr=[3])
        """
        objects = self._objects("to_pyg")
        if not len(self):
            raise ValueError("to_pyg needs at least one event, got none")
        rows = {"c": self.c, "weight": self.weight}
        there = {name: values for name, values in rows.items() if values is not None}
        return as_graphs(objects, self.lengths, there)

    def _objects(self, what: str) -> Tensor:
        """Return the real objects of all events, one behind the other."""
        if self.mask.ndim != 2:
            raise ValueError(
                f"{what} needs one batch dimension, got the batch shape "
                f"{tuple(self.mask.shape[:-1])}"
            )
        return self.x[self.mask]


def _held(
    x: Tensor,
    mask: Tensor,
    c: Tensor | None,
    weight: Tensor | None,
    lengths: _Lengths | None,
) -> SetBatch:
    """Return a batch of tensors and lengths that are known to belong together."""
    batch = object.__new__(SetBatch)
    known = None if lengths is None else _known(lengths, mask)
    parts = {"x": x, "mask": mask, "c": c, "weight": weight, "_known": known}
    for name, value in parts.items():
        object.__setattr__(batch, name, value)
    return batch


def _known(lengths: _Lengths, mask: Tensor) -> tuple[_Lengths, int] | None:
    """Return lengths with the version of their mask, which changes with it in place."""
    return None if mask.is_inference() else (lengths, mask._version)


def _agreeing(lengths: Array, mask: Tensor) -> _Lengths:
    """Return lengths on the CPU, checked against the mask; an accelerator is waited for.

    Raises:
        ValueError: if they are no integers with the shape of the batch, or the mask tells others.
    """
    sizes = as_tensor(lengths, "lengths").cpu()
    told, front = mask.cpu(), real_by_lengths(sizes, mask.shape)
    wrong = (told != front).any(-1)
    if bool(wrong.any()):
        event = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"lengths says that event {', '.join(map(str, event))} has {int(sizes[event])} objects "
            f"in front, and the mask of {told.shape[-1]} slots is "
            f"{told[event].to(torch.int8).tolist()}; leave one of them out"
        )
    return sizes.to(torch.int64, copy=True).numpy()


def listed(batch: object, where: str) -> SetBatch:
    """Return the events that a call is given, a single one as a batch of one.

    Arguments:
        batch: what was given.
        where: the call, for the error message.

    Raises:
        TypeError: if it is no `SetBatch`.

    >>> listed(SetBatch(torch.zeros(5, 3)), "loss").x.shape
    torch.Size([1, 5, 3])
    """
    if not isinstance(batch, SetBatch):
        shape = getattr(batch, "shape", None)
        what = type(batch).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
        if isinstance(batch, str | Path):
            raise TypeError(
                f"{where} expects a setflow.SetBatch, got the text or path {str(batch)!r}; read "
                f"the file: setflow.data.read_jets({str(batch)!r}).objects, or "
                "setflow.data.read_events of events that are no jets"
            )
        if isinstance(getattr(batch, "objects", None), SetBatch):  # a sample of a file
            raise TypeError(f"{where} expects a setflow.SetBatch, got {what}; give its .objects")
        raise TypeError(
            f"{where} expects a setflow.SetBatch, got {what}; make one of it by "
            "setflow.SetBatch(x, mask), where mask None means that all objects are real and c= is "
            "the context, or of events of different size by setflow.SetBatch.from_ragged(events)"
        )
    if batch.mask.ndim > 1:
        return batch
    known = batch.cpu_lengths
    return batch._changed(lambda value: value[None], known if known is None else known[None])
