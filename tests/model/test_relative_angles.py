"""Models of whole events that know no direction around the beam."""

from __future__ import annotations

import math

import pytest
import torch

import setflow
from laws.laws import redraw
from setflow.data import Standardizer
from setflow.model.folder import short_card
from setflow.model.statistics import statistics_of, take_statistics
from setflow.random import counter_normal
from setflow.schema import Feature, Schema
from setflow.sets.angles import wrap

SOLVER = setflow.RK4(8)
PT, KIND, PHI = (
    Feature("pt", "GeV", "positive"),
    Feature("kind", kind="category(lepton, jet)"),
    Feature("phi", "rad", "angle"),
)
SCHEMA = Schema([PT, KIND, PHI, Feature("mass", "GeV", "positive", absent=["lepton"])])


def events(n=400, seed=0, width=None, columns=(0, 1, 2, 3)):
    """Leptons and jets all around, or of a width around 3 rad, up to three of them."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, 2, (n, 3), generator=g)
    pt, phi, mass = torch.randn(3, n, 3, generator=g, dtype=torch.float64)
    uniform = 2 * math.pi * torch.rand(n, 3, generator=g, dtype=torch.float64)
    phi = wrap(uniform if width is None else 3 + width * phi)
    x = torch.stack([(0.4 * pt).exp(), kind, phi, (kind == 1) * (0.3 * mass).exp()], -1)
    mask = torch.rand(n, 3, generator=g) > 0.3
    x[~mask] = torch.nan
    return setflow.SetBatch(x[..., list(columns)], mask)


def model(relative=(1,)):
    """A model of typed objects; its field is near that of the base."""
    field = setflow.TransformerField(
        3, hidden=16, layers=2, heads=2, object_condition_dim=2, angles=[1],
        relative_angles=relative,
    )  # fmt: skip
    flow = setflow.SetFlow(
        redraw(field).double(), schema=SCHEMA, cardinality=setflow.EmpiricalComposition(2, 3)
    )
    with torch.no_grad():
        for parameter in flow.field.parameters():
            parameter.mul_(0.5)
    return flow


def turned(batch):
    """Turn each event by an angle of its own, which objects of all types share."""
    angle = torch.linspace(-3, 9, len(batch), dtype=torch.float64)[:, None]
    x = batch.x.clone()
    x[..., 2] = wrap(x[..., 2] + angle)
    return setflow.SetBatch(x, batch.mask)


@torch.no_grad()
def change(flow) -> float:
    """The largest change of log p by turning events."""
    data = events(8, seed=1)
    densities = [flow.log_prob(batch, solver=SOLVER) for batch in (data, turned(data))]
    return (densities[1] - densities[0]).abs().max().item()


def test_turning_events_of_several_types_changes_no_density() -> None:
    assert change(model().fit_statistics(events())) < 1e-10
    assert change(model(relative=()).fit_statistics(events())) > 1e-2


def test_samples_turn_with_their_noise() -> None:
    flow = model().fit_statistics(events())
    data = events(8, seed=1)
    kinds = flow.types.kinds(data.x, data.mask)
    noise = flow.base.of_normal(counter_normal(5, torch.arange(8), data.mask, (3,)).double())
    others = noise.clone()
    others[..., 1] += torch.linspace(-3, 9, 8, dtype=torch.float64)[:, None]
    rows, present = flow.types.rows(kinds, None, torch.float64), flow.types.present(kinds)

    @torch.no_grad()
    def sample(noise):
        z = setflow.masked_sample(
            flow.field, flow.base, SOLVER, data.mask, c=rows, x_source=noise, present=present
        )
        return setflow.SetBatch(flow.scaler.inverse(z, data.mask, kinds), data.mask)

    expected, got = turned(sample(noise)), sample(others)
    difference = got.x - expected.x
    difference[..., 2] = wrap(difference[..., 2])
    assert difference[data.mask].abs().max() < 1e-10
    assert (got.x - sample(noise).x)[data.mask].abs().max() > 0.1


def test_data_with_a_mean_direction_are_refused() -> None:
    message = r"feature 'phi' of the training events has a mean direction, with a circular width "
    with pytest.raises(ValueError, match=message):
        model().fit_statistics(events(width=0.7))
    model(relative=()).fit_statistics(events(width=0.7))


def test_they_are_refused_by_whatever_way_statistics_come() -> None:
    schema, data = Schema([PT, PHI]), events(width=0.7, columns=(0, 2))
    field = setflow.TransformerField(2, hidden=16, layers=1, angles=[1], relative_angles=[1])
    flow, message = setflow.SetFlow(field, schema=schema), "a model that knows no direction needs"
    parts = statistics_of(flow, data)
    with pytest.raises(ValueError, match=message):
        take_statistics(flow, parts)
    scaler = Standardizer(kinds=["positive", "angle"], mean=[0.0, 0.0], std=[1.0, 0.7])
    with pytest.raises(ValueError, match=message):
        setflow.SetFlow(field, schema=schema, scaler=scaler)


def test_what_cannot_turn_with_the_event_is_refused() -> None:
    lacking = Feature("phi", "rad", "angle", absent=["lepton"])
    field = setflow.TransformerField(
        2, hidden=16, layers=1, object_condition_dim=2, angles=[1], relative_angles=[1]
    )
    with pytest.raises(ValueError, match="objects of type 'lepton' have no 'phi', and what has no"):
        setflow.SetFlow(
            field, schema=Schema([PT, KIND, lacking]),
            cardinality=setflow.EmpiricalComposition(2, 3),
        )  # fmt: skip
    schema = Schema([PT, PHI], [Feature("plane", "rad", "angle")])
    field = setflow.TransformerField(
        2, hidden=16, layers=1, condition_dim=2, angles=[1], relative_angles=[1]
    )
    with pytest.raises(ValueError, match="condition 'plane' is an angle, and field has relative_"):
        setflow.SetFlow(field, schema=schema, conditions=["plane"])


def test_the_card_tells_of_angles(tmp_path) -> None:
    symmetric = (
        "phi stands on a circle, its noise uniform; the field sees its differences between objects "
        "only, so that turning an event changes no density."
    )
    for flow, told in (
        (model().fit_statistics(events()), symmetric),
        (model(()).fit_statistics(events(width=0.7)), "a circle, its noise wrapped normal, 0.7"),
        (model(), "phi stands on a circle, its noise as wide as the training data; the field"),
    ):
        assert told in short_card(flow, "flow")


def test_a_saved_model_knows_no_direction_either(tmp_path) -> None:
    flow = model().fit_statistics(events())
    again = setflow.SetFlow.load(flow.save(tmp_path / "flow"))
    assert again.field.relative_angles == (1,)
    assert change(again.double()) < 1e-10
