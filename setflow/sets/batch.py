"""`SetBatch`: events of different size in one padded tensor, with the mask that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import as_mask, over_features

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
        lengths: the number of real objects of each event, with shape `batch`, where these come
            first; they stand in for the mask, or must agree with it, and are kept on the CPU
            (`cpu_lengths`), so that a training step waits for no accelerator to tell them.

    Raises:
        TypeError: if something holds no plain numbers.
        ValueError: if the shapes do not belong together, the mask holds other values, or lengths
            and mask contradict each other.

    >>> batch = SetBatch.from_ragged([torch.ones(2, 3), torch.ones(1, 3)])
    >>> batch.x.shape, batch.lengths
    (torch.Size([2, 2, 3]), tensor([2, 1]))
    >>> batch
    SetBatch(2 sets of 1 to 2 objects (mean 1.5), 3 features, no context, float32 on cpu)
    """

    x: Tensor
    mask: Tensor
    c: Tensor | None = None
    # the lengths, and the version of the mask that they belong to
    _known: tuple[_Lengths, int] | None = field(default=None, init=False)

    def __init__(
        self,
        x: Array,
        mask: Array | None = None,
        c: Array | None = None,
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
            slots = torch.arange(x.shape[-2], device=x.device)
            mask = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
            if lengths is not None:
                sizes = as_tensor(lengths, "lengths").to(x.device)
                mask = slots < sizes[..., None]
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
        known = None if lengths is None else _known(_agreeing(lengths, mask), mask)
        for name, value in (("x", x), ("mask", mask), ("c", c), ("_known", known)):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> Any:
        return _held, (self.x, self.mask, self.c, self.cpu_lengths)

    def _changed(self, change: Callable[[Tensor], Tensor], lengths: _Lengths | None) -> SetBatch:
        """Return the batch with every tensor changed, and the lengths that it then has."""
        c = None if self.c is None else change(self.c)
        return _held(change(self.x), change(self.mask), c, lengths)

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

        Shapes, masks, real objects and context must be equal; dtypes, devices and what stands in
        padded slots do not matter.

        >>> SetBatch([[[1.0], [0.0]]], mask=[[1, 0]]) == SetBatch([[[1.0], [9.0]]], mask=[[1, 0]])
        True
        """
        if not isinstance(other, SetBatch):
            return NotImplemented
        pairs = [(self.mask, other.mask)]
        if (self.c is None) != (other.c is None) or self.x.shape != other.x.shape:
            return False
        if self.c is not None and other.c is not None:
            pairs.append((self.c, other.c))
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
        return _held(self.x, self.mask, self.c, self.lengths.cpu().numpy())

    def to(self, *args: Any, **kwargs: Any) -> SetBatch:
        """Move or convert as `torch.Tensor.to`; a dtype changes `x` and `c`, never the mask."""
        x = self.x.to(*args, **kwargs)
        c = None if self.c is None else self.c.to(*args, **kwargs)
        mask = self.mask.to(x.device, non_blocking=bool(kwargs.get("non_blocking")))
        return _held(x, mask, c, self.cpu_lengths)

    def pin_memory(self) -> SetBatch:
        """Copy to page-locked memory, as a DataLoader asks for before a transfer to the GPU."""
        return self._changed(lambda value: value.pin_memory(), self.cpu_lengths)

    def trim(self) -> SetBatch:
        """Drop the columns that no event uses."""
        lengths = self.cpu_lengths
        if lengths is not None:
            longest, dim = int(lengths.max(initial=0)), self.mask.ndim - 1
            x, mask = (value.narrow(dim, 0, longest).contiguous() for value in (self.x, self.mask))
            return _held(x, mask, self.c, lengths)
        used = self.mask.flatten(0, -2).any(0) if self.mask.ndim > 1 else self.mask
        dim = self.mask.ndim - 1
        columns = used.nonzero().squeeze(-1)
        return SetBatch(
            self.x.index_select(dim, columns), self.mask.index_select(dim, columns), self.c
        )

    @classmethod
    def from_ragged(
        cls, events: Sequence[Array], c: Array | None = None, *, length: int | None = None
    ) -> SetBatch:
        """Pad a list of events to one length.

        Arguments:
            events: tensors, or arrays of NumPy, with shapes `(N_i, ...)`, equal but for `N_i`,
                which may be 0. Of different dtypes the widest is taken.
            c: the context, with shape `(len(events), C)`.
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
        sizes = [event.shape for event in tensors or arrays]
        shapes = {tuple(size) for size in set(sizes)}
        if len({shape[1:] for shape in shapes}) > 1 or any(len(shape) < 2 for shape in shapes):
            raise ValueError(
                "from_ragged expects events (N_i, ...) with equal feature shapes, "
                f"got {sorted(shapes)}"
            )
        objects = torch.cat(tensors) if tensors else as_tensor(np.concatenate(arrays), "an event")
        lengths = torch.tensor([size[0] for size in sizes])
        return cls._padded(objects, lengths, c, length)

    @classmethod
    def _padded(
        cls, objects: Tensor, lengths: Tensor, c: Array | None, length: int | None
    ) -> SetBatch:
        """Return the batch of events whose objects stand one behind the other.

        Arguments:
            objects: with shape `(sum of N_i, ...)`.
            lengths: the N_i, at least one.
            c: the context, with shape `(len(lengths), C)`.
            length: the number of slots; None takes the longest event's.
        """
        longest = int(lengths.max())
        if length is not None and length < longest:
            raise ValueError(
                f"an event of {longest} objects does not fit into length={length}; "
                "cut the events first or raise length"
            )
        slots = longest if length is None else length
        mask = (torch.arange(slots) < lengths[:, None]).to(objects.device)
        x = objects.new_zeros(len(lengths), slots, *objects.shape[1:])
        batch = cls(x.masked_scatter_(over_features(mask, x.ndim), objects), mask, c)
        return _held(batch.x, batch.mask, batch.c, lengths.numpy())

    def to_ragged(self) -> list[Tensor]:
        """Return the real objects of each event as a list of tensors `(N_i, ...)`."""
        if self.mask.ndim != 2:
            raise ValueError(f"to_ragged needs one batch dimension, got {self.mask.ndim - 1}")
        known = self.cpu_lengths
        lengths = (self.lengths if known is None else known).tolist()
        return list(torch.split(self.x[self.mask], lengths))

    @classmethod
    def from_pyg(cls, data: Any, *, length: int | None = None) -> SetBatch:
        """Pad the graphs of torch-geometric to one length; their edges are not read.

        Arguments:
            data: a `torch_geometric.data.Batch`, or a `Data` for one event, with the objects as
                `x`, shape `(sum of N_i, ...)`, and, if there is one, the context as `c`, shape
                `(graphs, C)`.
            length: the number of slots; None takes the longest event's.

        Raises:
            ValueError: if there is no `x`, `c` has another shape, or an event exceeds `length`.
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
        return cls._padded(x, lengths, data.get("c"), length)

    def to_pyg(self) -> Any:
        """Return a `torch_geometric.data.Batch` of graphs without edges, one for each event.

        Its `x` holds the real objects of all events, with shape `(sum of N_i, ...)`, and `batch`
        and `ptr` tell whose they are; `c` is the context, with shape `(graphs, C)`, if there is
        one. Events without objects stay.

        Raises:
            ValueError: if there is not one batch dimension, or no event.

        >>> batch = SetBatch.from_ragged([torch.ones(2, 3), torch.ones(0, 3)], torch.ones(2, 1))
        >>> batch.to_pyg()
        DataBatch(x=[2, 3], c=[2, 1], batch=[2], ptr=[3])
        """
        from torch_geometric.data import Batch, Data  # takes its time

        if self.mask.ndim != 2 or not len(self):
            raise ValueError(
                f"to_pyg needs one batch dimension with at least one event, got the batch shape "
                f"{tuple(self.mask.shape[:-1])}"
            )
        graph = Data(x=self.x[0, :0])
        if self.c is not None:
            graph.c = self.c[:1]
        graphs = Batch.from_data_list([graph])  # of one event, whose tensors become those of all
        lengths = self.lengths
        ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        graphs.x = self.x[self.mask]
        graphs.batch = torch.arange(len(self), device=ends.device).repeat_interleave(lengths)
        graphs.ptr = ends
        slices = {"x": ends.cpu()}
        if self.c is not None:
            graphs.c = self.c
            slices["c"] = torch.arange(len(self) + 1)
        graphs._num_graphs = len(self)
        graphs._slice_dict = slices
        graphs._inc_dict = {name: torch.zeros(len(self), dtype=torch.int64) for name in slices}
        return graphs


def _held(x: Tensor, mask: Tensor, c: Tensor | None, lengths: _Lengths | None) -> SetBatch:
    """Return a batch of tensors and lengths that are known to belong together."""
    batch = object.__new__(SetBatch)
    known = None if lengths is None else _known(lengths, mask)
    for name, value in (("x", x), ("mask", mask), ("c", c), ("_known", known)):
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
    sizes, batch = as_tensor(lengths, "lengths").cpu(), tuple(mask.shape[:-1])
    if tuple(sizes.shape) != batch or sizes.is_floating_point() or sizes.dtype == torch.bool:
        raise ValueError(
            f"lengths has shape {tuple(sizes.shape)} and dtype {sizes.dtype}, expected {batch} "
            "integers: the number of real objects of each event"
        )
    sizes = sizes.to(torch.int64)
    told = mask.cpu()
    wrong = (told != (torch.arange(told.shape[-1]) < sizes[..., None])).any(-1)
    wrong |= (sizes < 0) | (sizes > told.shape[-1])
    if bool(wrong.any()):
        event = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"lengths says that event {', '.join(map(str, event))} has {int(sizes[event])} objects "
            f"in front, and the mask of {told.shape[-1]} slots is "
            f"{told[event].to(torch.int8).tolist()}; leave one of them out"
        )
    return sizes.numpy()


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
        raise TypeError(
            f"{where} expects a setflow.SetBatch, got {what}; make one of it by "
            "setflow.SetBatch(x, mask), where mask None means that all objects are real and c= is "
            "the context, or of events of different size by setflow.SetBatch.from_ragged(events)"
        )
    if batch.mask.ndim > 1:
        return batch
    known = batch.cpu_lengths
    return batch._changed(lambda value: value[None], known if known is None else known[None])
