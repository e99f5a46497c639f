"""The MLP field of plain vectors: its size, shapes and errors."""

from __future__ import annotations

import pytest
import torch

import setflow


def test_velocity_field_has_the_documented_size():
    assert sum(p.numel() for p in setflow.VelocityField(dim=2, hidden=128).parameters()) == 33_794


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_velocity_field_acts_on_single_vectors(lead):
    field = setflow.VelocityField(3, hidden=8, condition_dim=2, layers=1)
    x, t, c = torch.randn(*lead, 3), torch.rand(lead), torch.randn(*lead, 2)
    v = field(x, t, c)
    assert v.shape == x.shape
    if lead:
        torch.testing.assert_close(
            v.flatten(0, -2)[-1], field(x.flatten(0, -2)[-1], t.flatten()[-1], c.flatten(0, -2)[-1])
        )


def test_a_field_without_context_refuses_one():
    with pytest.raises(ValueError, match="condition_dim=4"):
        setflow.VelocityField(3)(torch.zeros(2, 3), 0.5, torch.zeros(2, 4))
