"""The probability flow of a diffusion model, as a velocity field.

Notation. A model predicts eps, the score, x_0 or the velocity at x_t = alpha x_0 + sigma eps. The
probability-flow equation dx/dt = drift(x, t) - diffusion(t)^2 score / 2 has the marginals of the
diffusion; its velocity is alpha' x_0 + sigma' eps in terms of the predictions.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from setflow.diffusion.parameterization import (
    Parameterization,
    check_parameterization,
    convert,
    refuse_angles,
)
from setflow.diffusion.schedule import NoiseSchedule, check_schedule
from setflow.fields.base import VectorField
from setflow.process import Guidance, known_event_ndim
from setflow.sets.context import Context
from setflow.sets.events import Events
from setflow.sets.masks import zero_padding
from setflow.sets.shapes import expand_time

__all__ = ["ProbabilityFlowField"]


class ProbabilityFlowField(VectorField):
    """The velocity of the probability flow of a diffusion model.

    Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations"
    (arXiv:2011.13456), equation 13.

    Arguments:
        model: predicts what `parameterization` says.
        schedule: the noise schedule with which it was trained.
        parameterization: `eps`, `score`, `x0` or `velocity`.
        guidance_fn: changes the predicted noise, called as `guidance_fn(x, t, eps)` with `t` of the
            lead shape; None leaves it.
        event_ndim: how many trailing dimensions form one event; needed if the model does not say.

    Raises:
        TypeError: if `schedule` is not a noise schedule.
        ValueError: if the parameterisation is unknown.

    >>> model, schedule = setflow.VelocityField(dim=2, hidden=16), setflow.VPSchedule()
    >>> field = ProbabilityFlowField(model, schedule, "eps")
    >>> field(torch.randn(8, 2), 0.5).shape
    torch.Size([8, 2])
    """

    takes_mask = True

    def __init__(
        self,
        model: nn.Module,
        schedule: NoiseSchedule,
        parameterization: Parameterization,
        guidance_fn: Guidance | None = None,
        *,
        event_ndim: int | None = None,
    ) -> None:
        super().__init__()
        check_parameterization(parameterization)
        check_schedule(schedule)
        refuse_angles(model)
        self.model = model
        self.schedule = schedule
        self.parameterization: Parameterization = parameterization
        self.guidance_fn = guidance_fn
        self.holds_context = guidance_fn is not None  # it may hold a row per event
        # how one solve evaluates the model on its events
        self.predict: Callable[[Events], Tensor] = lambda events: events.velocity(model)
        self._event_ndim = known_event_ndim(model, event_ndim)

    @property
    def event_ndim(self) -> int:
        return self._event_ndim

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity, with the shape of `x`, zero in padded slots.

        Arguments:
            x: the state, with shape `(*lead, *event_shape)`.
            t: the time, a number or a tensor with shape `lead`.
            c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.
        """
        events = Events.of(self.event_ndim, x, mask, t=t, c=c)
        x, t, mask = events.x, expand_time(t, events.lead, like=x), events.mask
        prediction = self.predict(events)
        source = self.parameterization
        if self.guidance_fn is not None:
            eps = convert(prediction, x, t, self.schedule, source=source, target="eps")
            prediction, source = self.guidance_fn(x, t, eps), "eps"
            if prediction.shape != x.shape:
                raise ValueError(
                    f"guidance_fn returned shape {tuple(prediction.shape)} for eps of shape "
                    f"{tuple(x.shape)}; expected the same shape"
                )
            prediction = zero_padding(prediction, mask)
        v = convert(prediction, x, t, self.schedule, source=source, target="velocity")
        return zero_padding(v, mask)
