"""What only a GPU can show; `make test-cuda` runs all tests on one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import setflow
from laws.laws import redraw
from setflow.fields import PairFeatures


class Watched:
    """A solver in whose loop nothing may wait for the GPU."""

    def __init__(self, solver: setflow.Midpoint) -> None:
        self.solver = solver

    def integrate(self, f: Any, x0: Tensor, t0: float, t1: float) -> Tensor:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return self.solver.integrate(f, x0, t0, t1)
        finally:
            torch.cuda.set_sync_debug_mode("default")


FIELDS = {
    "transformer": lambda: setflow.TransformerField(3, hidden=8, layers=2, heads=2),
    "transformer, pairs": lambda: setflow.TransformerField(
        3, hidden=8, layers=2, heads=2, pair_features=PairFeatures(columns=[0, 1, 2])
    ),
    "epic": lambda: setflow.EPiCField(3, hidden=8, layers=2),
    "graph": lambda: setflow.GraphField(3, hidden=8, layers=2, messages=8, k=4, coordinates=[0, 1]),
}


@pytest.mark.parametrize("name", FIELDS)
def test_nothing_waits_inside_the_solver_loop(device, name):
    if device.type != "cuda":
        pytest.skip("waits for the device are counted on CUDA alone: --device cuda")
    field = redraw(FIELDS[name]()).to(device)
    mask = torch.rand(64, 30, device=device) > 0.5
    base, solver = setflow.StandardNormal((3,)), setflow.Midpoint(3)
    noise = torch.randn(64, 30, 3, device=device)
    with torch.no_grad():
        expected = setflow.masked_sample(field, base, solver, mask, x_source=noise)
        watched = setflow.masked_sample(field, base, Watched(solver), mask, x_source=noise)
    torch.testing.assert_close(watched, expected)


def test_a_wait_is_seen(device):
    if device.type != "cuda":
        pytest.skip("waits for the device are counted on CUDA alone: --device cuda")
    x = torch.ones(2, device=device)
    with pytest.raises(RuntimeError, match="synchroniz"):
        Watched(setflow.Midpoint(1)).integrate(lambda x, t: x * x.sum().item(), x, 1.0, 0.0)
