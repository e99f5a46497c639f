"""Noise schedules as a user writes them: four functions, and no call of the base's `__init__`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from setflow.diffusion.schedule import NoiseSchedule


class StraightSchedule(NoiseSchedule):
    """alpha = 1 - t and sigma = t: sigma(0) = 0 with a finite slope, and alpha(1) = 0 exactly."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x / (1 - t.reshape(t.shape + (1,) * (x.ndim - t.ndim)))

    def diffusion(self, t: Tensor) -> Tensor:
        return (2 * t / (1 - t)).sqrt()


class TurningSchedule(NoiseSchedule):
    """alpha = cos(angle t) and sigma = sin(angle t) + floor, with an `__init__` of its own."""

    def __init__(self, angle: float = 1.4, floor: float = 0.4) -> None:
        self.angle = angle
        self.floor = floor

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self.angle * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(self.angle * t) + self.floor

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -self.angle * torch.tan(self.angle * t) * x

    def diffusion(self, t: Tensor) -> Tensor:
        sine, cosine = torch.sin(self.angle * t), torch.cos(self.angle * t)
        sigma = sine + self.floor
        return (2 * self.angle * sigma * (cosine + sine / cosine * sigma)).sqrt()


class LearnedPowerSchedule(nn.Module, NoiseSchedule):
    """alpha = 1 and sigma = exp(power t), with a parameter and no derivative of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(math.log(3.0)))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.exp(self.power * t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, t: Tensor) -> Tensor:
        return (2 * self.power).sqrt() * self.sigma(t)
