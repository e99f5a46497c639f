"""From events of different size to batches: padding, grouping by length, and data in memory.

Padding costs: a batch is as long as its longest event. `LengthBatchSampler` puts events of similar
length together, for loaders of one's own (the verbs group what they are given by themselves,
`setflow.sets.planning`), and every event still comes exactly once an epoch. A batch changes nothing
for an event in it; what grouping does change is which events share a gradient step, and shuffling
before and after keeps that random.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from setflow.random import derive
from setflow.sets.arrays import as_tensor
from setflow.sets.batch import SetBatch, listed

__all__ = ["LengthBatchSampler", "SetDataset", "pad_collate"]


def pad_collate(items: Sequence[Any]) -> SetBatch:
    """Pad events to the longest of them: the `collate_fn` of a DataLoader over ragged events.

    Arguments:
        items: events with shapes `(N_i, ...)`, where `N_i` may be 0; or pairs of an event and its
            context with shape `(C,)`; or triples of an event, its context or None, and its weight.

    Returns:
        The batch, with `x` of shape `(len(items), max N_i, ...)`, its mask, context and weights.

    Raises:
        ValueError: if there is no item, feature or context shapes differ, or a weight is no finite
            number.
        TypeError: if some items have a context or a weight and some do not, or an item is
            something else.

    >>> batch = pad_collate([torch.ones(2, 3), torch.ones(1, 3)])
    >>> batch.mask
    tensor([[ True,  True],
            [ True, False]])
    """
    if not items:
        raise ValueError("pad_collate got no items, expected at least one event")
    events: list[Tensor] = []
    contexts: list[Tensor] = []
    weights: list[Tensor] = []
    for item in items:
        if isinstance(item, Tensor | np.ndarray):
            item = (item,)
        elif not isinstance(item, tuple | list) or len(item) not in (2, 3):
            raise TypeError(
                f"pad_collate got an item of type {type(item).__name__}, expected a tensor "
                "(N_i, D), a pair (tensor, context), or a triple (tensor, context or None, weight)"
            )
        events.append(as_tensor(item[0], "an event"))
        if len(item) == 2 or (len(item) == 3 and item[1] is not None):
            contexts.append(as_tensor(item[1], "a context"))
        if len(item) == 3:
            weights.append(as_tensor(item[2], "a weight", torch.float64))
    for name, what, parts in (("context", "(C,)", contexts), ("weight", "()", weights)):
        if parts and len(parts) != len(events):
            raise TypeError(
                f"{len(parts)} of {len(events)} items have a {name}; expected all of them or none"
            )
        shapes = {tuple(part.shape) for part in parts}
        if len(shapes) > 1 or any(len(shape) != (name == "context") for shape in shapes):
            raise ValueError(
                f"{name}s have shapes {sorted(shapes)}, expected one shape {what} for all"
            )
    c, weight = (torch.stack(parts) if parts else None for parts in (contexts, weights))
    return SetBatch.from_ragged(events, c, weight=weight)


class LengthBatchSampler(Sampler[list[int]]):
    """Batches of events of similar length, as the `batch_sampler` of a DataLoader.

    All events are shuffled; within windows of `window` batches they are then sorted by length and
    cut into batches; then the order of the batches is shuffled. An epoch holds every event exactly
    once (with `drop_last`, all but fewer than `batch_size`).

    The order depends on `(seed, epoch)` only. The epoch is 0 for the first iteration and one more
    for each that follows; `set_epoch(e)` makes the next iteration that of epoch `e`, and counting
    goes on from there. A trainer that calls `set_epoch` before each epoch and one that never does
    see the same orders.

    Arguments:
        lengths: the number of real objects of each event, with shape `(n,)`.
        batch_size: events per batch; one batch of an epoch may be smaller.
        shuffle: False sorts by length within windows of events in their given order and leaves
            everything else in place.
        seed: the seed of the order.
        window: how many batches are sorted together; 1 is plain shuffling, more pads less.
        drop_last: leave out the incomplete batch, that is the last events of the shuffled order.

    Raises:
        ValueError: if `lengths` is not one-dimensional, or a size is below 1.

    >>> sampler = LengthBatchSampler([3, 1, 3, 1], batch_size=2, shuffle=False)
    >>> list(sampler)
    [[1, 3], [0, 2]]
    """

    def __init__(
        self,
        lengths: Tensor | Sequence[int],
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        window: int = 50,
        drop_last: bool = False,
    ) -> None:
        self._lengths = torch.as_tensor(lengths, dtype=torch.int64).cpu()
        if self._lengths.ndim != 1:
            raise ValueError(
                f"lengths has shape {tuple(self._lengths.shape)}, expected (n,): one per event"
            )
        if batch_size < 1 or window < 1:
            name, size = ("batch_size", batch_size) if batch_size < 1 else ("window", window)
            raise ValueError(f"{name} must be at least 1, got {size}")
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.window = window
        self.drop_last = drop_last
        self._epoch = 0
        self._skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`."""
        self._epoch = epoch

    def skip(self, batches: int) -> None:
        """Begin the next iteration after so many of its batches, to go on with a stopped one."""
        self._skip = batches

    def __len__(self) -> int:
        whole, rest = divmod(len(self._lengths), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        skip, self._skip = self._skip, 0
        yield from self._batches(epoch)[skip:]

    def _batches(self, epoch: int) -> list[list[int]]:
        n = len(self._lengths)
        generator = torch.Generator()
        generator.manual_seed(derive(self.seed, "order of the events", epoch))
        order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
        if self.drop_last:
            order = order[: n - n % self.batch_size]
        batches: list[list[int]] = []
        size, together = self.batch_size, self.window * self.batch_size
        for first in range(0, len(order), together):
            events = order[first : first + together]
            events = events[self._lengths[events].argsort(stable=True)]
            batches.extend(events[k : k + size].tolist() for k in range(0, len(events), size))
        if self.shuffle:
            places = torch.randperm(len(batches), generator=generator).tolist()
            batches = [batches[place] for place in places]
        return batches


class SetDataset(Dataset[SetBatch]):
    """A data set of sets in memory, which a DataLoader reads a whole batch at a time.

    One gather makes the batch, trimmed to the columns that its events use, so no Python runs per
    event. In a DataLoader the batch sampler stands in the place of the sampler:

    >>> from torch.utils.data import DataLoader
    >>> data = SetDataset(SetBatch(torch.zeros(10, 5, 3), torch.ones(10, 5)))
    >>> sampler = LengthBatchSampler(data.lengths, 4)
    >>> loader = DataLoader(data, sampler=sampler, batch_size=None)
    >>> sum(len(batch) for batch in loader)
    10

    Arguments:
        batch: the events, with `x` of shape `(n, N, ...)`.

    Raises:
        TypeError: if `batch` is no `SetBatch`.
        ValueError: if it has not exactly one batch dimension.
    """

    def __init__(self, batch: SetBatch) -> None:
        listed(batch, "SetDataset")
        if batch.mask.ndim != 2:
            raise ValueError(
                f"the mask has shape {tuple(batch.mask.shape)}, expected (n, N): one batch "
                "dimension"
            )
        self._batch = batch.counted()  # once, so that no step that trains on it looks at a mask

    def __len__(self) -> int:
        return len(self._batch)

    @property
    def events(self) -> SetBatch:
        """All events, in their order."""
        return self._batch

    @property
    def lengths(self) -> Tensor:
        """The number of real objects of each event, with shape `(n,)`, for a sampler."""
        return self._batch.lengths

    def __getitem__(self, index: int | list[int] | Tensor) -> SetBatch:
        """Return the event `index` as a batch of one, or the events of a list as one batch."""
        rows = torch.as_tensor(index).reshape(-1)
        outside = (rows < -len(self)) | (rows >= len(self))
        if outside.any():
            raise IndexError(f"event {int(rows[outside][0])} of {len(self)}")
        return self._batch[rows.to(self._batch.x.device)].trim()
