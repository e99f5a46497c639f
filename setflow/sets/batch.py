"""`SetBatch`: events of different size in one padded tensor, with the mask that says so."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from setflow.sets.masks import as_mask

__all__ = ["SetBatch"]


@dataclass(frozen=True)
class SetBatch:
    """A batch of sets.

    Arguments:
        x: the objects, with shape `(*batch, N, ...)`, features behind the object dimension.
        mask: which of them are real, with shape `(*batch, N)`; boolean, or 0 and 1.
        c: the context, with shape `(*batch, C)`, or None.

    Raises:
        ValueError: if the shapes do not belong together or the mask holds other values.

    >>> batch = SetBatch.from_ragged([torch.ones(2, 3), torch.ones(1, 3)])
    >>> batch.x.shape, batch.lengths
    (torch.Size([2, 2, 3]), tensor([2, 1]))
    """

    x: Tensor
    mask: Tensor
    c: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.ndim <= self.mask.ndim:
            raise ValueError(
                f"x has shape {tuple(self.x.shape)} and mask {tuple(self.mask.shape)}; expected x "
                "(*batch, N, ...), with at least one dimension more than the mask (*batch, N)"
            )
        object.__setattr__(self, "mask", as_mask(self.mask, self.x.shape[: self.mask.ndim]))
        batch = self.mask.shape[:-1]
        if self.c is not None and self.c.shape[:-1] != batch:
            raise ValueError(
                f"c has shape {tuple(self.c.shape)}, expected {(*batch, 'C')}: one row per event"
            )

    def __len__(self) -> int:
        return len(self.x) if self.mask.ndim > 1 else 1

    def __getitem__(self, index: Any) -> SetBatch:
        """Select events along the first batch dimension (an integer, slice, list or tensor)."""
        if self.mask.ndim < 2:
            raise IndexError("this SetBatch holds one event and no batch dimension to select from")
        c = None if self.c is None else self.c[index]
        return SetBatch(self.x[index], self.mask[index], c)

    @property
    def lengths(self) -> Tensor:
        """The number of real objects of each event, with shape `batch`."""
        return self.mask.sum(-1)

    def to(self, *args: Any, **kwargs: Any) -> SetBatch:
        """Move or convert as `torch.Tensor.to`; a dtype changes `x` and `c`, never the mask."""
        x = self.x.to(*args, **kwargs)
        c = None if self.c is None else self.c.to(*args, **kwargs)
        return SetBatch(x, self.mask.to(x.device), c)

    def pin_memory(self) -> SetBatch:
        """Copy to page-locked memory, as a DataLoader asks for before a transfer to the GPU."""
        c = None if self.c is None else self.c.pin_memory()
        return SetBatch(self.x.pin_memory(), self.mask.pin_memory(), c)

    def trim(self) -> SetBatch:
        """Drop the columns that no event uses."""
        used = self.mask.flatten(0, -2).any(0) if self.mask.ndim > 1 else self.mask
        dim = self.mask.ndim - 1
        columns = used.nonzero().squeeze(-1)
        return SetBatch(
            self.x.index_select(dim, columns), self.mask.index_select(dim, columns), self.c
        )

    @classmethod
    def from_ragged(
        cls, events: Sequence[Tensor], c: Tensor | None = None, *, length: int | None = None
    ) -> SetBatch:
        """Pad a list of events to one length.

        Arguments:
            events: tensors with shapes `(N_i, ...)`, equal but for `N_i`, which may be 0.
            c: the context, with shape `(len(events), C)`.
            length: the number of slots; None takes the longest event's.

        Raises:
            ValueError: if there is no event, feature shapes differ, or one exceeds `length`.
        """
        if not events:
            raise ValueError("from_ragged got an empty list of events, expected at least one")
        shapes = {tuple(event.shape[1:]) for event in events}
        if len(shapes) > 1 or any(event.ndim < 2 for event in events):
            raise ValueError(
                "from_ragged expects events (N_i, ...) with equal feature shapes, "
                f"got {sorted({tuple(event.shape) for event in events})}"
            )
        lengths = torch.tensor([len(event) for event in events])
        longest = int(lengths.max())
        if length is not None and length < longest:
            raise ValueError(
                f"an event of {longest} objects does not fit into length={length}; "
                "cut the events first or raise length"
            )
        slots = longest if length is None else length
        mask = torch.arange(slots) < lengths[:, None]
        # whole numbers in one event must not truncate those of another
        dtype = functools.reduce(torch.promote_types, (event.dtype for event in events))
        x = events[0].new_zeros(len(events), slots, *events[0].shape[1:], dtype=dtype)
        for row, event in zip(x, events, strict=True):
            row[: len(event)] = event
        return cls(x, mask.to(x.device), c)

    def to_ragged(self) -> list[Tensor]:
        """Return the real objects of each event as a list of tensors `(N_i, ...)`."""
        if self.mask.ndim != 2:
            raise ValueError(f"to_ragged needs one batch dimension, got {self.mask.ndim - 1}")
        return [event[real] for event, real in zip(self.x, self.mask, strict=True)]

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
        lengths = [len(x)] if ptr is None else ptr.diff().tolist()
        return cls.from_ragged(x.split(lengths), data.get("c"), length=length)

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
        graphs = [Data(x=x) for x in self.to_ragged()]
        if self.c is not None:
            for row, graph in enumerate(graphs):
                graph.c = self.c[row : row + 1]
        return Batch.from_data_list(graphs)
