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
