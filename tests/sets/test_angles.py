"""Angles on the circle [-pi, pi)."""

from __future__ import annotations

import math

import pytest
import torch

from each import each
from setflow.sets.angles import checked_angles, wrap


@each("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_angle_gets_its_turn(dtype) -> None:
    inside = torch.linspace(-3, 3, 97).to(dtype)
    assert torch.equal(wrap(inside), inside)  # to the last bit
    tolerance = 20 * torch.finfo(dtype).eps
    for turns in (-3, -1, 1, 2):
        moved = wrap(inside + 2 * math.pi * turns)
        assert ((moved - inside).abs() < tolerance * math.pi).all()
    pi = torch.tensor([-math.pi, math.pi]).to(dtype)
    assert wrap(pi).tolist() == pi[[0, 0]].tolist()
    wide = wrap(50 * torch.randn(1000).to(dtype)).double()
    ends = float(pi[1])
    assert ((wide >= -ends) & (wide < ends)).all()


def test_the_derivative_is_one() -> None:
    x = torch.tensor([-9.0, -math.pi, 0.3, 4.0], requires_grad=True)
    wrap(x).sum().backward()
    assert x.grad.tolist() == [1.0] * 4
    assert torch.func.vmap(torch.func.grad(wrap))(x.detach()).tolist() == [1.0] * 4


@each("given", [(2, 3), [3], (-1,), (1, 1), 1, ("phi",), (1.0,), (True,)])
def test_positions_that_are_none_are_refused(given) -> None:
    with pytest.raises(ValueError, match=r"expected the positions .* such as \[2\]: different"):
        checked_angles(given, 3)
    assert checked_angles([2, 0], 3) == (2, 0)


def test_what_is_no_number_stays_none() -> None:
    assert wrap(torch.tensor([math.nan, math.inf, -math.inf])).isnan().all()
