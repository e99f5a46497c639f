"""The path of a noise schedule: x_t = alpha(t) x_target + sigma(t) x_source."""

from __future__ import annotations

from torch import Tensor

from setflow.diffusion.schedule import NoiseSchedule, check_schedule
from setflow.paths.affine import AffinePath

__all__ = ["ScheduledPath"]


class ScheduledPath(AffinePath):
    """The path whose coefficients are those of a noise schedule, the library's or one's own.

    Flow matching on it, with standard normal noise as `x_source`, learns the velocity of the
    schedule's probability flow: the diffusion model in its velocity parameterisation.

    Its ends are the schedule's. At t = 0 noise of size sigma(0) is left. At t = 1 a share alpha(1)
    of the data is left (all of it for `VESchedule` and `EDMSchedule`, beside far more noise), so
    sampling starts from N(0, sigma(1)^2) and not from N(0, 1): take
    `setflow.DiagonalNormal(torch.zeros(D), schedule.sigma(torch.ones(D)))`.

    Where sigma = 0 its derivative may be infinite (`VPSchedule` at t = 0, which a uniform draw can
    hit). There the path stands at the smallest time that the dtype of `t` resolves, so that all
    four coefficients, the target of the regression and the gradients of learned ends are finite.

    Arguments:
        schedule: the noise schedule. If its ends are learned, its parameters are its own: give them
            to the optimiser too.

    Raises:
        TypeError: if `schedule` is not a `NoiseSchedule`.

    >>> path = ScheduledPath(setflow.diffusion.VPSchedule())
    >>> path.alpha(torch.tensor([0.0, 0.5, 1.0]))
    tensor([1.0000, 0.2812, 0.0066])
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        check_schedule(schedule)
        self.schedule = schedule

    def __repr__(self) -> str:
        return f"ScheduledPath({self.schedule!r})"

    def alpha(self, t: Tensor) -> Tensor:
        return self.schedule.alpha(self.schedule.regular_time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.schedule.sigma(self.schedule.regular_time(t))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self.schedule.alpha_dot(self.schedule.regular_time(t))

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.schedule.sigma_dot(self.schedule.regular_time(t))
