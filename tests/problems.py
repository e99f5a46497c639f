"""Problems whose answer is known, for solvers and verbs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

import setflow
from setflow.paths.base import AffinePath


@dataclass(frozen=True)
class Problem:
    """dx/dt = f(x, t) with x(0) = x0 and the exact x(1)."""

    f: Callable[[Tensor, float], Tensor]
    x0: Tensor
    x1: Tensor


def ode_problems() -> dict[str, Problem]:
    """Linear, time-dependent and nonlinear equations: an order needs more than a linear one."""
    x0 = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    spin = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    turn = torch.tensor(
        [[math.cos(1), math.sin(1)], [-math.sin(1), math.cos(1)]], dtype=torch.float64
    )
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
    return {
        "growth": Problem(lambda x, t: x, x0, x0 * math.e),
        "rotation": Problem(lambda x, t: spin @ x, y0, turn @ y0),
        "explicit time": Problem(lambda x, t: x * (1 + 2 * t), x0, x0 * math.exp(2)),
        "nonlinear": Problem(
            lambda x, t: -(x**2) * (1 + t), x0.abs(), x0.abs() / (1 + 1.5 * x0.abs())
        ),
    }


def gaussian_field(
    coupling: float, *, path: AffinePath | None = None, features: int = 2
) -> setflow.GaussianSetField:
    generator = torch.Generator().manual_seed(4)
    return setflow.GaussianSetField(
        torch.randn(features, generator=generator, dtype=torch.float64),
        0.4 + torch.rand(features, generator=generator, dtype=torch.float64),
        coupling=coupling,
        path=path,
    )


def scipy_log_prob(field: setflow.GaussianSetField, objects: Tensor) -> float:
    """The log-density of one event's real objects (N, D), written with scipy alone."""
    n = len(objects)
    if n == 0:
        return 0.0
    total = 0.0
    for feature in range(objects.shape[-1]):
        covariance = field.scale[feature].item() ** 2 * (
            np.eye(n) + field.coupling * np.ones((n, n))
        )
        mean = np.full(n, field.loc[feature].item())
        total += multivariate_normal(mean, covariance).logpdf(objects[:, feature].numpy())
    return float(total)


class GaussianPredictor(torch.nn.Module):
    """What a perfect diffusion model predicts for the data of a `GaussianSetField`.

    Written from the posterior of x_0 and eps given x_t in each eigenspace, finite at every time,
    and not with the library's own conversions.
    """

    takes_mask = True
    event_ndim = 2

    def __init__(
        self, field: setflow.GaussianSetField, schedule: setflow.NoiseSchedule, predicts: str
    ) -> None:
        super().__init__()
        self.field = field
        self.schedule = schedule
        self.predicts = predicts

    def eigenspaces(self, x: Tensor, mask: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """Pairs of a projection of `x` and the variance of the data on it."""
        mask = torch.ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask
        n = mask.sum(-1)[..., None, None].to(x.dtype)
        x = torch.where(mask[..., None], x, 0.0)
        mean = torch.where(mask[..., None], x.sum(-2, keepdim=True) / n.clamp(min=1), 0.0)
        variance = self.field.scale**2
        return [(x - mean, variance), (mean, variance * (1 + self.field.coupling * n))]

    def forward(
        self, x: Tensor, t: Tensor, c: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        t = t[..., None, None]
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        total = torch.zeros_like(x)
        for part, variance in self.eigenspaces(x - alpha * self.field.loc, mask):
            marginal = alpha**2 * variance + sigma**2
            if self.predicts == "x0":
                total = total + alpha * variance / marginal * part
            elif self.predicts == "eps":
                total = total + sigma / marginal * part
            elif self.predicts == "score":
                total = total - part / marginal
            else:
                rate = self.schedule.alpha_dot(t) * alpha * variance
                total = total + (rate + sigma * self.schedule.sigma_dot(t)) / marginal * part
        if self.predicts == "x0":
            total = total + self.field.loc
        elif self.predicts == "velocity":
            total = total + self.schedule.alpha_dot(t) * self.field.loc
        return total

    def transported(self, x: Tensor, mask: Tensor | None, t0: float, t1: float) -> Tensor:
        """The point at `t1` to which the probability flow carries `x` from `t0`."""
        alpha, sigma = (
            [f(torch.tensor(t)) for t in (t0, t1)]
            for f in (self.schedule.alpha, self.schedule.sigma)
        )
        total = alpha[1] * self.field.loc + torch.zeros_like(x)
        for part, variance in self.eigenspaces(x - alpha[0] * self.field.loc, mask):
            before, after = (a**2 * variance + s**2 for a, s in zip(alpha, sigma, strict=True))
            total = total + (after / before).sqrt() * part
        return total if mask is None else torch.where(mask[..., None], total, 0.0)
