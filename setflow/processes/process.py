"""What all processes share: a model that is bound to a context and a mask.

Notation. Samples have the shape `sample_shape + batch + event_shape`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from setflow.core.protocols import Base, SDESolver, Solver, declares
from setflow.fields.probability_flow import Guidance
from setflow.masking.start import batch_of_context

__all__ = ["Process", "bound_batch_shape", "refuse_unless_differentiable"]


class Process(ABC):
    """A model bound to a context and a mask, which samples."""

    base: Base
    solver: Solver | SDESolver
    context: Tensor | None
    mask: Tensor | None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The event shape of the base."""
        return tuple(self.base.event_shape)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch: that of the mask, else of the base, else of the context."""
        return bound_batch_shape(self.base, self.context, self.mask)

    @abstractmethod
    def sample(
        self,
        sample_shape: Iterable[int] | int = (),
        *,
        guidance_fn: Guidance | None = None,
        x_source: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return samples with shape `sample_shape + batch + event_shape`."""

    def rsample(
        self,
        sample_shape: Iterable[int] | int = (),
        *,
        guidance_fn: Guidance | None = None,
        x_source: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return samples that are differentiable with respect to model, context and base.

        Raises:
            NotImplementedError: if the solver does not declare `supports_rsample`.
            ValueError: if a shape does not fit.
        """
        refuse_unless_differentiable(self.solver)
        with torch.enable_grad():
            return self.sample(
                sample_shape, guidance_fn=guidance_fn, x_source=x_source, generator=generator
            )


def bound_batch_shape(base: Base, context: Tensor | None, mask: Tensor | None) -> tuple[int, ...]:
    """Return the batch of what is bound: that of the mask, else of the base, else of the context.

    >>> bound_batch_shape(setflow.StandardNormal((8,)), torch.zeros(16, 4), None)
    (16,)
    """
    if mask is not None:
        return tuple(mask.shape[:-1])
    if base.batch_shape or context is None:
        return tuple(base.batch_shape)
    event_shape = tuple(base.event_shape)
    return batch_of_context(context, event_shape, len(event_shape))


def refuse_unless_differentiable(solver: object) -> None:
    """Refuse to promise gradients that a solver does not promise.

    Raises:
        NotImplementedError: if the solver does not declare `supports_rsample`.
    """
    if not declares(solver, "supports_rsample"):
        raise NotImplementedError(
            f"{type(solver).__name__} does not declare supports_rsample = True, so its samples "
            "need not be differentiable; use sample, or a solver such as setflow.RK4"
        )
