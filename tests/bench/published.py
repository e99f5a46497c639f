"""Networks of other authors, in our own words: references for speed, size and value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from setflow.fields import EPiCField, FourierTime

__all__ = ["PublishedEPiC", "published_twin"]

_SUM_SCALE = 0.01


class PublishedEPiC(nn.Module):
    """The network of EPiC flow matching: 561,330 parameters for 3 features.

    Buhmann et al., "EPiC-ly Fast Particle Cloud Generation with Flow-Matching and Diffusion"
    (arXiv:2310.00049), with the layers of arXiv:2301.08128. Each linear layer is weight-normalised
    and takes the embedded time, joined to every row; layers on objects also take the global vector.
    The frequencies of the time are ours, which changes neither speed nor size, and the velocity
    has no activation.

    Arguments:
        dim: the number of features of one object.
        condition_dim: the number of context features per event, joined where the time is.
        hidden: the width of the rows of the objects.
        latent: the length of the global vector.
        layers: how many times objects and global vector exchange.
        smooth: SiLU in the place of LeakyReLU and residuals added behind the activation, which
            makes it the function that `EPiCField` computes.
    """

    event_ndim = 2
    takes_mask = True

    def __init__(
        self, dim, *, condition_dim=0, hidden=128, latent=10, layers=6, smooth=False
    ) -> None:
        super().__init__()
        self.act = F.silu if smooth else F.leaky_relu
        condition = 32 + condition_dim
        self.time = FourierTime(32)
        self.embed = weight_norm(nn.Linear(dim + condition, hidden))
        self.embed_update = weight_norm(nn.Linear(hidden + condition, hidden))
        self.pooled = weight_norm(nn.Linear(2 * hidden + condition, hidden))
        self.pooled_update = weight_norm(nn.Linear(hidden + condition, latent))
        self.blocks = nn.ModuleList(
            _Layer(hidden, latent, condition, smooth) for _ in range(layers)
        )
        self.out = weight_norm(nn.Linear(hidden + condition, dim))

    def forward(self, x, t, c=None, *, mask=None):
        real = x.new_ones(*x.shape[:2], 1) if mask is None else mask[..., None].to(x.dtype)
        e = self.time(t) if c is None else torch.cat([self.time(t), c], -1)
        e_rows = e[:, None].expand(-1, x.shape[1], -1)  # (events, slots, condition)
        h = self.act(self.embed(torch.cat([x, e_rows], -1)))
        h = self.act(self.embed_update(torch.cat([h, e_rows], -1)) + h)
        g = self.act(self.pooled(torch.cat([*_pooled(h, real), e], -1)))
        g = self.act(self.pooled_update(torch.cat([g, e], -1)))
        for block in self.blocks:
            h, g = block(h, g, e, e_rows, real)
        return self.out(torch.cat([h, e_rows], -1)) * real


class _Layer(nn.Module):
    def __init__(self, hidden, latent, condition, smooth) -> None:
        super().__init__()
        self.act = F.silu if smooth else F.leaky_relu
        self.behind = nn.Identity() if smooth else F.leaky_relu
        self.pooled = weight_norm(nn.Linear(2 * hidden + latent + condition, hidden))
        self.pooled_update = weight_norm(nn.Linear(hidden + condition, latent))
        self.local = weight_norm(nn.Linear(hidden + latent + condition, hidden))
        self.local_update = weight_norm(nn.Linear(hidden + condition, hidden))

    def forward(self, h, g, e, e_rows, real):
        u = self.act(self.pooled(torch.cat([*_pooled(h, real), g, e], -1)))
        g = self.behind(self.pooled_update(torch.cat([u, e], -1)) + g)
        g_rows = g[:, None].expand(-1, h.shape[1], -1)
        u = self.act(self.local(torch.cat([h, g_rows, e_rows], -1)))
        return self.behind(self.local_update(torch.cat([u, e_rows], -1)) + h), g


def _pooled(h, real):
    total = (h * real).sum(1)
    return total / real.sum(1).clamp(min=1), _SUM_SCALE * total


def published_twin(field: EPiCField) -> PublishedEPiC:
    """Return a smooth `PublishedEPiC` with the weights of a field.

    Called with c = log(1 + N), with shape `(events, 1)`, and what else the field's context holds
    behind it, it is the velocity of the field without its gain, `skip`.
    """
    twin = PublishedEPiC(
        field.dim, condition_dim=1 + field.condition_dim, hidden=field.hidden,
        latent=field.latent, layers=field.layers, smooth=True,
    ).to(field.skip.weight)  # fmt: skip
    weights = {name.replace(".linear.", "."): p for name, p in field.named_parameters()}
    with torch.no_grad():
        for name, layer in twin.named_modules():
            if isinstance(layer, nn.Linear):
                layer.weight = weights[f"{name}.weight"].detach()
                layer.bias.copy_(weights[f"{name}.bias"])
    return twin
