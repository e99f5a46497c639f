"""Lazy parts: what becomes a field or a distribution when a context is given.

The term is that of the zuko library. A lazy part is called with a context `c` and returns a field,
called in turn as `(x, t, c)`, or a distribution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn
from torch.distributions import Distribution

from setflow.distributions.base import as_base
from setflow.sets.context import Context
from setflow.sets.protocols import Base, in_short

__all__ = ["LazyDistribution", "LazyField", "UnconditionalDistribution", "UnconditionalField"]


class LazyDistribution(nn.Module, ABC):
    """Returns a distribution when it is called with a context."""

    @abstractmethod
    def forward(self, c: Context | None = None) -> Any:
        """Return the distribution for the context `c`, with shape `(*batch, C)`, or None."""

    def __getattr__(self, name: str) -> Any:
        """Find what modules hold; say of what only the distribution has how to come to it.

        Raises:
            AttributeError: if there is no such attribute.
        """
        if name in ("sample", "rsample", "log_prob"):
            raise AttributeError(
                f"{type(self).__name__} has no {name} before it is called with a context and a "
                f"mask, or with nothing if there are none: model(c, mask=mask).{name}(...)"
            )
        return super().__getattr__(name)


class LazyField(nn.Module, ABC):
    """Returns a field when it is called with a context."""

    @property
    def event_ndim(self) -> int | None:
        """How many trailing dimensions form one event, or None if only the field knows."""
        return None

    @abstractmethod
    def forward(self, c: Context | None = None) -> nn.Module:
        """Return the field for the context `c`, with shape `(*batch, C)`, or None."""


class UnconditionalDistribution(LazyDistribution):
    """The same distribution for every context.

    Arguments:
        dist: a base of setflow or a torch distribution.

    Raises:
        TypeError: if it is neither.

    >>> base = UnconditionalDistribution(setflow.StandardNormal((3,)))
    >>> base(torch.zeros(16, 4)).event_shape
    (3,)
    """

    def __init__(self, dist: Base | Distribution) -> None:
        super().__init__()
        as_base(dist)  # raises if it is none
        self._dist = dist

    def __repr__(self) -> str:
        return repr(self._dist)

    def forward(self, c: Context | None = None) -> Base | Distribution:
        return self._dist


class UnconditionalField(LazyField):
    """The same field for every context; it is still called with that context.

    Arguments:
        field: the field.

    Raises:
        TypeError: if it cannot be called, or is a class.

    >>> field = setflow.VelocityField(dim=2, hidden=16)
    >>> UnconditionalField(field)(torch.zeros(16, 4)) is field
    True
    """

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        if isinstance(field, type) or not callable(field):
            raise TypeError(
                f"field is {field!r}, expected a velocity field such as "
                "setflow.TransformerField(3); a base and a solver come after it"
            )
        self._field = field

    def __repr__(self) -> str:
        return in_short(self._field)

    @property
    def event_ndim(self) -> int | None:
        return getattr(self._field, "event_ndim", None)

    def forward(self, c: Context | None = None) -> nn.Module:
        return self._field
