"""What an estimator of the divergence promises, and how a user's own becomes one.

Notation. The divergence of v(x, t, c) is the sum of d v_i / d x_i over the real coordinates of each
event. Fields are called at the one junction, which zeroes padded input and padded velocity: rows
and columns of the Jacobian that belong to padding are zero, so that they add nothing to a trace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from setflow.core.calling import call_field
from setflow.core.masks import as_mask
from setflow.core.protocols import event_ndim_of

__all__ = ["DivergenceEstimator", "as_estimator", "differentiable_call"]


class DivergenceEstimator(ABC):
    """Velocity and divergence from one evaluation of the field.

    Called like a function, `estimator(field, x, t, c)`, it returns the divergence alone.
    """

    @abstractmethod
    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity and its divergence.

        Arguments:
            field: the field.
            x: the state, with shape `(*lead, *event_shape)`.
            t: the time, a number or a tensor with shape `lead`.
            c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.

        Returns:
            The velocity, with the shape of `x` and zero in padded slots, and the divergence, with
            shape `lead` and zero for an event without objects. Both are differentiable where
            gradients are enabled.
        """

    def __call__(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the divergence alone, with shape `lead`."""
        return self.velocity_and_divergence(field, x, t, c, mask=mask)[1]

    def for_solve(
        self, x: Tensor, mask: Tensor | None, generator: torch.Generator | None = None
    ) -> DivergenceEstimator:
        """Return the estimator to use in one solve that starts at `x`.

        A stochastic estimator draws its probes here, once, so that the solver sees a right-hand
        side without noise.
        """
        return self


class _Callable(DivergenceEstimator):
    """A user's `estimator(field, x, t, c)`: the mask is bound to the field that it is given."""

    def __init__(self, estimate: Callable[..., Tensor]) -> None:
        self._estimate = estimate

    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        divergence = self._estimate(_MaskedField(field, mask), x, t, c)
        return call_field(field, x, t, c, mask), divergence


class _MaskedField(nn.Module):
    """A field with its mask bound, for code that knows no masks."""

    def __init__(self, field: nn.Module, mask: Tensor | None) -> None:
        super().__init__()
        self.field = field
        self._mask = mask

    @property
    def event_ndim(self) -> int:
        return event_ndim_of(self.field)

    def forward(self, x: Tensor, t: Tensor | float, c: Tensor | None = None) -> Tensor:
        return call_field(self.field, x, t, c, self._mask)


def as_estimator(estimator: Any) -> DivergenceEstimator:
    """Return an estimator, made of a callable `(field, x, t, c)` if it is not one already.

    Raises:
        TypeError: if it cannot be called.
    """
    if isinstance(estimator, DivergenceEstimator):
        return estimator
    if not callable(estimator) or isinstance(estimator, type):
        raise TypeError(
            f"estimator must be callable as (field, x, t, c), got {estimator!r}; "
            "use setflow.ExactDivergence() or setflow.HutchinsonDivergence()"
        )
    return _Callable(estimator)


@contextmanager
def differentiable_call(
    field: nn.Module, x: Tensor, t: Tensor | float, c: Tensor | None, mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Evaluate a field so that its velocity can be differentiated, whatever the caller's mode.

    It works under `torch.no_grad()` and `torch.inference_mode()`. Attention runs on PyTorch's plain
    kernels, since the fused ones can be differentiated only once.

    Yields:
        The state that the velocity depends on, the velocity, and whether the caller wants the
        results to be differentiable in turn (`create_graph`).
    """
    again = torch.is_grad_enabled()
    if mask is not None:
        mask = as_mask(mask, x.shape[: x.ndim - event_ndim_of(field, at_least=2) + 1])
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel([SDPBackend.MATH]):
        x, t = _ordinary(x), _ordinary(t) if isinstance(t, Tensor) else t
        c, mask = (None if value is None else _ordinary(value) for value in (c, mask))
        # a node of its own, since a context may have been computed from x
        state = x.view_as(x) if again and x.requires_grad else x.detach().requires_grad_()
        yield state, call_field(field, state, t, c, mask), again


def _ordinary(value: Tensor) -> Tensor:
    """Return a tensor that autograd may save, which one made in inference mode is not."""
    return value.clone() if value.is_inference() else value
