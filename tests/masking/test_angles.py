"""Verbs on circles: densities by quadrature, turns that change nothing, narrow angles."""

from __future__ import annotations

import math
from functools import partial
from itertools import permutations

import pytest
import torch

import setflow
from each import each
from laws.laws import redraw
from setflow.couplings import coupled_noise
from setflow.fields import PairFeatures
from setflow.sets.angles import wrap
from setflow.sets.events import Events

TURN = 2 * math.pi
SOLVER = setflow.RK4(steps=8)


def fields(dim: int, angles: list[int], **options) -> dict[str, setflow.VectorField]:
    """A random field of each family, in which objects meet, whose flow a grid resolves."""
    small = {"hidden": 8, "layers": 1, "angles": angles} | options
    made = {
        "transformer": setflow.TransformerField(dim, heads=2, **small),
        "epic": setflow.EPiCField(dim, latent=4, **small),
        "graph": setflow.GraphField(dim, messages=8, k=1, **small),
    }
    for field in made.values():
        redraw(field)
        with torch.no_grad():
            for parameter in field.parameters():
                parameter.mul_(0.35)
    made["epic"].condition.time.turns = (0.025, 0.8)  # frequencies that few steps resolve
    return {name: field.double() for name, field in made.items()}


def circle(n: int) -> torch.Tensor:
    """The middles of n equal parts of the circle; the rule converges at once where it resolves."""
    return -math.pi + TURN / n * (torch.arange(n, dtype=torch.float64) + 0.5)


@each("family", ["transformer", "epic", "graph"])
@each("width", [0.1, 1.0, 2.0])
def test_total_probability_on_the_circle(family, width) -> None:
    field, base = fields(1, [0])[family], setflow.WrappedNormal(torch.tensor([width]), [0])
    with torch.no_grad():
        for objects, n in ((1, 128), (2, 64)):
            points = torch.cartesian_prod(*[circle(n)] * objects).reshape(-1, objects, 1)
            log_p = setflow.masked_log_prob(field, base, SOLVER, points, None)
            total = (log_p.exp().sum() * (TURN / n) ** objects).item()
            assert total == pytest.approx(1, abs=1e-4), objects
            of_noise = base.log_prob(points, mask=torch.ones(points.shape[:2]))
            assert (log_p - of_noise).abs().max() > 0.1  # or the field does nothing


def test_one_object_of_the_mlp_on_the_circle() -> None:
    field = redraw(setflow.VelocityField(2, hidden=8, layers=1, angles=[0, 1])).double()
    base = setflow.WrappedNormal(torch.tensor([1.0, 2.0]), [0, 1])
    points = torch.cartesian_prod(circle(80), circle(80))
    with torch.no_grad():
        log_p = setflow.masked_log_prob(field, base, SOLVER, points, None)
    assert (log_p.exp().sum() * (TURN / 80) ** 2).item() == pytest.approx(1, abs=1e-4)


def batch(seed: int = 0, dim: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Data, noise and a mask with holes, an empty event and rubbish in the padding."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, 6, 5, dim, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 5, generator=generator) > 0.3
    mask[0], mask[1] = False, True
    x[~mask] = torch.nan
    return x, noise, mask


BASE = setflow.WrappedNormal(torch.tensor([1.0, 0.6, 2.0], dtype=torch.float64), [1, 2])


@each("family", ["transformer", "epic", "graph"])
def test_a_turn_changes_neither_velocity_nor_loss_nor_density(family) -> None:
    field, path = fields(3, [1, 2])[family], setflow.WrappedPath(BASE)
    x, noise, mask = batch()
    turned = x + torch.tensor([0.0, TURN, -2 * TURN], dtype=torch.float64)
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    verbs = {
        "velocity": lambda x: field(x, t, mask=mask),
        "log_prob": lambda x: setflow.masked_log_prob(field, BASE, SOLVER, x, mask),
        "estimate": lambda x: setflow.masked_log_prob(
            field, BASE, SOLVER, x, mask, estimator=setflow.HutchinsonDivergence(2),
            generator=torch.Generator().manual_seed(1),
        ),
        "loss": lambda x: setflow.masked_fm_loss(
            field, x, noise, mask, t, path=path, reduction="none"
        ),
        "noise of the loss": lambda x: setflow.masked_fm_loss(
            field, noise, x, mask, t, path=path, reduction="none"
        ),
        "coupled loss": lambda x: setflow.masked_fm_loss(
            field, x, noise, mask, t, path=path, coupling="event", reduction="none"
        ),
        "sample": lambda x: setflow.masked_sample(field, BASE, SOLVER, mask, x_source=x),
        "scored sample": lambda x: torch.cat(
            [
                value.flatten()
                for value in setflow.masked_sample(
                    field, BASE, SOLVER, mask, x_source=x, return_log_prob=True
                )
            ]
        ),
        "process": lambda x: setflow.FlowMatching(field, BASE, SOLVER)(mask=mask).sample(
            x_source=x
        ),
    }  # fmt: skip
    for name, verb in verbs.items():
        with torch.no_grad():
            got, expected = verb(turned), verb(x)
        assert (got - expected).abs().max() < 1e-11, name


def test_a_field_that_is_not_periodic_would_be_seen() -> None:
    field = redraw(setflow.TransformerField(3, hidden=8, layers=1, heads=2)).double()
    x, _, mask = batch()
    turned = x + torch.tensor([0.0, TURN, -TURN], dtype=torch.float64)
    t = torch.full((6,), 0.5, dtype=torch.float64)
    assert (field(turned, t, mask=mask) - field(x, t, mask=mask)).abs().max() > 0.1


def test_samples_stand_on_the_circle_and_their_density_is_that_of_the_score() -> None:
    field, (_, _, mask) = fields(3, [1, 2])["transformer"], batch()
    solver = setflow.RK4(steps=60)
    with torch.no_grad():
        x, log_p = setflow.masked_sample(
            field, BASE, solver, mask, sample_shape=(4,), return_log_prob=True,
            generator=torch.Generator().manual_seed(2),
        )  # fmt: skip
        scored = setflow.masked_log_prob(field, BASE, solver, x, mask)
    assert ((x[..., 1:] >= -math.pi) & (x[..., 1:] < math.pi)).all()
    assert (x[:, ~mask] == 0).all()
    torch.testing.assert_close(scored, log_p, rtol=0, atol=1e-6)


def test_a_narrow_angle_agrees_with_the_line() -> None:
    """A field that is near to linear in a narrow angle, as a number and as an angle."""
    width = 0.05
    scale = torch.tensor([1.0, width], dtype=torch.float64)

    class Contracting(torch.nn.Module):
        """Towards its mean over the objects, by the sine of the angle or by the number."""

        event_ndim, takes_mask = 2, True

        def __init__(self, angles):
            super().__init__()
            self.angles = angles

        def forward(self, x, t, c=None, *, mask=None):
            n = mask.sum(-1).clamp(min=1)[..., None, None]
            value, phi = x.unbind(-1)
            moved = phi.sin() if self.angles else phi
            state = torch.stack([value, moved], -1)
            mean = torch.where(mask[..., None], state, 0).sum(-2, keepdim=True) / n
            return (0.5 * state + 0.3 * mean) * (1 + t[..., None, None])

    number, angle = Contracting(()), Contracting((1,))
    line = setflow.DiagonalNormal(torch.zeros_like(scale), scale)
    base = setflow.WrappedNormal(scale, [1])
    x, noise, mask = batch(dim=2)
    x, noise = x * scale * 0.5, noise * scale
    with torch.no_grad():
        densities = [
            setflow.masked_log_prob(field, noise_, SOLVER, x, mask)
            for field, noise_ in ((number, line), (angle, base))
        ]
        torch.testing.assert_close(*densities, rtol=0, atol=0.02)  # phi^2 / 2 a slope
        t = torch.rand(6, dtype=torch.float64)
        velocities = torch.zeros(6, 5, 2, dtype=torch.float64)
        still = [Fixed(velocities, angles) for angles in ((), (1,))]
        losses = [
            setflow.masked_fm_loss(field, x, noise, mask, t, path=path, reduction="none")
            for field, path in ((still[0], None), (still[1], setflow.WrappedPath(base)))
        ]
        # one more factor: the angle's part is divided by the variance of its noise
        apart = torch.where(mask[..., None], (noise - x) ** 2, 0)
        weight = torch.tensor([1, 1 / width**2], dtype=torch.float64) / 2
        n = mask.sum(-1).clamp(min=1)
        torch.testing.assert_close(losses[1], (apart * weight).sum((-1, -2)) / n, rtol=1e-6, atol=0)
        torch.testing.assert_close(losses[0], apart.sum((-1, -2)) / 2 / n)


class Fixed(torch.nn.Module):
    """A velocity that is given."""

    event_ndim = 2

    def __init__(self, v, angles):
        super().__init__()
        self.v, self.angles = v, angles

    def forward(self, x, t, c=None):
        return self.v.expand(x.shape)


def test_noise_is_paired_by_the_shorter_way_round() -> None:
    base = setflow.WrappedNormal(torch.tensor([0.5]), [0])
    events = Events.of(2, torch.tensor([[[3.0], [0.0]]]), None)
    noise = torch.tensor([[[0.9], [-3.0]]])
    assert coupled_noise(events, noise, "event").flatten().tolist() == pytest.approx([0.9, -3.0])
    paired = coupled_noise(events, noise, "event", setflow.WrappedPath(base))
    assert paired.flatten().tolist() == pytest.approx([-3.0, 0.9])


def test_pairs_are_least_by_brute_force() -> None:
    x, noise, mask = batch(3)
    noise[~mask] = 0
    paired = coupled_noise(Events.of(2, x, mask), noise, "event", BASE)
    unit = BASE.unit

    def cost(x, noise):
        apart = noise - x
        apart = torch.cat([apart[..., :1], wrap(apart[..., 1:])], -1) / unit
        return (apart**2).sum().item()

    for event in range(6):
        real, given = x[event][mask[event]], noise[event][mask[event]]
        least = min(cost(real, given[list(order)]) for order in permutations(range(len(real))))
        assert cost(real, paired[event][mask[event]]) == pytest.approx(least)


def test_what_has_no_meaning_for_angles_is_refused() -> None:
    field, (x, noise, mask) = fields(3, [1, 2])["transformer"], batch()
    path = setflow.WrappedPath(BASE)
    with pytest.raises(ValueError, match=r"take setflow\.masked_fm_loss for features that"):
        setflow.masked_stochastic_fm_loss(field, x, noise, mask, path=path)
    for refused in (
        lambda: setflow.masked_diffusion_loss(field, x, setflow.VPSchedule(), mask),
        lambda: setflow.ProbabilityFlowField(field, setflow.VPSchedule(), "eps"),
        lambda: setflow.EDMDenoiser(field, setflow.EDMSchedule()),
        lambda: setflow.Diffusion(
            field, setflow.VPSchedule(), SOLVER, parameterization="eps", event_shape=(3,)
        )(mask=mask),
    ):
        with pytest.raises(ValueError, match=r"angles=\[1, 2\], and diffusion adds the noise of a"):
            refused()
    other = fields(3, [1])["transformer"]
    with pytest.raises(
        ValueError, match=r"circle in the features \[1, 2\], and TransformerField h"
    ):
        setflow.masked_fm_loss(other, x, noise, mask, path=path)


@each(
    ("pairs", "message"),
    [
        (PairFeatures((1, 0, 2)), "and feature 1, and angles=.1,.; an angle is not scaled"),
        (PairFeatures((0, 1, 2), scale=(1, 0.5, 1)), "the scale 0.5 of the angle"),
    ],
)
def test_features_of_pairs_with_another_period_are_refused(pairs, message) -> None:
    with pytest.raises(ValueError, match=message):
        setflow.TransformerField(3, hidden=8, heads=2, pair_features=pairs, angles=[1])


def test_features_of_pairs_see_no_turn() -> None:
    pairs = PairFeatures((0, 1, 2), loc=(0, 0.3, 0), scale=(2, 1, 1))
    field = redraw(
        setflow.TransformerField(3, hidden=8, layers=1, heads=2, pair_features=pairs, angles=[1])
    ).double()
    x, _, mask = batch()
    turned = x + torch.tensor([0.0, TURN, 0.0], dtype=torch.float64) * torch.arange(5)[:, None]
    call = partial(field, t=0.3, mask=mask)
    torch.testing.assert_close(call(turned), call(x), rtol=0, atol=1e-12)


def test_coordinates_of_a_graph_are_those_of_the_circle() -> None:
    """Neighbours across -pi and pi, by a coordinate that is chosen."""
    field = redraw(
        setflow.GraphField(2, hidden=8, layers=1, messages=8, k=1, coordinates=[1], angles=[1])
    ).double()
    x = torch.tensor([[[0.0, 3.1], [0.0, -3.1], [0.0, 1.0]]], dtype=torch.float64)
    before = field(x, 0.5)
    x[0, 1, 0] = 5.0  # the nearest of the first
    moved = field(x, 0.5) - before
    x[0, 1, 0], x[0, 2, 0] = 0.0, 5.0
    far = field(x, 0.5) - before
    assert moved[0, 0].abs().max() > 1e-3
    assert moved[0, 0].abs().max() > far[0, 0].abs().max()
