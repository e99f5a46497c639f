"""Which events a job of several makes, and what its file is called.

The events of a run are cut by their numbers alone, so what a part holds does not depend on who
computes it. The cuts fall between blocks of events that are computed together, if there are blocks
enough: then a part holds, on like machines and threads, the very bits of the whole; elsewhere
numbers differ by rounding, some 1e-7.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["Part"]


class Part(NamedTuple):
    """One of several parts of the events of a run.

    Arguments:
        number: which, from 0.
        of: how many there are.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def rows(self, events: int, block: int) -> range:
        """Return the numbers of its events.

        Arguments:
            events: how many there are in all parts.
            block: how many are computed together.

        Raises:
            ValueError: if there is no such part.

        >>> [Part(k, 3).rows(10, 1) for k in range(3)]
        [range(0, 3), range(3, 6), range(6, 10)]
        >>> Part(1, 2).rows(6000, 2000)
        range(2000, 6000)
        """
        if not 0 <= self.number < self.of:
            raise ValueError(
                f"there is no part {self} of the events; the first is 0/{self.of} and the last "
                f"{self.of - 1}/{self.of}"
            )
        unit = block if events >= self.of * block else 1
        ends = [
            events if k == self.of else k * -(-events // unit) // self.of * unit
            for k in (self.number, self.number + 1)
        ]
        return range(ends[0], min(ends[1], events))

    def path(self, out: Path) -> Path:
        """Return the name of its file, or folder, for the name of the whole.

        >>> str(Part(3, 100).path(Path("jets.h5")))
        'jets-003-of-100.h5'
        """
        return out.with_stem(f"{out.stem}-{self.number:0{len(str(self.of))}}-of-{self.of}")
