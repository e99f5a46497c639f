"""A model with angles: statistics, samples, densities, files."""

from __future__ import annotations

import copy
import math
import pickle

import h5py
import pytest
import torch

import setflow
from each import each
from laws.laws import redraw
from setflow.data import EventWriter, Standardizer, read_events
from setflow.jobs.sample import sample_to_hdf5
from setflow.jobs.score import score_to_hdf5 as score
from setflow.model.statistics import statistics_of, take_statistics
from setflow.physics import delta_phi
from setflow.schema import Feature, Schema
from setflow.sets.angles import wrap

SCHEMA = Schema([Feature("x", "mm"), Feature("phi", "rad", "angle"), Feature("e", kind="positive")])
TURN = torch.tensor([0.0, 2 * math.pi, 0.0], dtype=torch.float64)


def events(width: float, n: int = 300, seed: int = 0, centre: float = 3.0) -> setflow.SetBatch:
    """Events whose angles stand around a centre, across -pi and pi, with holes in the mask."""
    generator = torch.Generator().manual_seed(seed)
    x, phi, e = torch.randn(3, n, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(n, 5, generator=generator) > 0.3
    x = torch.stack([3 * x + 1, wrap(centre + width * phi), (0.5 * e).exp()], -1)
    x[~mask] = torch.nan
    return setflow.SetBatch(x, mask)


def model(width: float = 0.7, **options) -> setflow.SetFlow:
    field = setflow.TransformerField(3, hidden=16, layers=1, heads=2, angles=[1])
    cardinality = setflow.EmpiricalCardinality(5)
    flow = setflow.SetFlow(
        redraw(field).double(), schema=SCHEMA, cardinality=cardinality, **options
    )
    with torch.no_grad():
        for parameter in flow.field.parameters():
            parameter.mul_(0.5)
    return flow.fit_statistics(events(width))


@each("width", [0.05, 0.7, 3.0])
def test_an_angle_is_centred_and_never_scaled(width) -> None:
    data, scaler = events(width), Standardizer(kinds=["real", "angle", "positive"])
    scaler.fit(data.x, data.mask)
    phi = data.x[data.mask][:, 1]
    n, resultant = len(phi), torch.exp(1j * phi).mean()
    variance = ((1 - resultant.abs() ** 2) * n / (n - 1)).clamp(max=1 - 1e-12)
    assert scaler.mean[1].item() == pytest.approx(resultant.angle().item())
    assert scaler.std[1].item() == pytest.approx((-torch.log(1 - variance)).sqrt().item())
    z = scaler(data.x, data.mask)
    torch.testing.assert_close(z[data.mask][:, 1], delta_phi(phi, scaler.mean[1]))
    torch.testing.assert_close(scaler.inverse(z, data.mask)[data.mask], data.x[data.mask])
    torch.testing.assert_close(scaler(data.x + TURN, data.mask), z)
    line = Standardizer(kinds=["real", "positive"]).fit(data.x[..., [0, 2]], data.mask)
    same = line.log_det(data.x[..., [0, 2]], data.mask)
    torch.testing.assert_close(scaler.log_det(data.x, data.mask), same)  # an angle adds nothing
    if width == 0.05:
        around = Standardizer(1).fit(delta_phi(data.x[..., 1:2], resultant.angle()), data.mask)
        assert scaler.std[1].item() == pytest.approx(around.std.item(), rel=2e-3)


@each("weighted", [False, True])
def test_statistics_of_parts_are_those_of_the_whole(weighted) -> None:
    data = events(0.7)
    if weighted:
        weight = torch.linspace(-0.2, 2, len(data), dtype=torch.float64)
        data = setflow.SetBatch(data.x, data.mask, weight=weight)
    whole, parts = model(), model()
    whole.fit_statistics(data, refit=True)
    fresh = setflow.SetFlow(parts.field, schema=SCHEMA, cardinality=setflow.EmpiricalCardinality(5))
    take_statistics(fresh, statistics_of(fresh, data[:100]) + statistics_of(fresh, data[100:]))
    for name in ("mean", "std"):
        torch.testing.assert_close(getattr(fresh.scaler, name), getattr(whole.scaler, name))


def test_what_is_no_angle_in_radians_is_refused() -> None:
    data = events(0.7)
    scaler = Standardizer(kinds=["real", "angle", "positive"])
    with pytest.raises(ValueError, match=r"feature 1 is an angle and reaches \d+.*, expected rad"):
        scaler.fit(data.x * torch.tensor([1, 180 / math.pi, 1]), data.mask)
    still = data.x.clone()
    still[..., 1] = 2.0
    with pytest.raises(ValueError, match=r"feature 1 is constant \(2\)"):
        scaler.fit(still, data.mask)


@each("width", [0.05, 0.7, 3.0])
def test_a_turn_changes_neither_loss_nor_density(width) -> None:
    flow, data = model(width), events(width, n=6, seed=1)
    turned = setflow.SetBatch(data.x - 2 * TURN, data.mask)
    noise = torch.randn(6, 5, 3, dtype=torch.float64)
    t = torch.rand(6, dtype=torch.float64)
    with torch.no_grad():
        for coupling in (None, "event"):
            losses = [flow.loss(b, t=t, noise=noise, coupling=coupling) for b in (data, turned)]
            torch.testing.assert_close(*losses, rtol=1e-11, atol=0)
        terms = [flow.log_prob_terms(b, solver=setflow.RK4(8)) for b in (data, turned)]
        for one, other in zip(*terms, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-9)


def test_the_angle_weighs_like_a_scaled_feature_before_training() -> None:
    """With no velocity the loss of each feature is the variance of its difference: about 2."""
    for width, expected in ((0.05, 2.0), (0.7, 2.0), (3.0, 1.0)):  # of a uniform one pi^2 / 3 alone
        flow = model(width)
        with torch.no_grad():
            for parameter in flow.field.parameters():
                parameter.zero_()
            generator = torch.Generator().manual_seed(1)
            data = events(width, n=4000, seed=2)
            loss = flow.loss(data, generator=generator).item()
        assert loss == pytest.approx((2 + expected + 2) / 3, rel=0.1)


def test_samples_stand_on_the_circle_whatever_the_batch_and_do_not_change_in_a_folder(
    tmp_path,
) -> None:
    flow, solver = model().eval(), setflow.Midpoint(4)
    made = flow.sample(40, seed=3, solver=solver)
    phi = made.x[made.mask][:, 1]
    assert ((phi >= -math.pi) & (phi < math.pi)).all()
    assert (delta_phi(phi, flow.scaler.mean[1]).abs() < 3).all()
    part = flow.sample(5, seed=3, first=20, solver=solver, batch_size=2)
    torch.testing.assert_close(part.x, made.x[20:25])
    again = setflow.SetFlow.load(flow.save(tmp_path / "flow"))
    others = (again, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow)))
    for other in others:
        assert torch.equal(other.sample(40, seed=3, solver=solver).x, made.x)
        other.scaler.std[1] = 2.0  # its own, which its base follows
        assert (other.base.scale[1], flow.base.scale[1]) == (2.0, flow.scaler.std[1])
        assert other.training_path.base is other.base


def test_a_file_scores_what_its_events_were_sampled_with(tmp_path) -> None:
    flow, solver = model().eval(), setflow.RK4(40)
    sample_to_hdf5(flow, tmp_path / "s.h5", events=6, seed=4, solver=solver, progress=False)
    held = read_events(tmp_path / "s.h5")
    assert held.features == ("x", "phi", "e")
    score(flow, tmp_path / "s.h5", tmp_path / "p.h5", solver=solver, progress=False)
    with h5py.File(tmp_path / "p.h5") as file:
        scored = torch.from_numpy(file["log_prob"][:]).double()
    same = flow.sample(6, seed=4, solver=solver)
    noise = flow.base.of_normal(
        setflow.distributions.counter_normal(4, torch.arange(6), same.mask, (3,)).double()
    )
    with torch.no_grad():
        z, log_p = setflow.masked_sample(
            flow.field, flow.base, solver, same.mask, x_source=noise, return_log_prob=True
        )
    x = flow.scaler.inverse(z, same.mask)
    torch.testing.assert_close(x, same.x)
    log_p = log_p + flow.scaler.log_det(x, same.mask) + torch.lgamma(same.lengths + 1.0)
    log_p = log_p + flow.cardinality.log_prob(same.lengths, None)
    torch.testing.assert_close(scored, log_p, rtol=0, atol=1e-4)  # of the solver, both ways


def test_a_wide_angle_is_scored(tmp_path) -> None:
    data = events(3.0)
    with EventWriter(tmp_path / "wide.h5", SCHEMA) as writer:
        writer.write(data)
    score(model(3.0).eval(), tmp_path / "wide.h5", tmp_path / "p.h5", events=3, progress=False,
          solver=setflow.RK4(2))  # fmt: skip


def test_a_narrow_angle_is_that_of_a_model_on_the_line() -> None:
    """Without a velocity the density of a narrow angle is that of the scaled number."""
    data = events(0.05, centre=0.4)
    number = Schema([SCHEMA.objects[0], Feature("phi", "rad"), SCHEMA.objects[2]])
    densities = []
    for schema, angles in ((SCHEMA, [1]), (number, [])):
        field = setflow.TransformerField(3, hidden=16, layers=1, heads=2, angles=angles)
        flow = setflow.SetFlow(field, schema=schema, cardinality=setflow.EmpiricalCardinality(5))
        flow.fit_statistics(data).double()  # a field begins with no velocity
        with torch.no_grad():
            densities.append(flow.log_prob(data[:50], solver=setflow.Euler(1)))
    torch.testing.assert_close(*densities, rtol=0, atol=0.05)
    assert densities[0].std() > 1


def test_half_precision_and_single_events() -> None:
    flow = model()
    data = events(0.7, n=1)
    one = setflow.SetBatch(data.x[0], data.mask[0])
    assert flow.loss(one).ndim == flow.log_prob(one, solver=setflow.RK4(2)).ndim == 0
    flow.field.float()
    made = flow.sample(4, seed=1, solver=setflow.Euler(2))
    assert made.x.dtype == torch.float32
    pi = torch.tensor(math.pi, dtype=torch.float32)
    assert ((made.x[..., 1] >= -pi) & (made.x[..., 1] < pi)).all()
