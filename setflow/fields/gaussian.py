"""The oracle: a velocity field whose data distribution is known in closed form.

Notation. Per feature and over the N real objects of an event, the data are normal with mean m and
covariance s^2 (I + kappa 1 1^T), kappa >= 0 the coupling between objects. On an affine path
x_t = alpha x_0 + sigma x_1 the marginal at time t is normal too; its covariance has the eigenvalue
alpha^2 s^2 (1 + kappa N) + sigma^2 along the mean of the objects and alpha^2 s^2 + sigma^2 across
it. The velocity is linear in x within each eigenspace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from setflow.fields.base import VectorField, checked_events, row_of
from setflow.paths.affine import AffinePath, LinearPath
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import count_real, over_features, zero_padding
from setflow.sets.shapes import align_right

__all__ = ["GaussianSetField"]


class GaussianSetField(VectorField):
    """The exact velocity field of exchangeable Gaussian sets, with sample map and log-density.

    Use it to judge a sampler, a likelihood or a metric on sets: what they should give is known for
    any cardinality. With `coupling=0` the objects are independent and the Jacobian between them
    vanishes; with a coupling it does not.

    Arguments:
        loc: the mean m of one object, with the shape of one object, commonly `(D,)`.
        scale: the standard deviation s, positive, with the shape of `loc`.
        coupling: kappa, at least 0.
        path: an affine path; None takes `LinearPath`.

    Raises:
        ValueError: if the shapes differ, the scale is not positive or the coupling is negative.

    >>> field = GaussianSetField(torch.zeros(2), torch.ones(2), coupling=2.0)
    >>> field(torch.zeros(4, 3, 2), 0.5).shape
    torch.Size([4, 3, 2])
    """

    takes_mask = True
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        loc: Tensor | Sequence[float],
        scale: Tensor | Sequence[float],
        *,
        coupling: float = 0.0,
        path: AffinePath | None = None,
    ) -> None:
        super().__init__()
        loc, scale = torch.as_tensor(loc), torch.as_tensor(scale)
        if loc.shape != scale.shape or loc.ndim == 0:
            raise ValueError(
                f"loc has shape {tuple(loc.shape)} and scale {tuple(scale.shape)}; expected equal "
                "shapes with at least one dimension, the shape of one object"
            )
        if not bool((scale > 0).all()):
            raise ValueError(f"scale must be positive, got a minimum of {scale.min().item()}")
        if coupling < 0:
            raise ValueError(f"coupling must be at least 0, got {coupling}")
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        self.coupling = coupling
        self.path = LinearPath() if path is None else path

    @property
    def event_ndim(self) -> int:
        return 1 + self.loc.ndim

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity of the marginal path.

        Arguments:
            x: the state, with shape `(*lead, N, *loc.shape)`.
            t: the time, a number or a tensor with shape `lead`.
            c: must be None.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.

        Returns:
            The velocity, with the shape of `x`, zero in padded slots.
        """
        time, mask = self._checked(x, t, c, mask)
        time = align_right(time, x.ndim)
        alpha, sigma = self.path.alpha(time), self.path.sigma(time)
        alpha_dot, sigma_dot = self.path.alpha_dot(time), self.path.sigma_dot(time)
        across, along = self._eigenvalues(x, mask)

        def rate(variance: Tensor) -> Tensor:  # d/dt log of the standard deviation at time t
            return (alpha * alpha_dot * variance + sigma * sigma_dot) / (
                alpha**2 * variance + sigma**2
            )

        centred = zero_padding(x - alpha * self.loc, mask)
        mean = self._mean(centred, mask)
        v = alpha_dot * self.loc + rate(across) * (centred - mean) + rate(along) * mean
        return zero_padding(v, mask)

    def sample_map(self, x_source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the data point (t = 0) to which the flow carries the noise `x_source` (t = 1).

        Arguments:
            x_source: noise, with shape `(*lead, N, *loc.shape)`.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.
        """
        _, mask = self._checked(x_source, 0.0, None, mask)
        (alpha_0, sigma_0), (alpha_1, sigma_1) = self._ends(x_source)
        centred = zero_padding(x_source - alpha_1 * self.loc, mask)
        mean = self._mean(centred, mask)
        stretch_across, stretch_along = (
            ((alpha_0**2 * variance + sigma_0**2) / (alpha_1**2 * variance + sigma_1**2)).sqrt()
            for variance in self._eigenvalues(x_source, mask)
        )
        x = alpha_0 * self.loc + stretch_across * (centred - mean) + stretch_along * mean
        return zero_padding(x, mask)

    def log_prob(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return the log-density of the ordered tuple of real objects given their number, in nats.

        Arguments:
            x: data, with shape `(*lead, N, *loc.shape)`.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.

        Returns:
            The log-density, with shape `lead`; 0 for an event without objects.
        """
        x = as_tensor(x, "x")
        _, mask = self._checked(x, 0.0, None, mask)
        dtype, x = x.dtype, x.double()  # many terms: their sum is accumulated in float64
        (alpha, sigma), _ = self._ends(x)
        across, along = (alpha**2 * v + sigma**2 for v in self._eigenvalues(x, mask))
        n = self._count(x, mask)
        centred = zero_padding(x - alpha * self.loc, mask)
        mean = self._mean(centred, mask)
        # one coordinate along the mean of the objects, N - 1 across it
        square = zero_padding(centred - mean, mask) ** 2 / across
        object_dim = x.ndim - self.event_ndim
        log_p = -0.5 * (
            square.sum(object_dim, keepdim=True)
            + n * mean**2 / along
            + (n - 1) * across.log()
            + along.log()
            + n * math.log(2 * math.pi)
        )
        return torch.where(n > 0, log_p, 0).flatten(object_dim).sum(-1).to(dtype)

    def _checked(
        self, x: Tensor, t: Tensor | float, c: Tensor | None, mask: Array | None
    ) -> tuple[Tensor, Tensor | None]:
        context = row_of(self, c, x, 0)
        events = checked_events(self, x, t, context, mask, features=tuple(self.loc.shape))
        assert events.t is not None
        return events.t, events.mask

    def _count(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return N of each event, so shaped that it meets `x`."""
        if mask is None:
            return x.new_tensor(float(x.shape[x.ndim - self.event_ndim]))
        return over_features(count_real(mask)[..., None], x.ndim).to(x.dtype)

    def _mean(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mean over real objects of `x`, which is zero in padded slots."""
        total = x.sum(x.ndim - self.event_ndim, keepdim=True)
        return total / self._count(x, mask).clamp(min=1)

    def _ends(self, like: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return alpha and sigma of the path at t = 0 and at t = 1."""
        zero, one = like.new_zeros(()), like.new_ones(())
        path = self.path
        return (path.alpha(zero), path.sigma(zero)), (path.alpha(one), path.sigma(one))

    def _eigenvalues(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        across = self.scale**2
        return across, across * (1 + self.coupling * self._count(x, mask))
