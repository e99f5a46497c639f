"""Hashes of events, by which the same event is known again, wherever and however it stands.

The hash of an event is a number of 64 bits. It depends on the values of its real objects as
float32, and neither on their order, nor on that of their features, nor on padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Seen", "hash_of_events", "hash_of_numbers", "shares_of"]

Hashes = NDArray[np.uint64]
KEPT = 2**21  # so many hashes are kept


def hash_of_numbers(numbers: NDArray[Any]) -> Hashes:
    """Return a hash of whole numbers, such as those of collisions, with the same shape.

    >>> int(hash_of_numbers(np.array([1]))[0]) == int(hash_of_numbers(np.array([1], "u1"))[0])
    True
    """
    signed = np.asarray(numbers).astype(np.int64, copy=False)
    return _mixed(signed.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15))


def hash_of_events(
    x: NDArray[Any], real: NDArray[np.bool_], features: Sequence[str] | None = None
) -> Hashes:
    """Return a hash of each event, with shape `(b,)`; that of an event without objects is 0.

    Arguments:
        x: the features of objects, with shape `(b, N, D)`.
        real: which slots hold one, with shape `(b, N)`.
        features: the names of the features, by which their order does not matter.

    >>> x, real = np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.ones((1, 2), bool)
    >>> padded, more = np.pad(x[:, ::-1], ((0, 0), (1, 0), (0, 0))), np.array([[False, True, True]])
    >>> int(hash_of_events(x, real)[0]) == int(hash_of_events(padded, more)[0])
    True
    """
    order = range(x.shape[-1]) if features is None else np.argsort(np.asarray(features, object))
    with np.errstate(over="ignore", invalid="ignore"):
        values = x[real].astype(np.float32) + np.float32(0)  # -0 is 0
    code = np.full(len(values), 0x9E3779B97F4A7C15, np.uint64)
    for column in order:
        bits = np.ascontiguousarray(values[:, column]).view(np.uint32).astype(np.uint64)
        code = _mixed(code ^ bits) + np.uint64(0x9E3779B97F4A7C15)
    lengths = real.sum(1)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(code), dtype=np.uint64)])
    ends = np.concatenate([[0], lengths.cumsum()])
    of_event = _mixed(total[ends[1:]] - total[ends[:-1]] + lengths.astype(np.uint64))
    return np.where(lengths > 0, of_event, np.uint64(0))


def shares_of(hashes: Hashes, fractions: Sequence[float]) -> NDArray[np.int64]:
    """Return the part that each hash belongs to, where parts hold fractions that sum to 1.

    >>> shares_of(np.array([0, 2**63, 2**64 - 1], np.uint64), [0.5, 0.25, 0.25]).tolist()
    [0, 1, 2]
    """
    place = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53  # from 0 to below 1
    return np.searchsorted(np.cumsum(fractions)[:-1], place, side="right")


def _mixed(code: Hashes) -> Hashes:
    """Return numbers whose bits all depend on all bits of those given (the last step of SplitMix64,
    Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014)."""
    code = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    code = (code ^ (code >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return code ^ (code >> np.uint64(31))


class Seen:
    """The events that have come, by their hashes, in bounded memory.

    All hashes are kept as long as there are at most `kept` different ones; then those below a limit
    that is lowered: a random sample of the events, and the same one in every file, so that events
    that come twice are counted in it, and the counts divided by its share.

    Arguments:
        kept: how many hashes are kept.

    >>> seen, other = Seen(), Seen()
    >>> seen.add(hash_of_numbers(np.array([1, 2, 2, 2])))
    >>> other.add(hash_of_numbers(np.array([2, 3, 2])))
    >>> seen.again, other.also_in(seen)
    (2, 2)
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept, self._halved = kept, 0
        self._codes, self._times = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self._waiting: list[Hashes] = []

    def add(self, hashes: Hashes) -> None:
        """Add events by their hashes, with shape `(n,)`."""
        self._waiting.append(_below(hashes, self._halved))
        if sum(map(len, self._waiting)) > self._kept // 4:
            self._settle()

    @property
    def is_exact(self) -> bool:
        """Whether all events are known, and not a sample of them."""
        return self._halved == 0

    @property
    def again(self) -> int:
        """How many events are the same as one before."""
        self._settle()
        return int((self._times - 1).sum()) << self._halved

    def also_in(self, other: Seen) -> int:
        """Return how many events are also among others."""
        self._settle()
        other._settle()
        halved = max(self._halved, other._halved)
        mine = np.isin(self._codes, _below(other._codes, halved), assume_unique=True)
        return int(self._times[mine].sum()) << halved

    def _settle(self) -> None:
        """Count what waits, and lower the limit where too much is kept."""
        if not self._waiting:
            return
        codes = np.concatenate([self._codes, *self._waiting])
        times = np.ones(len(codes), np.int64)
        times[: len(self._times)] = self._times
        self._waiting = []
        self._codes, place = np.unique(codes, return_inverse=True)
        self._times = np.bincount(place, times, len(self._codes)).astype(np.int64)
        while len(self._codes) > self._kept:
            self._halved += 1
            self._codes = _below(self._codes, self._halved)
            self._times = self._times[: len(self._codes)]  # they rise


def _below(hashes: Hashes, halved: int) -> Hashes:
    """Return the hashes below 2**64, halved so many times."""
    return hashes if not halved else hashes[hashes >> np.uint64(64 - halved) == 0]
