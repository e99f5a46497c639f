"""The oracle itself, against scipy and against its own flow."""

from __future__ import annotations

import pytest
import torch

import setflow
from laws.laws import masks
from problems import gaussian_field, scipy_log_prob

COUPLINGS = (0.0, 2.0)
PATHS = (setflow.LinearPath(), setflow.CosinePath())


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_log_prob_against_scipy(coupling):
    field = gaussian_field(coupling)
    mask = masks()["lead1"]
    x = torch.randn(*mask.shape, 2, dtype=torch.float64)
    expected = [scipy_log_prob(field, event[real]) for event, real in zip(x, mask, strict=True)]
    torch.testing.assert_close(
        field.log_prob(x, mask), torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_flow_reaches_the_sample_map(coupling, path):
    field = gaussian_field(coupling, path=path)
    mask = masks()["lead1"]
    noise = torch.randn(*mask.shape, 2, dtype=torch.float64)
    base = setflow.StandardNormal((2,), dtype=torch.float64)
    x = setflow.masked_sample(field, base, setflow.RK4(400), mask, x_source=noise)
    torch.testing.assert_close(x, field.sample_map(noise, mask), atol=1e-8, rtol=0)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_sample_map_has_the_covariance_that_is_claimed(coupling):
    field = gaussian_field(coupling)
    noise = torch.randn(
        200_000, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x = field.sample_map(noise)
    for feature in range(2):
        covariance = torch.cov(x[..., feature].T)
        expected = field.scale[feature] ** 2 * (torch.eye(3) + coupling)
        torch.testing.assert_close(covariance, expected, atol=0.05, rtol=0.02)
    torch.testing.assert_close(x.mean(0), field.loc.expand(3, 2), atol=0.02, rtol=0)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_velocity_is_the_conditional_expectation_of_the_target(coupling, path):
    """The loss has its minimum at E[u_t | x_t]: here a linear regression tells it."""
    field = gaussian_field(coupling, path=path, features=1)
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(200_000, 2, 1, dtype=torch.float64, generator=generator)
    target = field.sample_map(torch.randn(200_000, 2, 1, dtype=torch.float64, generator=generator))
    t = torch.full((200_000,), 0.4, dtype=torch.float64)
    x, u = path.sample_xt(target, source, t)[..., 0], path.target_ut(target, source, t)[..., 0]
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    predicted = design @ torch.linalg.lstsq(design, u).solution
    torch.testing.assert_close(field(x[..., None], t)[..., 0], predicted, atol=0.05, rtol=0)


def test_the_coupling_moves_other_objects():
    x = torch.randn(1, 4, 2, dtype=torch.float64)
    moved = x.clone()
    moved[0, 0] += 1.0
    for coupling, mixes in ((0.0, False), (2.0, True)):
        field = gaussian_field(coupling)
        change = (field(moved, 0.5) - field(x, 0.5))[0, 1:].abs().max().item()
        assert (change > 1e-3) == mixes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loc": torch.zeros(2), "scale": torch.ones(3)}, "expected equal shapes"),
        ({"loc": torch.zeros(2), "scale": torch.tensor([1.0, 0.0])}, "must be positive"),
        ({"loc": torch.zeros(2), "scale": torch.ones(2), "coupling": -0.1}, "at least 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        setflow.GaussianSetField(**arguments)
