"""Conversions between noise, score and data: setflow's, called with the coefficients.

Notation. x_t = alpha x_0 + sigma eps, and the score is the gradient of the log-density, -eps /
sigma. Coefficients are scalars or have the lead shape of `x`; at sigma = 0 what divides by it is
infinite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from setflow.diffusion import Parameterization, convert
from setflow.rectified.conversions import Coefficients
from setflow.sets.shapes import align_right

__all__ = [
    "eps_to_score",
    "eps_to_x0",
    "score_to_eps",
    "score_to_x0",
    "x0_to_eps",
    "x0_to_score",
]


def eps_to_score(eps: Tensor, sigma: Tensor) -> Tensor:
    """Return the score, -eps / sigma.

    >>> eps_to_score(torch.ones(2, 1), torch.tensor([0.5, 2.0])).flatten()
    tensor([-2.0000, -0.5000])
    """
    return _converted(eps, eps, None, sigma, "eps", "score")


def score_to_eps(score: Tensor, sigma: Tensor) -> Tensor:
    """Return the noise, -sigma score."""
    return _converted(score, score, None, sigma, "score", "eps")


def eps_to_x0(x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the data, (x - sigma eps) / alpha."""
    return _converted(eps, x, alpha, sigma, "eps", "x0")


def x0_to_eps(x: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the noise, (x - alpha x0) / sigma."""
    return _converted(x0, x, alpha, sigma, "x0", "eps")


def score_to_x0(x: Tensor, score: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the data, (x + sigma^2 score) / alpha."""
    return _converted(score, x, alpha, sigma, "score", "x0")


def x0_to_score(x: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the score, (alpha x0 - x) / sigma^2."""
    return _converted(x0, x, alpha, sigma, "x0", "score")


def _converted(
    prediction: Tensor,
    x: Tensor,
    alpha: Tensor | None,
    sigma: Tensor,
    source: Parameterization,
    target: Parameterization,
) -> Tensor:
    sigma = align_right(sigma, x.ndim)
    alpha = torch.ones_like(sigma) if alpha is None else align_right(alpha, x.ndim)
    at_t = Coefficients(alpha, sigma)
    return convert(prediction, x, sigma, at_t, source=source, target=target)
