"""Toy data in two dimensions: densities that a model can be seen to learn.

Notation. Every function draws `n` points with shape `(n, 2)`; `noise` is the standard deviation of
the Gaussian noise that is added to each coordinate. Where the data have parts (moons, arms,
squares, Gaussians, clusters), the points are shared out as evenly as `n` allows and shuffled;
within its part every point is drawn on its own, so nothing lies on a grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from setflow.sets.arrays import check_generator

__all__ = [
    "sample_checkerboard",
    "sample_gaussians",
    "sample_moons",
    "sample_ring",
    "sample_spirals",
    "sample_two_clusters",
]


def sample_moons(
    n: int,
    noise: float = 0.1,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw two interleaving half circles.

    The upper moon is (cos a, sin a) and the lower one (1 - cos a, 1/2 - sin a), with the angle a
    uniform on [0, pi], before the noise is added. They are sometimes introduced as a mixture of
    Gaussians, which they are not: they are two arcs, blurred.

    Arguments:
        n: the number of points, half of them on each moon.
        noise: the standard deviation of the noise.
        generator: what draws; None takes torch's default.
        device: where to draw.
        dtype: the floating dtype; None takes torch's default.

    Returns:
        The points, with shape `(n, 2)`.

    Raises:
        ValueError: if `n` is below 1 or `noise` is negative.

    >>> sample_moons(1000, noise=0.05).shape
    torch.Size([1000, 2])
    """
    lower = _parts(n, 2, noise, generator, device) == 1
    angle = math.pi * torch.rand(n, generator=generator, device=device, dtype=dtype)
    x, y = angle.cos(), angle.sin()
    points = torch.stack([torch.where(lower, 1 - x, x), torch.where(lower, 0.5 - y, y)], dim=-1)
    return _blurred(points, noise, generator)


def sample_spirals(
    n: int,
    noise: float = 0.1,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw two Archimedean spirals wound into each other.

    One arm is r (cos(pi r), sin(pi r)) for radii r up to 3, one and a half turns, and the other is
    its mirror image through the origin, so that along a ray the arms are 1 apart. r^2 is uniform,
    which makes the points about equally dense along an arm. The arguments are those of
    `sample_moons`.

    >>> sample_spirals(1000).norm(dim=-1).max() < 4
    tensor(True)
    """
    sign = 1 - 2 * _parts(n, 2, noise, generator, device)
    radius = 3 * torch.rand(n, generator=generator, device=device, dtype=dtype).sqrt()
    return _blurred((sign * radius)[:, None] * _on_circle(math.pi * radius), noise, generator)


def sample_checkerboard(
    n: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw uniformly from the dark squares of a checkerboard.

    The board is [-2, 2] x [-2, 2] with sixteen squares of side 1; dark are the eight where
    floor(x1) + floor(x2) is even. Density 1/8 there and 0 elsewhere; no noise is added. The
    arguments are those of `sample_moons`.

    >>> x = sample_checkerboard(1000)
    >>> (x.floor().sum(-1) % 2 == 0).all()
    tensor(True)
    """
    square = _parts(n, 8, 0.0, generator, device)
    row = square // 2
    column = 2 * (square % 2) + row % 2
    corner = torch.stack([column, row], dim=-1) - 2
    return corner + torch.rand(n, 2, generator=generator, device=device, dtype=dtype)


def sample_ring(
    n: int,
    noise: float = 0.1,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw a circle of radius 1 around the origin, blurred.

    The angle is uniform. The arguments are those of `sample_moons`.

    >>> x = sample_ring(1000, noise=0.0)
    >>> torch.allclose(x.norm(dim=-1), torch.ones(1000))
    True
    """
    _check(n, noise)
    check_generator(generator)
    angle = 2 * math.pi * torch.rand(n, generator=generator, device=device, dtype=dtype)
    return _blurred(_on_circle(angle), noise, generator)


def sample_gaussians(
    n: int,
    noise: float = 0.1,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw a mixture of eight Gaussians on a circle of radius 1 around the origin.

    Their means stand at the angles 0, pi / 4, ..., their standard deviation is `noise`, their
    weights are equal. The arguments are those of `sample_moons`.

    >>> sample_gaussians(1000).shape
    torch.Size([1000, 2])
    """
    part = _parts(n, 8, noise, generator, device).to(dtype or torch.get_default_dtype())
    return _blurred(_on_circle(math.pi / 4 * part), noise, generator)


def sample_two_clusters(
    n: int,
    noise: float = 0.3,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw two labelled Gaussian clusters: data with a context.

    Class 0 stands around (-1, 0) and class 1 around (1, 0). The arguments are those of
    `sample_moons`.

    Returns:
        The points, with shape `(n, 2)`, and their labels 0 and 1, with shape `(n, 1)` and the dtype
        of the points.

    >>> x, c = sample_two_clusters(1000)
    >>> x.shape, c.mean()
    (torch.Size([1000, 2]), tensor(0.5000))
    """
    label = _parts(n, 2, noise, generator, device).to(dtype or torch.get_default_dtype())
    centre = torch.stack([2 * label - 1, torch.zeros_like(label)], dim=-1)
    return _blurred(centre, noise, generator), label[:, None]


def _check(n: int, noise: float) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a positive integer, the number of points, got {n!r}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be a standard deviation of at least 0, got {noise}")


def _parts(
    n: int,
    count: int,
    noise: float,
    generator: torch.Generator | None,
    device: torch.device | str | None,
) -> Tensor:
    """Return which of `count` parts each of `n` points belongs to: evenly shared, shuffled."""
    _check(n, noise)
    check_generator(generator)
    return torch.randperm(n, generator=generator, device=device) % count


def _on_circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _blurred(points: Tensor, noise: float, generator: torch.Generator | None) -> Tensor:
    draw = torch.randn(points.shape, generator=generator, device=points.device, dtype=points.dtype)
    return points + noise * draw
