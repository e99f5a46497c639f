"""The contracts between rooms, and the one adapter that reads optional attributes.

A *field* is any `nn.Module` with `forward(x, t, c=None)` and the attribute `event_ndim`; if it
declares `takes_mask = True` it is also given `mask=`, and one whose velocity jumps in x declares
`is_discontinuous = True`, since it has no density. Solvers, paths and bases need to inherit
nothing. Optional attributes that an object lacks count as False, here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from torch import Tensor, nn

__all__ = [
    "Base",
    "Flag",
    "Path",
    "SDESolver",
    "Solver",
    "declares",
    "event_ndim_of",
    "part_that_declares",
]

Flag = Literal[
    "holds_context",
    "is_adaptive",
    "is_discontinuous",
    "is_sde",
    "requires_steps",
    "supports_rsample",
    "takes_mask",
]


class Path(Protocol):
    """An interpolation between data (t = 0) and noise (t = 1); `t` has the lead shape of `x`."""

    def sample_xt(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor: ...

    def target_ut(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor: ...


class Solver(Protocol):
    """An ODE solver: integrates dx/dt = f(x, t) from `t0` to `t1`; it is
    called in `setflow.solvers.integrate`.

    It may declare more: `requires_steps`, `takes_mask`, and a method `integrate_augmented`.
    """

    def integrate(
        self, f: Callable[[Tensor, Any], Tensor], x0: Tensor, *, t0: float, t1: float
    ) -> Tensor: ...


class SDESolver(Protocol):
    """An SDE solver: draws from dx = drift(x, t) dt + diffusion(t) dW between `t0` and `t1`."""

    @property
    def is_sde(self) -> bool: ...

    def integrate(
        self,
        drift: Callable[[Tensor, Any], Tensor],
        diffusion: Callable[[Any], Tensor | float],
        x0: Tensor,
        *,
        t0: float,
        t1: float,
        steps: int,
    ) -> Tensor: ...


class Base(Protocol):
    """A distribution of independent coordinates, from which sampling starts."""

    @property
    def batch_shape(self) -> tuple[int, ...]: ...

    @property
    def event_shape(self) -> tuple[int, ...]: ...

    def sample(
        self,
        sample_shape: tuple[int, ...] = ...,
        *,
        mask: Tensor | None = ...,
        generator: Any = ...,
    ) -> Tensor: ...

    def log_prob(self, value: Tensor, *, mask: Tensor | None = ...) -> Tensor: ...


def declares(thing: object, flag: Flag) -> bool:
    """Return whether `thing` declares `flag`; what it does not declare is False."""
    return bool(getattr(thing, flag, False))


def part_that_declares(field: nn.Module, flag: Flag) -> nn.Module | None:
    """Return the first part of a field, itself included, that declares `flag`, or None.

    So a property that a wrapper cannot take away needs no wrapper to pass it on.
    """
    return next((part for part in field.modules() if declares(part, flag)), None)


def event_ndim_of(field: object, *, at_least: int = 0) -> int:
    """Return how many trailing dimensions form one event of `field`.

    Arguments:
        field: the field; or that number, of a field that does not say it itself.
        at_least: the smallest number that will do.

    Raises:
        ValueError: if the field does not say, or it is fewer than `at_least`.
    """
    event_ndim = field if isinstance(field, int) else getattr(field, "event_ndim", None)
    if not isinstance(event_ndim, int) or event_ndim < 0:
        raise ValueError(
            f"{type(field).__name__} has no integer attribute event_ndim of at least 0, got "
            f"{event_ndim!r}; set it to the number of trailing dimensions that form one event (2 "
            "for a set of objects with features)"
        )
    if event_ndim < at_least:
        raise ValueError(
            f"{'the field' if isinstance(field, int) else type(field).__name__} has "
            f"event_ndim={event_ndim}, expected at least {at_least}: "
            "a mask needs an object dimension in front of the features; wrap the field so that "
            "it takes whole sets (N, D)"
        )
    return event_ndim
