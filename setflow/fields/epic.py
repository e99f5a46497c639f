"""Deep sets with a global vector, whose cost is linear in the number of objects.

Notation. The objects of an event have rows h with shape `(E, N, hidden)`, the event a global vector
g with shape `(E, latent)` and a condition e: its time, number of real objects and context. A layer
pools the rows into g and hands g to each of them; all its linear maps also take e. What a map makes
of g and e is one vector per event, computed once and added to every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setflow.fields.angles import periodic
from setflow.fields.base import SetField, zeroed
from setflow.fields.embeddings import EventFeatures
from setflow.sets.events import Events
from setflow.sets.shapes import check_sizes

__all__ = ["EPiCField"]

_SUM_SCALE = 0.01  # as published: the sum over 100 objects counts as much as their mean


class EPiCField(SetField):
    """A deep-sets velocity field: objects meet in a global vector, at a cost linear in N.

    Equivariant point cloud layers (Buhmann, Kasieczka and Thaler, "EPiC-GAN: Equivariant Point
    Cloud Generation for Particle Jets", arXiv:2301.08128) as the velocity of a flow (Buhmann et
    al., "EPiC-ly Fast Particle Cloud Generation with Flow-Matching and Diffusion",
    arXiv:2310.00049), in their sizes: 561,432 parameters for 3 features against 561,330. What
    differs: SiLU, so that the velocity has a continuous derivative; residuals that are added behind
    the activation; no weight normalisation, and no activation on the output; the number of real
    objects beside the time; a gain per feature, a function of the condition, that passes the state
    on to the velocity. The velocity is zero before training.

    Arguments:
        dim: the number of features of one object.
        condition_dim: the number of context features per event.
        object_condition_dim: the number of context features per object; excludes `condition_dim`.
        hidden: the width of the rows of the objects.
        latent: the length of the global vector.
        layers: how many times objects and global vector exchange.
        angles: the positions of the features that are angles, see `SetField`.

    Raises:
        ValueError: if a size is not positive, or both kinds of context are asked for.

    >>> field = EPiCField(3, hidden=32, layers=2)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> field(x, torch.rand(8), mask=mask).shape
    torch.Size([8, 30, 3])
    """

    def __init__(
        self,
        dim: int,
        *,
        condition_dim: int = 0,
        object_condition_dim: int = 0,
        hidden: int = 128,
        latent: int = 10,
        layers: int = 6,
        angles: Sequence[int] = (),
    ) -> None:
        super().__init__(
            dim,
            condition_dim=condition_dim,
            object_condition_dim=object_condition_dim,
            angles=angles,
        )
        check_sizes(hidden=hidden, latent=latent, layers=layers)
        self.hidden = hidden
        self.latent = latent
        self.layers = layers
        self.condition = EventFeatures(condition_dim)
        condition = self.condition.features
        own = object_condition_dim + hidden
        self.embed = _RowLinear(object_condition_dim + self.features_seen, condition, hidden)
        self.embed_update = _RowLinear(own, condition, hidden)
        self.pooled = nn.Linear(2 * hidden + condition, hidden)
        self.pooled_update = nn.Linear(hidden + condition, latent)
        self.blocks = nn.ModuleList(_Layer(own, hidden, latent, condition) for _ in range(layers))
        self.out = zeroed(_RowLinear(own, condition, dim))
        self.skip = zeroed(nn.Linear(condition, dim))

    def velocity(self, events: Events) -> Tensor:
        """Return the velocity of a flat batch of events; see `SetField`."""
        context = events.context
        row, rows = (None, None) if context is None else (context.row, context.rows)
        x, n = events.x, events.lengths.to(events.x.dtype)
        e = self.condition(events.t, n, row)
        own = () if rows is None else (rows,)
        real = None if events.mask is None else events.mask[:, None].to(x.dtype)
        seen, passed = periodic(x, self.angles) if self.angles else (x, x)
        h = F.silu(self.embed((*own, seen), (e,)))
        h = F.silu(self.embed_update((*own, h), (e,)) + h)
        state = _State(h, h.new_zeros(len(h), self.hidden))
        g = F.silu(self.pooled(torch.cat([state.pooled(real, n), e], dim=-1)))
        g = F.silu(self.pooled_update(torch.cat([g, e], dim=-1)))
        for block in self.blocks:
            state, g = block(state, g, e, (real, n), own)
        out: Tensor = self.out((*own, state.h), (state.shift, e))
        return torch.addcmul(out, self.skip(e)[:, None], passed)


class _State(NamedTuple):
    """The rows of the objects, as what each has of its own and what all of an event have alike.

    Attributes:
        h: the own part, with shape `(E, N, hidden)`.
        shift: what is to be added to every row of an event, with shape `(E, hidden)`.
    """

    h: Tensor
    shift: Tensor

    def pooled(self, real: Tensor | None, n: Tensor) -> Tensor:
        """Return the mean and the scaled sum over real objects, with shape `(E, 2 hidden)`.

        Arguments:
            real: 1 for real objects and 0 for padding, with shape `(E, 1, N)`, or None for all.
            n: the number of real objects, with shape `(E,)`.
        """
        # padded rows are finite, since their input was selected away: a product will do
        h = self.h
        total = h.sum(1) if real is None else (real.to(h.dtype) @ h).squeeze(1)
        n = n[:, None]
        total = total + n * self.shift
        return torch.cat([total / n.clamp(min=1), _SUM_SCALE * total], dim=-1)


class _Layer(nn.Module):
    """One exchange: the objects renew the global vector, and it renews the objects."""

    def __init__(self, own: int, hidden: int, latent: int, condition: int) -> None:
        super().__init__()
        self.pooled = nn.Linear(2 * hidden + latent + condition, hidden)
        self.pooled_update = nn.Linear(hidden + condition, latent)
        self.local = _RowLinear(own, latent + condition, hidden)
        self.local_update = _RowLinear(own, condition, hidden)

    def forward(
        self,
        state: _State,
        g: Tensor,
        e: Tensor,
        objects: tuple[Tensor | None, Tensor],
        own: tuple[Tensor, ...],
    ) -> tuple[_State, Tensor]:
        u = F.silu(self.pooled(torch.cat([state.pooled(*objects), g, e], dim=-1)))
        g = g + self.pooled_update(torch.cat([u, e], dim=-1))
        rows = F.silu(self.local((*own, state.h), (state.shift, g, e)))
        h = self.local_update.added_to(state.h, (*own, rows))
        return _State(h, state.shift + self.local_update.of_event((e,))), g


class _RowLinear(nn.Module):
    """A linear map of rows that hold first what an object has, then what its event has.

    The rows are never joined: the first columns of the weight meet the objects, the last the event,
    once. What all objects of an event have alike in their last own features may stand before the
    features of the event instead.

    Arguments:
        own: the number of features of an object.
        event: the number of features of its event.
        outputs: the number of outputs.
    """

    def __init__(self, own: int, event: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(own + event, outputs)

    def forward(self, objects: tuple[Tensor, ...], event: tuple[Tensor, ...]) -> Tensor:
        """Return the map of all rows, with shape `(E, N, outputs)`.

        Arguments:
            objects: the features of the objects, with shapes `(E, N, ...)`.
            event: those of their events, with shapes `(E, ...)`.
        """
        rows = _joined(objects)
        return F.linear(rows, self._columns_of(rows)) + self.of_event(event)[:, None]

    def of_event(self, event: tuple[Tensor, ...]) -> Tensor:
        """Return the share of the event and the bias, with shape `(E, outputs)`."""
        row = _joined(event)
        return F.linear(row, self.linear.weight[:, -row.shape[-1] :], self.linear.bias)

    def added_to(self, total: Tensor, objects: tuple[Tensor, ...]) -> Tensor:
        """Return `total` plus the share of the objects, in one pass over memory."""
        rows = _joined(objects)
        weight = self._columns_of(rows).t()
        return torch.addmm(total.flatten(0, 1), rows.flatten(0, 1), weight).reshape(total.shape)

    def _columns_of(self, rows: Tensor) -> Tensor:
        return self.linear.weight[:, : rows.shape[-1]]


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
