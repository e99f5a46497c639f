"""Angles in radians: the circle [-pi, pi), on which -pi and pi are neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["LARGEST", "Circles", "checked_angles", "wrap", "wrapped"]

LARGEST = 13.0
"""Of angles in radians: what lies beyond two turns is one in degrees."""


class Circles(Protocol):
    """Which features are angles, and what distances on their circles are measured in.

    Attributes:
        angles: their positions.
        unit: the unit of a distance in each feature, with shape `(D,)`: 1 on lines.
    """

    @property
    def angles(self) -> tuple[int, ...]: ...

    @property
    def unit(self) -> Tensor: ...


def wrap(angle: Tensor) -> Tensor:
    """Return angles in radians, of any shape, in [-pi, pi).

    Those that stand there come back to the last bit. The derivative is 1.

    >>> wrap(torch.tensor([3.0, 4.0, -3.5 * torch.pi]))
    tensor([ 3.0000, -2.2832,  1.5708])
    """
    turns = ((angle + math.pi) / (2 * math.pi)).floor()
    wrapped = angle - 2 * math.pi * turns
    return torch.where(wrapped >= math.pi, -math.pi, wrapped).clamp(min=-math.pi)  # NaN stays


def wrapped(x: Tensor, angles: Sequence[int]) -> Tensor:
    """Return values with their angles in [-pi, pi), with the shape of `x`.

    Arguments:
        x: values, with shape `(*, D)`.
        angles: the positions of the features that are angles in radians.

    >>> wrapped(torch.tensor([4.0, 4.0]), [1])
    tensor([ 4.0000, -2.2832])
    """
    if not angles:
        return x
    columns = list(x.unbind(-1))
    for k in angles:
        columns[k] = wrap(columns[k])
    return torch.stack(columns, -1)


def checked_angles(angles: Sequence[int], dim: int) -> tuple[int, ...]:
    """Return the positions of the features that are angles, checked.

    Arguments:
        angles: the positions, from 0.
        dim: the number of features.

    Raises:
        ValueError: if one is no feature, or stands twice.

    >>> checked_angles([2], dim=3)
    (2,)
    """
    given = tuple(angles) if isinstance(angles, Sequence) else None
    known = given is not None and all(type(k) is int and 0 <= k < dim for k in given)
    if given is None or not known or len(set(given)) < len(given):
        raise ValueError(
            f"angles={angles!r}, expected the positions of the features that are angles, such as "
            f"[{dim - 1}]: different ones, counted from 0 to {dim - 1}"
        )
    return given
