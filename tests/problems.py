"""Problems whose answer is known, for solvers and verbs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

import setflow
from setflow.paths.affine import AffinePath


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


def small_transformer(dim: int) -> setflow.TransformerField:
    return setflow.TransformerField(dim, hidden=8, layers=1, heads=2).double()


@functools.cache
def trained_transformer(dim: int) -> setflow.TransformerField:
    """A transformer after a short training on three objects, left and right of a common centre."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        field = small_transformer(dim)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2)
    for _ in range(100):
        centre = torch.randn(128, 1, dim, generator=generator)
        side = torch.randint(2, (128, 3, 1), generator=generator) * 2 - 1
        x = 0.5 * centre + 0.7 * side + 0.4 * torch.randn(128, 3, dim, generator=generator)
        noise = torch.randn(128, 3, dim, generator=generator)
        optimizer.zero_grad()
        setflow.masked_fm_loss(field, x, noise, None, generator=generator).backward()
        optimizer.step()
    return field.requires_grad_(False)


def quadrature(objects: int, nodes: int, *, ordered: bool = False) -> tuple[Tensor, Tensor]:
    """Points (nodes ** objects, objects) and weights for integrals of densities of real numbers.

    Gauss and Legendre's rule for logistic quantiles; with `ordered` over x_1 < x_2 < ... only, by
    Duffy's map of the cube onto the simplex of the quantiles.
    """
    if objects == 0:
        return torch.zeros(1, 0), torch.ones(1)
    node, weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(nodes))
    u = torch.cartesian_prod(*[(node + 1) / 2] * objects).reshape(-1, objects)
    weights = torch.cartesian_prod(*[weight / 2] * objects).reshape(-1, objects).prod(-1)
    if ordered:
        weights = weights * (u ** torch.arange(objects - 1, -1, -1)).prod(-1)
        u = u.cumprod(-1).flip(-1)
    return u.logit(), weights / (u * (1 - u)).prod(-1)


class ConditionalGaussian(torch.nn.Module):
    """A `GaussianSetField` whose mean is a linear function of the context."""

    takes_mask = True
    event_ndim = 2

    def __init__(self, field: setflow.GaussianSetField, slope: Tensor) -> None:
        super().__init__()
        self.field = field
        self.slope = torch.nn.Parameter(slope)  # (D, C)

    def forward(self, x: Tensor, t: Tensor, c: Tensor, *, mask: Tensor | None = None) -> Tensor:
        shift = (c @ self.slope.T)[..., None, :]  # (*lead, 1, D)
        time = t[..., None, None]
        path = self.field.path
        moved = x - path.alpha(time) * shift
        return self.field(moved, t, mask=mask) + path.alpha_dot(time) * shift


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
