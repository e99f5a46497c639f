"""What a base can do, asked for by functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from setflow.compat.nami.core.specs import as_tuple

__all__ = ["expand_distribution", "has_rsample"]


def expand_distribution(dist: Any, batch_shape: Iterable[int]) -> Any:
    """Return a base for a batch of independent events; the same one if it has that batch shape.

    Arguments:
        dist: a base of setflow or a torch distribution.
        batch_shape: the batch shape.

    Raises:
        ValueError: if the base cannot be expanded.

    >>> expand_distribution(setflow.StandardNormal((3,)), (8,)).batch_shape
    (8,)
    """
    batch = as_tuple(batch_shape)
    if tuple(dist.batch_shape) == batch:
        return dist
    if not hasattr(dist, "expand"):
        raise ValueError(
            f"{type(dist).__name__} has no method expand(batch_shape), expected a base such as "
            "StandardNormal or a torch distribution"
        )
    return dist.expand(batch)


def has_rsample(dist: Any) -> bool:
    """Return whether draws from a base are differentiable with respect to its parameters.

    >>> has_rsample(setflow.StandardNormal((3,)))
    True
    """
    return bool(getattr(dist, "has_rsample", False))
