"""Models of whole events: objects of several types with angles, some without a mass."""

from __future__ import annotations

import math

import pytest
import torch

import setflow
from laws.laws import redraw
from setflow.schema import Feature, Schema
from setflow.sets.angles import wrap

SCHEMA = Schema(
    [
        Feature("pt", "GeV", "positive"),
        Feature("kind", kind="category(lepton, jet)"),
        Feature("phi", "rad", "angle"),
        Feature("mass", "GeV", "positive", absent=["lepton"]),
    ]
)
TURN = torch.tensor([0.0, 0.0, 2 * math.pi, 0.0], dtype=torch.float64)
WIDTHS = (0.3, 0.9)
SOLVER = setflow.RK4(8)
FINE = setflow.RK4(30)


def events(n=400, seed=0):
    """Leptons around 3 rad and wider jets around -1 rad, up to three of them."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, 2, (n, 3), generator=g)
    pt, phi, mass = torch.randn(3, n, 3, generator=g, dtype=torch.float64)
    phi = torch.where(kind == 0, 3 + WIDTHS[0] * phi, -1 + WIDTHS[1] * phi)
    x = torch.stack([(0.4 * pt).exp(), kind, wrap(phi), (kind == 1) * (0.3 * mass).exp()], -1)
    mask = torch.rand(n, 3, generator=g) > 0.3
    x[~mask] = torch.nan
    return setflow.SetBatch(x, mask)


def model(features=None, n=3):
    """A model of some features; its field is near that of the base."""
    features = ("pt", "kind", "phi", "mass") if features is None else features
    numbers = [name for name in features if name != "kind"]
    field = setflow.TransformerField(
        len(numbers), hidden=16, layers=1, heads=2, object_condition_dim=2,
        angles=[numbers.index("phi")],
    )  # fmt: skip
    flow = setflow.SetFlow(
        redraw(field).double(), schema=SCHEMA, features=features,
        cardinality=setflow.EmpiricalComposition(2, n),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in flow.field.parameters():
            parameter.mul_(0.5)
    return flow


def test_an_angle_is_centred_by_the_mean_direction_of_its_type():
    flow, data = model().fit_statistics(events()), events()
    z = flow.scaler(data.x, data.mask)
    kinds = data.x[..., 1]
    for kind in (0, 1):
        here = data.mask & (kinds == kind)
        phi = z[here][:, 1]
        assert torch.exp(1j * phi).mean().angle().abs() < 1e-10
        centre = data.x[here][:, 2] - phi
        assert torch.exp(1j * (centre - centre[0])).real.min() > 1 - 1e-12  # one for all
    back = flow.scaler.inverse(z, data.mask, kinds.nan_to_num().long())
    torch.testing.assert_close(back[data.mask], data.x[data.mask])
    widths = flow.scaler.widths()
    assert widths[0] == widths[2] == 1
    assert widths[1] == flow.scaler.std[2]
    assert widths[1] == pytest.approx(WIDTHS[1], rel=0.1)  # the widest type


def test_a_turn_changes_neither_loss_nor_density():
    flow, data = model().fit_statistics(events()), events(6, seed=1)
    turned = setflow.SetBatch(data.x - 2 * TURN, data.mask)
    noise, t = torch.randn(6, 3, 3, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    losses = [flow.loss(batch, noise=noise, t=t) for batch in (data, turned)]
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-10)
    densities = [flow.log_prob(batch, solver=SOLVER) for batch in (data, turned)]
    torch.testing.assert_close(*densities, rtol=1e-9, atol=1e-9)


def test_the_density_over_types_and_the_circle_is_one():
    data = events()
    data = setflow.SetBatch(data.x[:, :1, [2, 1]], torch.ones(len(data), 1))
    data = setflow.SetBatch(data.x[data.x.isfinite().all(-1).all(-1)])
    flow = model(("phi", "kind"), n=1).fit_statistics(data)
    phi = torch.linspace(-math.pi, math.pi, 257, dtype=torch.float64)[:-1]
    total = 0.0
    for kind in (0, 1):
        x = torch.stack([phi, torch.full_like(phi, kind)], -1)[:, None]
        density = flow.log_prob(setflow.SetBatch(x), solver=FINE).exp()
        total += density.mean().item() * 2 * math.pi
    assert total == pytest.approx(1, abs=1e-4)


def test_samples_stand_on_the_circle_and_depend_on_their_numbers_alone():
    flow = model().fit_statistics(events())
    whole = flow.sample(50, seed=3, solver=SOLVER)
    parts = flow.sample(50, seed=3, solver=SOLVER, batch_size=7)
    torch.testing.assert_close(whole.x, parts.x, rtol=1e-9, atol=1e-10)
    assert torch.equal(whole.mask, parts.mask)
    phi, kind = whole.x[whole.mask][:, 2], whole.x[whole.mask][:, 1]
    assert float(phi.min()) >= -math.pi
    assert float(phi.max()) < math.pi
    assert (whole.x[whole.mask][kind == 0][:, 3] == 0).all()
    assert (whole.x[whole.mask][kind == 1][:, 3] > 0).all()
    assert flow.log_prob(whole, solver=SOLVER).isfinite().all()
