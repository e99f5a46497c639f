"""Paths that go round a circle."""

from __future__ import annotations

import math

import pytest
import torch

import setflow
from each import each
from setflow.diffusion import ScheduledPath, VPSchedule
from setflow.sets.angles import wrap


class Eased(setflow.LinearPath):
    """A path with alpha + sigma = 1 whose pace changes."""

    sample_xt = setflow.paths.AffinePath.sample_xt
    target_ut = setflow.paths.AffinePath.target_ut

    def alpha(self, t):
        return 1 - self.sigma(t)

    def sigma(self, t):
        return t**2 * (3 - 2 * t)

    def alpha_dot(self, t):
        return -self.sigma_dot(t)

    def sigma_dot(self, t):
        return 6 * t * (1 - t)


BASE = setflow.WrappedNormal(torch.tensor([1.0, 0.3, 2.0]), angles=[2, 1])
PATHS = (setflow.LinearPath(), Eased())


def ends(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_target, x_source = 4 * torch.randn(2, 50, 6, 3, generator=generator)
    return x_target, x_source, torch.rand(50, generator=generator)


@each("inner", PATHS)
def test_points_and_velocities_by_their_formula(inner) -> None:
    path = setflow.WrappedPath(BASE, inner)
    x_target, x_source, t = ends()
    x, u = path.sample_xt(x_target, x_source, t), path.target_ut(x_target, x_source, t)
    kappa, rate = (value[:, None] for value in (inner.sigma(t), inner.sigma_dot(t)))
    for k in (1, 2):
        way = wrap(x_source[..., k] - x_target[..., k])
        torch.testing.assert_close(x[..., k], wrap(x_target[..., k] + kappa * way))
        torch.testing.assert_close(u[..., k], rate * way)
        assert (way.abs() <= math.pi).all()
    for line, value in ((inner.sample_xt, x), (inner.target_ut, u)):
        assert torch.equal(value[..., 0], line(x_target, x_source, t)[..., 0])


@each("inner", PATHS)
def test_velocity_is_the_derivative_of_the_point(inner) -> None:
    path, (x_target, x_source, t) = setflow.WrappedPath(BASE, inner), ends()
    _, derivative = torch.func.jvp(
        lambda time: path.sample_xt(x_target, x_source, time), (t,), (torch.ones_like(t),)
    )
    torch.testing.assert_close(path.target_ut(x_target, x_source, t), derivative)


@each("inner", PATHS)
def test_ends_and_turns(inner) -> None:
    path, (x_target, x_source, t) = setflow.WrappedPath(BASE, inner), ends()
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    for time, end in ((zero, x_target), (one, x_source)):
        point = path.sample_xt(x_target, x_source, time)
        torch.testing.assert_close(point[..., 0], end[..., 0])
        torch.testing.assert_close(wrap(point - end)[..., 1:].abs().max(), torch.zeros(()))
    turn = torch.tensor([0, 2 * math.pi, -4 * math.pi])
    for function in (path.sample_xt, path.target_ut):
        expected = function(x_target, x_source, t)
        for moved in ((x_target + turn, x_source), (x_target, x_source - turn)):
            torch.testing.assert_close(function(*moved, t), expected, rtol=0, atol=1e-12)


def test_narrow_angles_move_as_on_a_line() -> None:
    x_target, x_source = 0.05 * torch.randn(2, 50, 6, 3)
    t, path = torch.rand(50), setflow.WrappedPath(BASE)
    for name in ("sample_xt", "target_ut"):
        on_a_line = getattr(setflow.LinearPath(), name)(x_target, x_source, t)
        torch.testing.assert_close(getattr(path, name)(x_target, x_source, t), on_a_line)


@each("inner", [setflow.CosinePath(), ScheduledPath(VPSchedule())])
def test_a_path_that_scales_an_angle_is_refused(inner) -> None:
    with pytest.raises(ValueError, match=r"has alpha \+ sigma of up to 1\.\d+, and an angle needs"):
        setflow.WrappedPath(BASE, inner)


def test_what_is_no_base_or_path_is_refused() -> None:
    with pytest.raises(TypeError, match="expected one that knows which features are angles"):
        setflow.WrappedPath(setflow.StandardNormal((3,)))
    with pytest.raises(TypeError, match=r"expected an affine one with alpha \+ sigma = 1"):
        setflow.WrappedPath(BASE, object())
    with pytest.raises(ValueError, match="expected equal shapes"):
        setflow.WrappedPath(BASE).sample_xt(torch.zeros(2, 3), torch.zeros(2, 2), torch.zeros(2))
