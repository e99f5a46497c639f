"""Noise prediction, score, velocity and drift of a stochastic interpolant, made from one another.

Notation. x_t = I(x_target, x_source, t) + gamma(t) z has the density rho_t; all means are given
x_t = x and, if there is one, the context:

    eta(x, t)   = E[z]                            the noise
    score(x, t) = grad log rho_t = -eta / gamma
    v(x, t)     = E[dI/dt]                        the velocity of the path alone
    b(x, t)     = E[dI/dt + gamma' z]             the drift: dx/dt = b carries rho_0 into rho_1
                = v + gamma' eta = v - gamma gamma' score

The second line is Stein's identity: given both ends, x_t is Gaussian around I with the standard
deviation gamma, and the gradient of its log-density is -z / gamma; the score is the mean of that.
(arXiv:2303.08797, Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework
for Flows and Diffusions".) Time runs as everywhere here, from data (t = 0) to noise (t = 1); the
identities are the same in the other direction.

A sign. nami, where these names come from, has eta / gamma, v + gamma gamma' score and + gamma
gamma' score. For a network regressed on z these hold if "score" means the *negative* of the
gradient of the log-density; a true score gives the wrong drift there, and a network that predicts
-z makes the first line right and the others wrong. Here `eta_model` predicts z and a score is the
gradient. The drift made from v and eta is the same in both; a score itself changes its sign.

Each class is called like a field, by every verb, and under the laws of the mask: for sets, eta,
score and drift are those of the real objects, and 0 in padded slots.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from setflow.paths.gamma import GammaSchedule, as_gamma
from setflow.sets.context import Context
from setflow.sets.events import call_field
from setflow.sets.masks import as_mask, zero_padding
from setflow.sets.protocols import declares, event_ndim_of
from setflow.sets.shapes import align_coefficient, expand_time, split_event

__all__ = ["DriftFromVelocityScore", "MirrorVelocityFromScore", "ScoreFromNoise"]


class ScoreFromNoise(nn.Module):
    """The score -eta / gamma from a model that predicts the noise z.

    Where gamma vanishes the score is not determined by eta; there the result is finite but of no
    use, so draw and integrate inside the schedule's `time_range`.

    Arguments:
        eta_model: a field whose value is E[z | x_t = x].
        gamma_schedule: a `GammaSchedule`, or an object with `gamma` and `gamma_dot`.
        eps: the smallest gamma to divide by, positive; never lower than the smallest normal number
            of the dtype.

    Raises:
        ValueError: if `eps` is not positive.

    >>> from setflow.paths import BrownianGamma
    >>> model = setflow.VelocityField(dim=2)
    >>> score, x = ScoreFromNoise(model, BrownianGamma()), torch.randn(8, 2)
    >>> torch.allclose(score(x, 0.5), -2 * model(x, 0.5))
    True
    """

    def __init__(
        self, eta_model: nn.Module, gamma_schedule: GammaSchedule, eps: float = 1e-12
    ) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps}")
        self.event_ndim = event_ndim_of(eta_model)
        self.takes_mask = declares(eta_model, "takes_mask")
        as_gamma(gamma_schedule)
        self.eta_model = eta_model
        self.gamma_schedule = gamma_schedule
        self.eps = eps

    def forward(
        self, x: Tensor, t: Tensor | float, c: Context | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Return the score.

        Arguments:
            x: the state, with shape `(*lead, *event_shape)`.
            t: the time, a number, a scalar tensor or a tensor with shape `lead`.
            c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object.
            mask: the mask with shape `(*lead, N)`, or None for all real.

        Returns:
            The score, with the shape of `x`, zero in padded slots.

        Raises:
            ValueError: if a shape does not fit.
        """
        t, mask = _checked_inputs(self.event_ndim, x, t, mask)
        gamma = align_coefficient(as_gamma(self.gamma_schedule).gamma(t), t, x, "gamma")
        gamma = gamma.clamp(min=max(self.eps, torch.finfo(gamma.dtype).tiny))
        return zero_padding(-call_field(self.eta_model, x, t, c, mask) / gamma, mask)


class DriftFromVelocityScore(nn.Module):
    """The drift b = v - gamma gamma' score, whose flow has the densities of the interpolant.

    Arguments:
        velocity_model: a field whose value is v = E[dI/dt | x_t = x]; not what is regressed on
            dI/dt + gamma' z, which is the drift itself.
        score_model: a field whose value is grad log rho_t, such as a `ScoreFromNoise`.
        gamma_schedule: a `GammaSchedule`, or an object with `gamma` and `gamma_dot`.

    Raises:
        ValueError: if the two models differ in `event_ndim`.

    >>> from setflow.paths import BrownianGamma
    >>> v, eta, gamma = setflow.VelocityField(2), setflow.VelocityField(2), BrownianGamma()
    >>> drift, x = DriftFromVelocityScore(v, ScoreFromNoise(eta, gamma), gamma), torch.randn(8, 2)
    >>> torch.allclose(drift(x, 0.1), v(x, 0.1) + 0.4 / 0.3 * eta(x, 0.1), atol=1e-6)
    True
    """

    def __init__(
        self, velocity_model: nn.Module, score_model: nn.Module, gamma_schedule: GammaSchedule
    ) -> None:
        super().__init__()
        self.event_ndim = event_ndim_of(velocity_model)
        if event_ndim_of(score_model) != self.event_ndim:
            raise ValueError(
                f"velocity_model has event_ndim={self.event_ndim} and score_model has event_ndim="
                f"{event_ndim_of(score_model)}; expected the same: both act on one kind of event"
            )
        self.takes_mask = declares(velocity_model, "takes_mask") or declares(
            score_model, "takes_mask"
        )
        as_gamma(gamma_schedule)
        self.velocity_model = velocity_model
        self.score_model = score_model
        self.gamma_schedule = gamma_schedule

    def forward(
        self, x: Tensor, t: Tensor | float, c: Context | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Return the drift, with the shape of `x`; the arguments are those of `ScoreFromNoise`."""
        t, mask = _checked_inputs(self.event_ndim, x, t, mask)
        product = align_coefficient(
            as_gamma(self.gamma_schedule).gamma_gamma_dot(t), t, x, "gamma_gamma_dot"
        )
        v = call_field(self.velocity_model, x, t, c, mask)
        score = call_field(self.score_model, x, t, c, mask)
        return zero_padding(v - product * score, mask)


class MirrorVelocityFromScore(nn.Module):
    """The drift -gamma gamma' score of the mirror interpolant, I = x_target at all times.

    x_t = x_target + gamma(t) z leads from the data to noisier data and back, so that the flow from
    t = 0 to t = 1 gives a point its own place again, and one that adds noise on the way resamples
    the data.

    Arguments:
        score_model: a field whose value is grad log rho_t.
        gamma_schedule: a `GammaSchedule`, or an object with `gamma` and `gamma_dot`.

    >>> from setflow.paths import BrownianGamma
    >>> model = setflow.VelocityField(dim=2)
    >>> mirror, x = MirrorVelocityFromScore(model, BrownianGamma()), torch.randn(8, 2)
    >>> torch.allclose(mirror(x, 0.25), -0.25 * model(x, 0.25))
    True
    """

    def __init__(self, score_model: nn.Module, gamma_schedule: GammaSchedule) -> None:
        super().__init__()
        self.event_ndim = event_ndim_of(score_model)
        self.takes_mask = declares(score_model, "takes_mask")
        as_gamma(gamma_schedule)
        self.score_model = score_model
        self.gamma_schedule = gamma_schedule

    def forward(
        self, x: Tensor, t: Tensor | float, c: Context | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Return the drift, with the shape of `x`; the arguments are those of `ScoreFromNoise`."""
        t, mask = _checked_inputs(self.event_ndim, x, t, mask)
        product = align_coefficient(
            as_gamma(self.gamma_schedule).gamma_gamma_dot(t), t, x, "gamma_gamma_dot"
        )
        return zero_padding(-product * call_field(self.score_model, x, t, c, mask), mask)


def _checked_inputs(
    event_ndim: int, x: Tensor, t: Tensor | float, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    lead, event = split_event(x, event_ndim)
    if mask is not None:
        if event_ndim < 2:
            raise ValueError(
                f"got a mask for models with event_ndim={event_ndim}, expected at least 2: a mask "
                "needs an object dimension in front of the features"
            )
        mask = as_mask(mask, (*lead, event[0])).to(x.device)
    return expand_time(t, lead, like=x), mask
