"""What speeds are measured on: real multiplicities, fields of the claimed sizes, plain twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import setflow
from bench.machine import REPOSITORY
from setflow.data import SetBatch, Standardizer, read_jets

SLOTS = 150

FIELDS: dict[str, Callable[[], nn.Module]] = {
    "TransformerField (128 x 4)": lambda: setflow.TransformerField(3),
    "GraphField (128 x 4, k = 16)": lambda: setflow.GraphField(3, coordinates=[0, 1]),
    "EPiCField (6 x 128, latent 10)": lambda: setflow.EPiCField(3),
}


class Sizes(NamedTuple):
    """How large a measurement of sampling is."""

    events: int
    steps: int


def top_jets(events: int) -> SetBatch:
    """Return simulated top jets in the order of their file, scaled, padded to 150 slots."""
    jets = read_jets(REPOSITORY / "datasets/pythia-top/train.h5", stop=events).particles
    x, mask = jets.x.float(), jets.mask
    x = Standardizer(kinds=["real", "real", "positive"]).float().fit(x, mask)(x, mask)
    missing = SLOTS - mask.shape[1]
    return SetBatch(F.pad(x, (0, 0, 0, missing)), F.pad(mask, (0, missing)))


def awake(field: nn.Module) -> nn.Module:
    """Return a field with its gates open: one that is still zero mixes nothing."""
    with torch.no_grad():
        for weight in field.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return field


class Padded(nn.Module):
    """The plain reference: a field that holds its mask and is evaluated on all slots at once.

    It declares that it takes no mask, so that no plan is made for it.
    """

    event_ndim, takes_mask = 2, False

    def __init__(self, field: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.field = field
        self.mask = mask

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        v: Tensor = self.field(x, t, c, mask=self.mask)
        return v


def plain_divergence(field: nn.Module, x: Tensor, t: float, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return velocity and exact divergence by one reverse pass per padded coordinate."""
    times = torch.full((len(x),), t, device=x.device)
    with torch.no_grad():
        velocity = field(x, times, mask=mask)
    state = x.detach().requires_grad_()
    flat = field(state, times, mask=mask).flatten(1)
    divergence = torch.zeros(len(x), device=x.device)
    for i in range(flat.shape[1]):
        (gradient,) = torch.autograd.grad(flat[:, i].sum(), state, retain_graph=True)
        divergence += gradient.flatten(1)[:, i]
    return velocity, divergence
