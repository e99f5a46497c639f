"""Paths: their ends, and velocities that are derivatives."""

from __future__ import annotations

import pytest
import torch

import setflow

PATHS = (setflow.LinearPath(), setflow.CosinePath())


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_ends(path):
    x_target, x_source = torch.randn(5, 4, 3), torch.randn(5, 4, 3)
    torch.testing.assert_close(path.sample_xt(x_target, x_source, torch.zeros(5)), x_target)
    torch.testing.assert_close(path.sample_xt(x_target, x_source, torch.ones(5)), x_source)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_velocity_is_the_derivative_of_the_point(path):
    x_target, x_source, t = torch.randn(5, 4, 3), torch.randn(5, 4, 3), torch.rand(5)
    _, derivative = torch.func.jvp(
        lambda time: path.sample_xt(x_target, x_source, time), (t,), (torch.ones(5),)
    )
    torch.testing.assert_close(path.target_ut(x_target, x_source, t), derivative)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_coefficients_have_their_derivatives(path):
    t = torch.linspace(0, 1, 11)
    for function, derivative in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot)):
        _, slope = torch.func.jvp(function, (t,), (torch.ones_like(t),))
        torch.testing.assert_close(derivative(t), slope)


def test_linear_path_formula():
    x_target, x_source = torch.tensor([[2.0]]), torch.tensor([[-4.0]])
    t = torch.tensor([0.25])
    assert setflow.LinearPath().sample_xt(x_target, x_source, t).item() == 0.5
    assert setflow.LinearPath().target_ut(x_target, x_source, t).item() == -6.0


def test_cosine_path_formula():
    x_target, x_source = torch.tensor([[2.0]]), torch.tensor([[-4.0]])
    t = torch.tensor([1 / 3])
    x = setflow.CosinePath().sample_xt(x_target, x_source, t).item()
    assert x == pytest.approx(2 * 3**0.5 / 2 - 4 * 0.5)
