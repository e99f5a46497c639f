"""The exact divergence: one reverse pass per coordinate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from setflow.core.protocols import event_ndim_of
from setflow.core.specs import coordinates, event_numel, split_event
from setflow.divergence.base import DivergenceEstimator, differentiable_call

__all__ = ["ExactDivergence"]


class ExactDivergence(DivergenceEstimator):
    """The trace of the Jacobian, coordinate by coordinate.

    The cost grows with the number of coordinates of the longest event: one reverse pass each.

    Arguments:
        max_dim: the largest number of coordinates of an event that is accepted, as a guard against
            an evaluation that would take too long; None accepts any.

    Raises:
        ValueError: if `max_dim` is not positive.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))
    >>> ExactDivergence()(field, torch.zeros(4, 3, 2), 1.0)  # v = x at t = 1
    tensor([6., 6., 6., 6.])
    """

    def __init__(self, max_dim: int | None = None) -> None:
        if max_dim is not None and max_dim < 1:
            raise ValueError(f"max_dim must be positive or None, got {max_dim}")
        self.max_dim = max_dim

    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return velocity and exact divergence; see `DivergenceEstimator`.

        Raises:
            ValueError: if an event has more than `max_dim` coordinates.
        """
        event_ndim = event_ndim_of(field)
        lead, event = split_event(x, event_ndim)
        if self.max_dim is not None and event_numel(event) > self.max_dim:
            raise ValueError(
                f"an event has {event_numel(event)} coordinates, more than max_dim={self.max_dim}; "
                "raise it, or use setflow.HutchinsonDivergence()"
            )
        with differentiable_call(field, x, t, c, mask) as (state, v, again):
            flat = coordinates(v, event_ndim)
            divergence = v.new_zeros(lead)
            used = _used_coordinates(mask, event, flat.shape[-1])
            for i in used if v.requires_grad else ():
                (gradient,) = torch.autograd.grad(
                    flat[..., i].sum(),
                    state,
                    retain_graph=True,
                    create_graph=again,
                    materialize_grads=True,
                )
                divergence = divergence + coordinates(gradient, event_ndim)[..., i]
        return (v, divergence) if again else (v.detach(), divergence.detach())


def _used_coordinates(mask: Tensor | None, event: tuple[int, ...], numel: int) -> list[int]:
    """Return the flat coordinates that are real in any event."""
    if mask is None:
        return list(range(numel))
    used = mask.bool().reshape(event_numel(mask.shape[:-1]), mask.shape[-1]).any(0)
    return used.repeat_interleave(event_numel(event[1:])).nonzero().flatten().tolist()
