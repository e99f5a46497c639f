"""Features of pairs of particles, for a field that looks at two of them at a time.

Notation. Massless particles a and b have rapidities y, angles phi and transverse momenta pT:

    Delta R^2 = (y_a - y_b)^2 + (phi_a - phi_b)^2,       kT = min(pT_a, pT_b) Delta R,
    z = min(pT_a, pT_b) / (pT_a + pT_b),   m^2 = 2 pT_a pT_b (cosh(y_a - y_b) - cos(phi_a - phi_b)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from setflow.physics.kinematics import delta_phi

__all__ = ["PairFeatures"]

_RESOLUTION = 0.01  # in Delta R; nearer pairs look alike, so that logarithms stay smooth


class PairFeatures(nn.Module):
    """ln Delta R, ln kT, ln z and ln m^2 of each pair of particles.

    Qu et al., "Particle Transformer for Jet Tagging" (arXiv:2202.03772), who add a function of them
    to the attention of a classifier. They are functions of the state x_t here, noise and all:
    symmetric in the two particles, and smooth where two of them meet (Delta R^2 and m^2 / (pT_a
    pT_b) are enlarged by 1e-4).

    The state is scaled; its features are taken back by an affine map, so that `loc` and `scale` are
    mean and standard deviation of a `Standardizer`. The third is the logarithm of pT then (or its
    like: a Box-Cox transform with small lambda).

    Arguments:
        columns: which features of the state are rapidity, angle in radians and ln pT.
        loc: the mean of each before scaling.
        scale: the standard deviation of each before scaling, positive.

    Raises:
        ValueError: if there are not three of each, or a scale is not positive.

    >>> PairFeatures()(torch.randn(8, 30, 3)).shape
    torch.Size([8, 30, 30, 4])
    """

    features = 4

    def __init__(
        self,
        columns: Sequence[int] = (0, 1, 2),
        loc: Sequence[float] = (0.0, 0.0, 0.0),
        scale: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        if isinstance(columns, int):
            raise ValueError(
                f"columns must be three positions, got {columns}: those of rapidity, angle and "
                "ln pT, such as (0, 1, 2)"
            )
        self.columns = tuple(columns)
        self.loc = tuple(loc)
        self.scale = tuple(scale)
        if {len(self.columns), len(self.loc), len(self.scale)} != {3}:
            raise ValueError(
                f"got columns={self.columns}, loc={self.loc}, scale={self.scale}; expected three "
                "of each: rapidity, angle, ln pT"
            )
        if not all(0 < scale < math.inf for scale in self.scale):
            raise ValueError(f"scales must be positive and finite, got {self.scale}")
        if not all(map(math.isfinite, self.loc)):
            raise ValueError(f"loc must be finite, got {self.loc}")
        if any(not isinstance(column, int) or column < 0 for column in self.columns):
            raise ValueError(f"columns must be integers from 0, got {self.columns}")

    def require_periodic(self, angles: Sequence[int]) -> None:
        """Refuse angles of a field of which these features would have another period than 2 pi.

        Arguments:
            angles: the positions of the features that are angles.

        Raises:
            ValueError: if one is no azimuth here, or is scaled.
        """
        others = sorted({self.columns[0], self.columns[2]} & set(angles))
        if others or (self.columns[1] in angles and self.scale[1] != 1):
            what = f"feature {others[0]}" if others else f"the scale {self.scale[1]:g} of the angle"
            raise ValueError(
                f"pair_features has the columns {self.columns} and {what}, and angles={angles}; an "
                "angle is not scaled, and can only be the second of the columns: give it there, "
                "with scale 1"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of all pairs, with shape `(*lead, N, N, 4)`.

        Arguments:
            x: the state, with shape `(*lead, N, D)`.

        Raises:
            ValueError: if `x` has fewer features than a column asks for.
        """
        if x.ndim < 2 or x.shape[-1] <= max(self.columns):
            raise ValueError(
                f"PairFeatures got x with shape {tuple(x.shape)}, expected (*lead, N, D) with "
                f"the columns {self.columns}"
            )
        y, phi, log_pt = (
            loc + scale * x[..., column]
            for column, loc, scale in zip(self.columns, self.loc, self.scale, strict=True)
        )
        dy = y[..., :, None] - y[..., None, :]
        dphi = delta_phi(phi[..., :, None], phi[..., None, :])
        log_a, log_b = log_pt[..., :, None], log_pt[..., None, :]
        softer = torch.minimum(log_a, log_b)
        log_delta = 0.5 * (dy**2 + dphi**2 + _RESOLUTION**2).log()
        log_z = softer - torch.logaddexp(log_a, log_b)
        # cosh dy - cos dphi, by half angles, so that nothing cancels for near pairs, and times
        # exp(-|dy|), so that nothing overflows for distant ones
        shrink = dy.abs().neg()
        opening = 0.5 * shrink.expm1() ** 2 + shrink.exp() * (
            2 * (0.5 * dphi).sin() ** 2 + 0.5 * _RESOLUTION**2
        )
        log_m2 = math.log(2) + log_a + log_b - shrink + opening.log()
        return torch.stack([log_delta, softer + log_delta, log_z, log_m2], dim=-1)
