"""How often the compositions of events occur: what p(N) and p(n_1 .. n_K) need of a sample.

Notation. An event has n_k objects of type k, of K types; without types K is 1 and n_1 the number of
objects. Of each composition (n_1, .., n_K) that occurs stand how many events have it, and sums over
their weights w.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Frequencies"]

_FEW = 2**12  # compositions that are not put together


@dataclass(frozen=True)
class Frequencies:
    """How often compositions occur in a part of a sample; parts add.

    Attributes:
        rows: compositions, int64 with shape `(R, K)`; `merged` has each once.
        sums: over the events of each, their number, the sums of w, of w^2 and of |w|, and how many
            w are negative, float64 with shape `(5, R)`.
        once: so many of the rows, the first ones, are known to differ.

    >>> parts = [Frequencies.of(torch.tensor(rows)) for rows in ([[1, 2], [0, 1]], [[1, 2]])]
    >>> both = (parts[0] + parts[1]).merged()
    >>> both.rows, both.events
    (tensor([[0, 1],
            [1, 2]]), tensor([1, 2]))
    """

    rows: Tensor
    sums: Tensor
    once: int = 0

    @classmethod
    def of(cls, counts: Tensor, weight: Tensor | None = None) -> Frequencies:
        """Return those of events.

        Arguments:
            counts: the composition of each, int64 with shape `(E, K)`.
            weight: how much each counts, with shape `(E,)`; None means 1.
        """
        counts = counts.detach().cpu()
        w = torch.ones(len(counts)) if weight is None else weight.detach().cpu()
        w = w.double()
        sums = torch.stack([torch.ones_like(w), w, w**2, w.abs(), (w < 0).double()])
        return cls(counts, sums).merged()

    def __len__(self) -> int:
        """Return the number of events."""
        return int(self.sums[0].sum())

    def __add__(self, other: Frequencies) -> Frequencies:
        rows, sums = torch.cat([self.rows, other.rows]), torch.cat([self.sums, other.sums], 1)
        both = Frequencies(rows, sums, self.once)
        return both if len(rows) <= 2 * self.once + _FEW else both.merged()  # as seldom as it may

    def merged(self) -> Frequencies:
        """Return the same with each composition once, in rising order."""
        if self.once == len(self.rows):
            return self
        rows, which = torch.unique(self.rows, dim=0, return_inverse=True)
        sums = self.sums.new_zeros(len(self.sums), len(rows)).index_add_(1, which, self.sums)
        return Frequencies(rows, sums, len(rows))

    @property
    def numbers(self) -> Tensor:
        """How many objects events have, each number that occurs once, rising."""
        numbers: Tensor = torch.unique(self.rows.sum(-1))
        return numbers

    @property
    def events(self) -> Tensor:
        """How many events have the composition of each row, int64 with shape `(R,)`."""
        return self.sums[0].long()

    @property
    def worth(self) -> Tensor:
        """What these events are worth, float64 with shape `(R,)`.

        Without weights that is their number, with weights the sum of theirs, so that all together
        are worth their effective number.
        """
        _, total, squares, _, _ = self.sums.sum(1).unbind(0)
        return self.sums[1] * (total / squares)

    def of_numbers(self, largest: int) -> Tensor:
        """Return the sums over all events of N objects, for each N to the largest, `(5, N + 1)`."""
        n = self.rows.sum(-1)
        return torch.stack([torch.bincount(n, row, largest + 1) for row in self.sums])

    def tensors(self) -> dict[str, Tensor]:
        """Return the numbers by their names, for a file."""
        found = self.merged()
        return {"rows": found.rows, "sums": found.sums}

    @classmethod
    def from_tensors(cls, told: Mapping[str, Tensor]) -> Frequencies:
        """Return what `tensors` has told."""
        return cls(told["rows"], told["sums"], len(told["rows"]))
