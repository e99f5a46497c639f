"""What a user without setflow writes, in our own words: networks, losses and loops.

A net is called as net(x, t, mask=mask). The loops evaluate all slots of a padded batch, give the
net its mask, and cut what it returns in padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import setflow
from bench.machine import REPOSITORY
from bench.setups import plain_divergence
from setflow.data import SetBatch, Standardizer, read_jets
from setflow.fields import FourierTime

__all__ = [
    "OBJECTS",
    "EncoderField",
    "LinearField",
    "chunks",
    "full_events",
    "hardest_jets",
    "log_normal",
    "loss_at",
    "midpoint",
    "padded_loss",
    "plain_log_prob",
]

CHUNK = 128
"""Events that a plain loop evaluates at a time: what suits the cache of a processor."""

OBJECTS = 90
"""The objects of an event that is full, as many as a top jet has on average."""


class EncoderField(nn.Module):
    """`nn.TransformerEncoder`, as it comes, as a velocity field, in the sizes of a field of ours.

    The time is embedded and added to each object. The layers are those that PyTorch makes by
    default, behind the norm, so that its fast path without padding is open to them.

    Arguments:
        like: the field whose width, depth, heads and expansion it has.
    """

    event_ndim, takes_mask = 2, True

    def __init__(self, like: setflow.TransformerField) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            like.hidden, like.heads, like.expansion * like.hidden, dropout=0.0, activation="gelu",
            batch_first=True,
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, like.layers)
        self.embed = nn.Linear(like.dim, like.hidden)
        self.time = nn.Sequential(
            FourierTime(32), nn.Linear(32, like.hidden), nn.SiLU(),
            nn.Linear(like.hidden, like.hidden),
        )  # fmt: skip
        self.out = nn.Linear(like.hidden, like.dim)

    def forward(
        self, x: Tensor, t: Tensor, c: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        h = self.embed(x) + self.time(t)[:, None]
        h = self.encoder(h, src_key_padding_mask=None if mask is None else ~mask)
        if h.shape[1] < x.shape[1]:  # the fast path returns no more slots than the longest event
            h = torch.nn.functional.pad(h, (0, 0, 0, x.shape[1] - h.shape[1]))
        v: Tensor = self.out(h)
        return v


class LinearField(nn.Module):
    """The cheapest field there is: what is left is the cost of the call."""

    event_ndim, takes_mask = 2, False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        v: Tensor = self.linear(x)
        return v


def full_events(events: int, objects: int) -> SetBatch:
    """Return events without padding."""
    return SetBatch(torch.randn(events, objects, 3), torch.ones(events, objects, dtype=torch.bool))


def hardest_jets(events: int, particles: int) -> SetBatch:
    """Return simulated top jets, scaled, with their hardest particles alone."""
    path = REPOSITORY / "datasets/pythia-top/train.h5"
    jets = read_jets(path, stop=events, max_objects=particles).particles
    x = jets.x.float()
    return SetBatch(
        Standardizer(kinds=["real", "real", "positive"]).float().fit(x, jets.mask)(x, jets.mask),
        jets.mask,
    )


def chunks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Return tensors in parts of `CHUNK` events."""
    return list(zip(*(tensor.split(CHUNK) for tensor in tensors), strict=True))


def loss_at(
    net: Callable[..., Tensor], x_t: Tensor, target: Tensor, mask: Tensor | None, t: Tensor
) -> Tensor:
    """Return the mean over events of the mean over their objects of the squared error."""
    if mask is None:
        return (net(x_t, t) - target).square().mean()
    errors = (net(x_t, t, mask=mask) - target).square().mean(-1) * mask
    return (errors.sum(-1) / mask.sum(-1)).mean()


def padded_loss(
    net: Callable[..., Tensor], x: Tensor, noise: Tensor, mask: Tensor | None, t: Tensor
) -> Tensor:
    """Return the flow-matching loss of a padded batch; None as mask means that all is real."""
    lead = t[:, None, None]
    return loss_at(net, (1 - lead) * x + lead * noise, noise - x, mask, t)


def midpoint(velocity: Callable[[Tensor, float], Tensor], x: Tensor, steps: int) -> Tensor:
    """Return the end of the midpoint rule from t = 1 to t = 0."""
    h = -1 / steps
    for k in range(steps):
        t = 1 + k * h
        x = x + h * velocity(x + h / 2 * velocity(x, t), t + h / 2)
    return x


def log_normal(z: Tensor, mask: Tensor) -> Tensor:
    """Return the standard normal log-density of the real objects of each event."""
    terms = -0.5 * (z.square() + math.log(2 * math.pi))
    return (terms.sum(-1) * mask).sum(-1)


def plain_log_prob(net: nn.Module, x: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Return the log-density by Euler's rule and one reverse pass per coordinate."""
    h, total = 1 / steps, x.new_zeros(len(x))
    for k in range(steps):
        velocity, divergence = plain_divergence(net, x, k * h, mask)
        x, total = x + h * velocity * mask[..., None], total + h * divergence
    return log_normal(x, mask) + total
