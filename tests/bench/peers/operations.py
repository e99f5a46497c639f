"""How many operations the plain algorithm needs on real objects alone.

Notation. One evaluation on an event of N objects has f(N) operations in its matrix products, a
quadratic function of N, as have a training step and one reverse pass to the state. They are counted
at three N, with plain attention, and summed over the events of a mask.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["evaluation", "exact_divergence", "one_probe", "training"]

_POINTS = (20, 40, 80)
_FEATURES = 3


def evaluation(field: nn.Module, mask: Tensor) -> float:
    """Return the operations of one evaluation of all events of a mask."""

    return float(_fitted(field, mask).sum())


def training(field: nn.Module, mask: Tensor) -> float:
    """Return the operations of one evaluation and its gradient with respect to the weights."""

    def run(x: Tensor, t: Tensor) -> None:
        field(x, t).sum().backward()  # the counter does not take autograd.grad of weights

    total = float(_fitted(run, mask).sum())
    field.zero_grad()
    return total


def one_probe(field: nn.Module, mask: Tensor) -> float:
    """Return the operations of one evaluation and one reverse pass to the state."""
    return float(_with_pull(field, mask).sum())


def exact_divergence(field: nn.Module, mask: Tensor) -> float:
    """Return the operations of one evaluation and a reverse pass for each real coordinate."""

    once = _fitted(field, mask)
    pull = _with_pull(field, mask) - once
    coordinates = _FEATURES * mask.sum(-1).double().numpy()
    return float((once + coordinates * pull).sum())


def _with_pull(field: nn.Module, mask: Tensor) -> np.ndarray:
    def run(x: Tensor, t: Tensor) -> None:
        state = x.requires_grad_() * 1  # the counter takes no leaf
        torch.autograd.grad(field(state, t).sum(), state)

    weights = list(field.parameters())
    wanted = [weight.requires_grad for weight in weights]
    for weight in weights:  # else the graph would hold their gradients, too
        weight.requires_grad_(False)
    try:
        return _fitted(run, mask)
    finally:
        for weight, want in zip(weights, wanted, strict=True):
            weight.requires_grad_(want)


def _fitted(run: Callable[[Tensor, Tensor], object], mask: Tensor) -> np.ndarray:
    counts = []
    for n in _POINTS:
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), counter:
            run(torch.zeros(1, n, _FEATURES), torch.zeros(1))
        counts.append(counter.get_total_flops())
    lengths = mask.sum(-1).double().numpy()
    return np.polyval(np.polyfit(_POINTS, counts, 2), lengths)
