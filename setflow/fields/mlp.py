"""A multilayer perceptron on single vectors: the field for problems without objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from setflow.fields.angles import SEEN, periodic
from setflow.fields.base import VectorField, checked_events, row_of
from setflow.sets.angles import checked_angles
from setflow.sets.shapes import check_sizes

__all__ = ["VelocityField"]


class VelocityField(VectorField):
    """An MLP v(x, t, c) on vectors of fixed length, with SiLU between its layers.

    Arguments:
        dim: the number of features.
        hidden: the width.
        condition_dim: the number of context features.
        layers: the number of hidden-to-hidden layers.
        angles: the positions of the features that are angles, see `SetField`.

    Raises:
        ValueError: if a size is not positive, or a position is none.

    >>> sum(p.numel() for p in VelocityField(dim=2, hidden=128).parameters())
    33794
    """

    event_ndim = 1

    def __init__(
        self,
        dim: int,
        hidden: int = 128,
        condition_dim: int = 0,
        layers: int = 2,
        angles: Sequence[int] = (),
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, hidden=hidden)
        check_sizes(0, condition_dim=condition_dim, layers=layers)
        self.dim = dim
        self.condition_dim = condition_dim
        self.angles = checked_angles(angles, dim)
        seen = dim + (SEEN - 1) * len(self.angles) + 1 + condition_dim
        stack: list[nn.Module] = [nn.Linear(seen, hidden), nn.SiLU()]
        for _ in range(layers):
            stack += [nn.Linear(hidden, hidden), nn.SiLU()]
        self.net = nn.Sequential(*stack, nn.Linear(hidden, dim))

    def forward(self, x: Tensor, t: Tensor | float, c: Tensor | None = None) -> Tensor:
        """Return the velocity.

        Arguments:
            x: the state, with shape `(*lead, dim)`.
            t: the time, a number or a tensor with shape `lead`.
            c: the context, with shape `(*lead, condition_dim)`.

        Returns:
            The velocity, with the shape of `x`.

        Raises:
            ValueError: if a shape does not fit.
        """
        row = row_of(self, c, x, self.condition_dim)
        events = checked_events(self, x, t, row, None, features=(self.dim,))
        assert events.t is not None
        seen = periodic(events.x, self.angles)[0] if self.angles else events.x
        parts = [seen, events.t[..., None]]
        if events.context is not None and events.context.row is not None:
            parts.append(events.context.row)
        v: Tensor = self.net(torch.cat(parts, dim=-1))
        return v
