"""Straight paths on circles, for features that are angles.

Notation. A path with alpha + sigma = 1 moves from data to noise by the share kappa(t) = sigma(t) of
their difference, x_t = x_target + kappa(t) (x_source - x_target), with the velocity kappa'(t)
(x_source - x_target). On a circle the difference is the shorter way round, wrap(x_source -
x_target) in [-pi, pi), and the point is taken modulo 2 pi.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from setflow.paths.affine import AffinePath, LinearPath
from setflow.paths.base import ProbabilityPath
from setflow.sets.angles import Circles, wrap, wrapped
from setflow.sets.arrays import shown

__all__ = ["WrappedPath"]


class WrappedPath(ProbabilityPath):
    """A path on lines, and in angles the shorter way round the circle at the same pace.

    Geodesics of a torus, as in Chen and Lipman, "Flow Matching on General Geometries"
    (arXiv:2302.03660). It is for a field that sees no turn of an angle, as those of the library
    with `angles=`. A loss divides the squared error of an angle by the variance of its base, as if
    it were scaled, which an angle cannot be, for it would lose its period.

    Arguments:
        base: the noise, which knows the angles, a `setflow.WrappedNormal`.
        path: the path on lines, with alpha + sigma = 1; None takes `LinearPath`.

    Raises:
        TypeError: if the base knows no angles.
        ValueError: if alpha + sigma is not 1: its points are no shares of a difference.

    >>> base = setflow.WrappedNormal(torch.tensor([2.0]), angles=[0])
    >>> x_target, x_source = torch.tensor([[3.0]]), torch.tensor([[-3.0]])
    >>> WrappedPath(base).target_ut(x_target, x_source, torch.tensor([0.5]))
    tensor([[0.2832]])
    """

    def __init__(self, base: Circles, path: ProbabilityPath | None = None) -> None:
        if isinstance(base, type) or not hasattr(base, "angles"):
            raise TypeError(
                f"base is {shown(base)}, expected one that knows which features are angles, such "
                "as setflow.WrappedNormal(scale, angles=[2])"
            )
        self.base = base
        self.path = LinearPath() if path is None else path
        t = torch.linspace(0, 1, 9, dtype=torch.float64)
        if not isinstance(self.path, AffinePath):
            raise TypeError(
                f"path is {shown(path)}, expected an affine one with alpha + sigma = 1, such as "
                "setflow.LinearPath(): an angle is moved by a share of its difference"
            )
        total = self.path.alpha(t) + self.path.sigma(t)
        if not torch.allclose(total, torch.ones_like(t), rtol=0, atol=1e-6):
            far = float(total[(total - 1).abs().argmax()])
            raise ValueError(
                f"{self.path!r} has alpha + sigma of up to {far:.3g}, and an angle needs a path "
                "where it is 1 at all times: its points are shares of the shorter way round the "
                "circle, and a multiple of an angle has another period; take setflow.LinearPath()"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base!r}, {self.path!r})"

    @property
    def angles(self) -> tuple[int, ...]:
        """The positions of the features that are angles."""
        return self.base.angles

    @property
    def unit(self) -> Tensor:
        """What errors and distances of angles are measured in, with shape `(D,)`; 1 on lines."""
        return self.base.unit

    def require_periodic(self, field: nn.Module) -> None:
        """Refuse a field that takes other features for angles than the path, if it tells.

        Raises:
            ValueError: if it does.
        """
        seen = getattr(field, "angles", None)
        if seen is not None and tuple(sorted(seen)) != tuple(sorted(self.angles)):
            raise ValueError(
                f"the path goes round a circle in the features {list(self.angles)}, and "
                f"{type(field).__name__} has angles={list(seen)}; build it with "
                f"angles={list(self.angles)}, so that its velocity has the period of each"
            )

    def sample_xt(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        nearest = self._nearest(x_target, x_source)
        return wrapped(self.path.sample_xt(x_target, nearest, t), self.angles)

    def target_ut(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        return self.path.target_ut(x_target, self._nearest(x_target, x_source), t)

    def _nearest(self, x_target: Tensor, x_source: Tensor) -> Tensor:
        """Return the noise with its angles in that turn which is nearest to the data."""
        if x_target.shape != x_source.shape:
            return x_source  # which the path on lines refuses
        columns = list(x_source.unbind(-1))
        for k in self.angles:
            columns[k] = x_target[..., k] + wrap(x_source[..., k] - x_target[..., k])
        return torch.stack(columns, -1)
