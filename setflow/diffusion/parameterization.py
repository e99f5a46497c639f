"""What a diffusion model predicts, and how each prediction becomes another.

Notation. x_t = alpha x_0 + sigma eps. A model is given x_t and t and predicts one of

    eps        the noise,
    score      the gradient of log p_t at x_t; it is -eps / sigma,
    x0         the data; they are (x_t - sigma eps) / alpha,
    velocity   alpha' x_0 + sigma' eps; it is drift(x_t, t) - diffusion(t)^2 score / 2, the velocity
               of the probability-flow equation.

Predictions are means given x_t, and all relations are linear, so they hold between the means too.
See Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations"
(arXiv:2011.13456), and Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion
Models" (arXiv:2202.00512). (The "v" of the latter is the velocity only where its schedule is.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from setflow.diffusion.schedule import NoiseSchedule, drift_at
from setflow.fields.base import VectorField
from setflow.sets.shapes import align_time

__all__ = ["Parameterization", "check_parameterization", "convert", "error_factor", "refuse_angles"]

Parameterization = Literal["eps", "score", "x0", "velocity"]


def check_parameterization(name: str) -> None:
    """Raise ValueError unless `name` is that of a parameterisation.

    >>> check_parameterization("eps")
    """
    if name not in get_args(Parameterization):
        raise ValueError(
            f"unknown parameterization {name!r}, expected one of "
            f"{', '.join(get_args(Parameterization))}"
        )


def refuse_angles(model: nn.Module) -> None:
    """Refuse a field of the library that takes features for angles.

    Raises:
        ValueError: if a part of the model does: the noise of a diffusion is that of a line.
    """
    for part in model.modules():
        if isinstance(part, VectorField) and (angles := getattr(part, "angles", ())):
            raise ValueError(
                f"{type(part).__name__} has angles={list(angles)}, and diffusion adds the noise of "
                "a line, which has no mean on a circle; train it by flow matching, "
                "setflow.masked_fm_loss with a setflow.WrappedPath"
            )


def convert(
    prediction: Tensor,
    x_t: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    *,
    source: Parameterization,
    target: Parameterization,
) -> Tensor:
    """Return a prediction in another parameterisation.

    Each pair has a formula of its own, which divides by nothing that the answer does not need:
    `x0` becomes the velocity also where alpha = 0, the score becomes the velocity also where
    sigma = 0. Where sigma = 0 and a formula divides by it, its coefficients are those of the
    smallest time that the dtype resolves, so that nothing becomes NaN. A schedule's own drift and
    diffusion are what leads from `eps` and `score` to the velocity, and from the velocity to
    `score`.

    Arguments:
        prediction: what the model returned, with the shape of `x_t`.
        x_t: the noisy state, with shape `(*lead, *event_shape)`.
        t: the time, a scalar tensor or one with shape `lead`.
        schedule: the noise schedule.
        source: what `prediction` is: `eps`, `score`, `x0` or `velocity`.
        target: what it becomes.

    Returns:
        The prediction, with the shape of `x_t`; `prediction` itself if source and target agree.

    Raises:
        ValueError: if a shape does not fit, or a parameterisation is unknown.

    >>> schedule, x_0, eps = setflow.diffusion.VESchedule(), torch.ones(4, 3), torch.randn(4, 3)
    >>> t = torch.full((4,), 0.5)
    >>> x_t = x_0 + schedule.sigma(t)[:, None] * eps
    >>> x_0_hat = convert(eps, x_t, t, schedule, source="eps", target="x0")
    >>> torch.allclose(x_0_hat, x_0, atol=1e-6)
    True
    """
    check_parameterization(source)
    check_parameterization(target)
    if prediction.shape != x_t.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and x_t {tuple(x_t.shape)}; expected "
            "equal shapes: one predicted value per coordinate"
        )
    time = align_time(t, x_t)
    if source == target:
        return prediction
    return _FORMULAS[source, target](prediction, x_t, time, schedule)


def error_factor(t: Tensor, schedule: NoiseSchedule, parameterization: Parameterization) -> Tensor:
    """Return the factor by which an error of x_0 appears in a prediction, with the shape of `t`.

    At given x_t, an error d of `x0` is an error k(t) d of the prediction, with k = 1 for `x0`,
    -alpha / sigma for `eps`, alpha / sigma^2 for `score`, alpha' - alpha sigma' / sigma for
    `velocity`. So a weight w(t) of `|x_0_hat - x_0|^2` is the weight w(t) / k(t)^2 of the squared
    error of the prediction. Where sigma = 0 the time is the smallest that the dtype resolves.

    Arguments:
        t: the time, of any shape.
        schedule: the noise schedule.
        parameterization: `eps`, `score`, `x0` or `velocity`.

    Raises:
        ValueError: if the parameterisation is unknown.

    >>> error_factor(torch.tensor([0.0, 1.0]), setflow.diffusion.VESchedule(0.1, 2.0), "eps")
    tensor([-10.0000,  -0.5000])
    """
    check_parameterization(parameterization)
    if parameterization == "x0":
        return torch.ones_like(t)
    t = schedule.regular_time(t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if parameterization == "eps":
        return -alpha / sigma
    if parameterization == "score":
        return alpha / sigma**2
    return schedule.alpha_dot(t) - alpha * schedule.sigma_dot(t) / sigma


# In all formulas: (prediction, x_t, t with dimensions of size one for the event, schedule).
_Formula = Callable[[Tensor, Tensor, Tensor, NoiseSchedule], Tensor]


def _eps_to_score(eps: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    return -eps / schedule.sigma(schedule.regular_time(t))


def _eps_to_x0(eps: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    return (x - schedule.sigma(t) * eps) / schedule.alpha(t)


def _eps_to_velocity(eps: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    regular = schedule.regular_time(t)
    rate = schedule.diffusion(regular) ** 2 / (2 * schedule.sigma(regular))
    return drift_at(schedule, x, t) + rate * eps


def _score_to_eps(score: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    return -schedule.sigma(t) * score


def _score_to_x0(score: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    return (x + schedule.sigma(t) ** 2 * score) / schedule.alpha(t)


def _score_to_velocity(score: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    return drift_at(schedule, x, t) - 0.5 * schedule.diffusion(t) ** 2 * score


def _x0_to_eps(x0: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    t = schedule.regular_time(t)
    return (x - schedule.alpha(t) * x0) / schedule.sigma(t)


def _x0_to_score(x0: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    t = schedule.regular_time(t)
    return (schedule.alpha(t) * x0 - x) / schedule.sigma(t) ** 2


def _x0_to_velocity(x0: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    t = schedule.regular_time(t)
    eps = (x - schedule.alpha(t) * x0) / schedule.sigma(t)
    return schedule.alpha_dot(t) * x0 + schedule.sigma_dot(t) * eps


def _velocity_to_eps(v: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    alpha, alpha_dot = schedule.alpha(t), schedule.alpha_dot(t)
    determinant = alpha * schedule.sigma_dot(t) - alpha_dot * schedule.sigma(t)
    return (alpha * v - alpha_dot * x) / determinant


def _velocity_to_score(v: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    t = schedule.regular_time(t)
    return 2 * (drift_at(schedule, x, t) - v) / schedule.diffusion(t) ** 2


def _velocity_to_x0(v: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    t = schedule.regular_time(t)
    sigma, sigma_dot = schedule.sigma(t), schedule.sigma_dot(t)
    determinant = schedule.alpha(t) * sigma_dot - schedule.alpha_dot(t) * sigma
    return (sigma_dot * x - sigma * v) / determinant


_FORMULAS: dict[tuple[Parameterization, Parameterization], _Formula] = {
    ("eps", "score"): _eps_to_score,
    ("eps", "x0"): _eps_to_x0,
    ("eps", "velocity"): _eps_to_velocity,
    ("score", "eps"): _score_to_eps,
    ("score", "x0"): _score_to_x0,
    ("score", "velocity"): _score_to_velocity,
    ("x0", "eps"): _x0_to_eps,
    ("x0", "score"): _x0_to_score,
    ("x0", "velocity"): _x0_to_velocity,
    ("velocity", "eps"): _velocity_to_eps,
    ("velocity", "score"): _velocity_to_score,
    ("velocity", "x0"): _velocity_to_x0,
}
