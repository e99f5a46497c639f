"""Guidance: samples that follow their context more, or less, than the data do.

Ho and Salimans, "Classifier-Free Diffusion Guidance" (arXiv:2207.12598), for flows Zheng et al.,
"Guided Flows for Generative Modeling and Decision Making" (arXiv:2311.13443). A field that was
trained with its context left out now and then knows v(x, t, c) and v(x, t), that of all contexts
together; the velocity of a sample of strength g is

    v(x, t) + g (v(x, t, c) - v(x, t)).

At g = 1 it is v(x, t, c), at g = 0 that without context. Above 1 events are drawn that are typical
of their context and differ less than the data do: what is generated has no known density.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from setflow.fields.base import VectorField
from setflow.sets.arrays import shown
from setflow.sets.events import call_field
from setflow.sets.protocols import event_ndim_of

__all__ = ["GuidedField"]


class GuidedField(VectorField):
    """The velocity of a guided sample, for sampling alone: `masked_log_prob` refuses it.

    Each evaluation costs two of the field.

    Arguments:
        field: a velocity field with one row of context per event, trained with and without it.
        no_context: what stands for no context, with shape `(C,)`.
        object_columns: how many columns the context has behind that of the event, for a field with
            a row per object: what is of each object, such as its type, stays.

    Raises:
        ValueError: if `no_context` is not one row.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, condition_dim=2)
    >>> guided = setflow.fields.GuidedField(field, torch.zeros(2))
    >>> x, t, c = torch.randn(4, 5, 3), torch.rand(4), torch.randn(4, 2)
    >>> strength = torch.full((4, 1), 2.0)
    >>> guided(x, t, torch.cat([c, strength], -1)).shape
    torch.Size([4, 5, 3])
    """

    takes_mask = True
    samples_only = True
    no_context: Tensor

    def __init__(self, field: nn.Module, no_context: Tensor, object_columns: int = 0) -> None:
        super().__init__()
        event_ndim_of(field)
        if not isinstance(no_context, Tensor) or no_context.ndim != 1:
            raise ValueError(
                f"no_context is {shown(no_context)}, expected a tensor with shape (C,): the row "
                "that stands for no context, such as SetFlow.no_context"
            )
        self.field, self.object_columns = field, object_columns
        self.register_buffer("no_context", no_context.detach(), persistent=False)

    @property
    def event_ndim(self) -> int:
        """How many trailing dimensions of `x` form one event."""
        return event_ndim_of(self.field)

    def forward(
        self, x: Tensor, t: Tensor | float, c: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Return the velocity, with the shape of `x`, zero in padded slots.

        Arguments:
            x: the state, with shape `(*lead, *event_shape)`; padded slots may hold anything.
            t: the time, a number or a tensor with shape `lead`.
            c: the context with the strength of each event behind it, with shape `(*lead, C + 1)`;
                or with a row per object, its own columns last, `(*lead, N, C + 1 +
                object_columns)`.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.

        Raises:
            ValueError: if the context has another shape, as one per object or a set has.
        """
        ndim, columns = self.event_ndim, len(self.no_context)
        front = x.ndim - ndim + (self.object_columns > 0)
        expected = (*x.shape[:front], columns + 1 + self.object_columns)
        if not isinstance(c, Tensor) or tuple(c.shape) != expected:
            got = f"shape {tuple(c.shape)}" if isinstance(c, Tensor) else type(c).__name__
            raise ValueError(
                f"GuidedField got a context of {got}, expected {expected}: one row per event, "
                "with the strength of the guidance in the last column; contexts per object and "
                "context sets cannot be guided"
            )
        strength = c[..., columns].reshape(*c.shape[:-1], *[1] * (x.ndim - front))
        given, without = c[..., :columns], self.no_context.to(c).expand(*c.shape[:-1], columns)
        if self.object_columns:
            own = c[..., columns + 1 :]
            given, without = (torch.cat([row, own], -1) for row in (given, without))
        v, plain = (call_field(self.field, x, t, row, mask) for row in (given, without))
        return torch.where(strength == 1, v, plain + strength * (v - plain))
