"""A permutation-equivariant field on graphs of neighbouring objects.

Notation. An event has N slots with D features. The squared distance of objects i and j in the
chosen coordinates is d_ij^2; R_i^2 is that of i to its (k + 1)-th nearest real neighbour. The edge
from j to i has the weight

    w_ij = u^2 (3 - 2 u),    u = (R_i^2 - d_ij^2) / (R_i^2 + 1e-4),

for the k nearest neighbours, and 1 where there are no more than k. It falls to zero with a zero
slope where another object becomes the k-th nearest, so that the velocity is continuous: a field
that jumps has no density (its total probability is not 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.utils.checkpoint import checkpoint

from setflow.fields.angles import on_circles, periodic
from setflow.fields.base import SetField, zeroed
from setflow.fields.embeddings import EventEmbedding
from setflow.fields.modulation import NORM_EPS, modulate
from setflow.sets.events import Events
from setflow.sets.shapes import check_sizes, positive_integer

if TYPE_CHECKING:
    from setflow.fields.message_passing import Edges

__all__ = ["GraphField"]

_HEADS = 4
_SOFTENING = 1e-4
_NEAR = 100.0  # the second function of the distance resolves distances of a tenth


class GraphField(SetField):
    """A velocity field by message passing between neighbouring objects.

    Graph layers in the manner of ParticleNet (Qu and Gouskos, "ParticleNet: Jet Tagging via
    Particle Clouds", arXiv:1902.08570), through torch-geometric (Fey and Lenssen, "Fast Graph
    Representation Learning with PyTorch Geometric", arXiv:1903.02428), which is imported when the
    first field is built. There the graph has a hard edge; here an edge fades out, as an atom does
    at the border of a neighbourhood (Behler and Parrinello, Phys. Rev. Lett. 98, 146401, 2007), at
    a distance that follows the density. For the messages see `WeightedMessages`.

    Each layer is a residual block: messages, then a feed-forward layer that also sees the mean over
    all objects. Time, number of objects and context of the event act by adaptive layer norm, whose
    gates start at zero, and a gain per feature passes the state on, as in `TransformerField`.

    Arguments:
        dim: the number of features of one object.
        condition_dim: the number of context features per event.
        object_condition_dim: the number of context features per object, see `SetField`.
        hidden: the width.
        layers: the number of blocks.
        messages: the length of a message, with attention a multiple of 4, the number of heads.
        expansion: the width of the feed-forward layer in units of `hidden`.
        k: how many nearest neighbours an object hears, fewer in an event that has fewer; None lets
            every object hear all others, at equal weights.
        coordinates: the columns between which distances are measured, features of about unit
            spread; None takes all.
        graph_from: whether these are columns of the state, so that the graph follows it, or of the
            objects' context, so that the graph is fixed.
        aggregation: how messages are weighed besides, by `"attention"`, or not, `"edgeconv"`.
        angles: the positions of the features that are angles, see `SetField`; distances are those
            of their cosines and sines.

    Raises:
        ValueError: if a size is not positive, `messages` is not a multiple of the heads, a column
            does not exist, `graph_from` or `aggregation` is another word, or kinds of context
            exclude each other.

    >>> field = GraphField(3, hidden=32, layers=2, messages=16, k=8, coordinates=[0, 1])
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
        layers: int = 4,
        messages: int = 64,
        expansion: int = 2,
        k: int | None = 16,
        coordinates: Sequence[int] | None = None,
        graph_from: Literal["state", "context"] = "state",
        aggregation: Literal["attention", "edgeconv"] = "attention",
        angles: Sequence[int] = (),
    ) -> None:
        super().__init__(
            dim,
            condition_dim=condition_dim,
            object_condition_dim=object_condition_dim,
            angles=angles,
        )
        check_sizes(hidden=hidden, layers=layers, messages=messages, expansion=expansion)
        if aggregation not in ("attention", "edgeconv"):
            raise ValueError(f"aggregation={aggregation!r}, expected 'attention' or 'edgeconv'")
        if aggregation == "attention" and messages % _HEADS:
            raise ValueError(f"messages={messages} must be a multiple of {_HEADS}, the heads")
        if k is not None:
            positive_integer(k, "k")
        self.hidden = hidden
        self.layers = layers
        self.messages = messages
        self.expansion = expansion
        self.k = k
        self.coordinates = None if coordinates is None else tuple(coordinates)
        self.graph_from = graph_from
        self.aggregation = aggregation
        self._check_coordinates()
        features = self.features_seen + object_condition_dim
        heads = _HEADS if aggregation == "attention" else 0
        self.embed = nn.Linear(features, hidden)
        self.condition = EventEmbedding(condition_dim, hidden)
        self.blocks = nn.ModuleList(
            _Block(hidden, features, messages, expansion, heads) for _ in range(layers)
        )
        self.final_modulation = zeroed(nn.Linear(hidden, 2 * hidden))
        self.out = zeroed(nn.Linear(hidden, dim))
        self.skip = zeroed(nn.Linear(hidden, dim))

    def _check_coordinates(self) -> None:
        if self.graph_from not in ("state", "context"):
            raise ValueError(f"graph_from={self.graph_from!r}, expected 'state' or 'context'")
        if self.graph_from == "context" and not self.object_condition_dim:
            raise ValueError(
                "graph_from='context' needs a context with a row per object, got "
                "object_condition_dim=0"
            )
        columns = self.dim if self.graph_from == "state" else self.object_condition_dim
        chosen = self.coordinates
        if chosen is None:
            return
        known = all(type(k) is int and 0 <= k < columns for k in chosen)
        if not chosen or not known or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"coordinates={chosen}, expected different columns of the {self.graph_from}, "
                f"counted from 0 to {columns - 1}"
            )

    def velocity(self, events: Events) -> Tensor:
        """Return the velocity of a flat batch of events; see `SetField`."""
        context = events.context
        row, rows = (None, None) if context is None else (context.row, context.rows)
        x, mask, n = events.x, events.mask, events.lengths.to(events.x.dtype)
        seen, passed = periodic(x, self.angles) if self.angles else (x, x)
        features = seen if rows is None else torch.cat([seen, rows], dim=-1)
        condition = self.condition(events.t, n, row)  # (events, hidden)
        edges = self._edges(events)
        real = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        share = (real / n.clamp(min=1)[:, None])[:, None]  # (events, 1, slots)
        h = self.embed(features)
        twice = self._computes_messages_twice(x)
        for block in self.blocks:
            h = block(h, features, condition, edges, share, twice)  # (events, slots, hidden)
        shift, scale = self.final_modulation(condition)[:, None].chunk(2, dim=-1)
        v: Tensor = self.out(modulate(h, shift, scale)) + self.skip(condition)[:, None] * passed
        return v

    def _computes_messages_twice(self, x: Tensor) -> bool:
        """Return whether messages are computed again on the way back, instead of kept.

        They are most of what a training keeps. Where x needs a gradient, a divergence may go back
        many times; a compiler decides by itself; transforms forbid it.
        """
        if is_compiling() or not (self.training and torch.is_grad_enabled()):
            return False
        return not x.requires_grad and torch._C._functorch.maybe_current_level() is None

    def _edges(self, events: Events) -> Edges:
        """Return the graph: of the state, or of the context."""
        from setflow.fields.message_passing import Edges  # torch-geometric takes its time

        rows = None if events.context is None else events.context.rows
        positions = events.x if self.graph_from == "state" else rows
        assert positions is not None
        angles: tuple[int, ...] = self.angles if self.graph_from == "state" else ()
        if self.coordinates is not None:
            positions = torch.stack([positions[..., k] for k in self.coordinates], dim=-1)
            angles = tuple(k for k, column in enumerate(self.coordinates) if column in angles)
        if angles:
            positions = on_circles(positions, angles)
        if torch.finfo(positions.dtype).bits < 32:
            positions = positions.float()
        sender, exists, squared, weight = _neighbours(positions, events.mask, self.k)
        count, slots, _ = sender.shape
        node = torch.arange(count * slots, device=sender.device).reshape(count, slots, 1)
        receiver = torch.where(exists, node, count * slots)
        features = [weight, squared.log1p(), (_NEAR * squared).log1p()]
        return Edges(
            torch.stack([(node[:, :1] + sender).flatten(), receiver.flatten()]),
            weight.flatten(0, 1),
            torch.stack(features, dim=-1).flatten(0, 1).to(events.x.dtype),
        )


class _Block(nn.Module):
    """Messages and a feed-forward layer, each behind an adaptive layer norm with a gate."""

    def __init__(
        self, hidden: int, features: int, messages: int, expansion: int, heads: int
    ) -> None:
        from setflow.fields.message_passing import WeightedMessages

        super().__init__()
        self.modulation = zeroed(nn.Linear(hidden, 6 * hidden))
        self.receive = WeightedMessages(hidden + features, messages, heads)
        self.project = nn.Linear(messages, hidden)
        self.whole = nn.Linear(hidden, hidden, bias=False)
        self.up = nn.Linear(hidden, expansion * hidden)
        self.down = nn.Linear(expansion * hidden, hidden)

    def forward(
        self,
        h: Tensor,
        features: Tensor,
        condition: Tensor,
        edges: Edges,
        share: Tensor,
        twice: bool,
    ) -> Tensor:
        modulation: Tensor = self.modulation(condition)[:, None]  # (events, 1, 6 hidden)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.chunk(6, dim=-1)
        nodes = torch.cat([modulate(h, shift_a, scale_a), features], dim=-1)
        nodes = nodes.flatten(0, 1)
        if twice:
            received = checkpoint(
                self.receive, nodes, edges, use_reentrant=False, preserve_rng_state=False
            )
        else:
            received = self.receive(nodes, edges)
        h = torch.addcmul(h, gate_a, self.project(received).reshape(h.shape))
        normed = F.layer_norm(h, h.shape[-1:], eps=NORM_EPS)
        shift_f = shift_f + self.whole(share @ normed)
        fed: Tensor = self.down(F.gelu(self.up(torch.addcmul(shift_f, normed, 1 + scale_f))))
        return torch.addcmul(h, gate_f, fed)


def _neighbours(
    positions: Tensor, mask: Tensor | None, k: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return who the neighbours are, whether they exist, their squared distances and weights.

    Each result has the shape `(E, N, k)`, with N for k at most. Distances are differences of
    coordinates, which round alike wherever a pair stands.

    Arguments:
        positions: with shape `(E, N, P)`, zero in padded slots.
        mask: boolean mask with shape `(E, N)`, or None for all real.
        k: the number of neighbours, or None for all.
    """
    events, slots, columns = positions.shape
    pairs = ~torch.eye(slots, dtype=torch.bool, device=positions.device)
    pairs = pairs.expand(events, slots, slots)
    if mask is not None:
        pairs = pairs & (mask[:, None, :] & mask[:, :, None])
    if k is None:
        sender = torch.arange(slots, device=positions.device).expand(events, slots, slots)
        return sender, pairs, _squared_distances(positions), pairs.to(positions.dtype)
    apart = _squared_distances(positions.detach()).masked_fill(~pairs, math.inf)
    # with min(k + 1, slots) for it, inductor reads beyond the end where shapes are dynamic
    most = k + 1 if k < slots else slots
    nearest = apart.topk(most, largest=False).indices  # (events, slots, k + 1)
    exists = pairs.gather(-1, nearest)
    index = nearest.flatten(1)[..., None].expand(-1, -1, columns)
    ends = positions.gather(1, index).reshape(*nearest.shape, columns)
    squared = (ends - positions[:, :, None]).square().sum(-1)
    sender, weight = nearest[..., :k], exists[..., :k].to(squared.dtype)
    if k < slots:
        fading = _fading(squared[..., :k], squared[..., k:])
        weight = weight * torch.where(exists[..., k:], fading, 1.0)
    return sender, exists[..., :k], squared[..., :k], weight


def _squared_distances(positions: Tensor) -> Tensor:
    """Return the squared distances of all pairs, column by column, which keeps memory at N^2."""
    total = positions.new_zeros(())
    for column in positions.unbind(-1):
        total = total + (column[:, :, None] - column[:, None]).square()
    return total


def _fading(squared: Tensor, cutoff: Tensor) -> Tensor:
    """Return weights that fall from 1 to 0, with a zero slope, at the squared distance `cutoff`."""
    u = (cutoff - squared) / (cutoff + _SOFTENING)
    return u.square() * (3 - 2 * u)
