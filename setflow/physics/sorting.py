"""Values sorted together with what stands beside them, in little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["sort_together"]

_VALUES = 2**18  # that are looked at together
_SIGN = np.uint32(1 << 31)


def sort_together(values: NDArray[Any], places: NDArray[np.int32]) -> None:
    """Sort values in place, and bring what stands beside them into their order.

    Values in single precision are sorted as whole numbers of 64 bits that hold their place, too,
    which takes a third of the memory of an index of the order. Equal values stand in any order.

    Arguments:
        values: no NaN, with shape `(n,)`.
        places: at least 0, with shape `(n,)`.

    >>> values, places = np.array([2.0, -1.0, 0.5], np.float32), np.array([0, 1, 2], np.int32)
    >>> sort_together(values, places)
    >>> values.tolist(), places.tolist()
    ([-1.0, 0.5, 2.0], [1, 2, 0])
    """
    if values.dtype != np.float32:
        order = values.argsort()
        values[:], places[:] = values[order], places[order]
        return
    keys = np.empty(len(values), np.uint64)
    blocks = [slice(k, k + _VALUES) for k in range(0, len(values), _VALUES)]
    for there in blocks:
        bits = values[there].view(np.uint32)
        keys[there] = np.where(bits >> 31, ~bits, bits | _SIGN)  # they rise with the values
        keys[there] <<= np.uint64(32)
        keys[there] |= places[there].astype(np.uint64)
    keys.sort()
    for there in blocks:
        places[there] = keys[there] & np.uint64(0xFFFFFFFF)
        bits = (keys[there] >> np.uint64(32)).astype(np.uint32)
        values[there] = np.where(bits >> 31, bits ^ _SIGN, ~bits).view(np.float32)
