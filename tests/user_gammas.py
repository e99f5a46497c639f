"""Gamma schedules as a user writes them: two functions, with and without a base."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from setflow.paths import GammaSchedule


def named(thing: object) -> str:
    return f"{type(thing).__name__}{getattr(thing, 'scale', '')}"


def derivative(f, t: Tensor) -> Tensor:
    return torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]


class SineGamma(GammaSchedule):
    """A user's schedule: two functions and nothing else."""

    def gamma(self, t):
        return torch.sin(math.pi * t)

    def gamma_dot(self, t):
        return math.pi * torch.cos(math.pi * t)


class PlainGamma:
    """The same, and it inherits nothing."""

    gamma = SineGamma.gamma
    gamma_dot = SineGamma.gamma_dot
