"""A field of relative angles: turning a whole event turns its flow and changes nothing else."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

import setflow
from each import each
from laws.laws import redraw
from setflow.fields import PairFeatures
from setflow.fields import transformer as module
from setflow.sets.angles import wrap

SOLVER = setflow.RK4(steps=4)
BASE = setflow.WrappedNormal(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), [1, 2])
TURNS = torch.tensor([0.7, -2.0, math.pi, 5.0, 0.1, 12.0], dtype=torch.float64)


def relative(dim: int = 3, angles=(1, 2), directions=(1,), **options) -> setflow.TransformerField:
    """A random field of two layers with narrow heads: their pairs have the frequencies 1 and 2."""
    small = {"hidden": 16, "layers": 2, "heads": 2} | options
    field = setflow.TransformerField(dim, angles=angles, relative_angles=directions, **small)
    redraw(field)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(0.7)
    return field.double()


def batch(seed: int = 0, dim: int = 3):
    """Data, noise and a mask with holes, an empty event and rubbish in the padding."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = 2 * torch.randn(2, 6, 5, dim, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 5, generator=generator) > 0.3
    mask[0], mask[1] = False, True
    x[~mask] = torch.nan
    return x, noise, mask


def turn(x: torch.Tensor, directions=(1,)) -> torch.Tensor:
    """Turn each event by an angle of its own."""
    turned = x.clone()
    for k in directions:
        turned[..., k] += TURNS[:, None]
    return turned


def distance(x: torch.Tensor, y: torch.Tensor, angles=(1, 2)) -> float:
    """The largest difference, round the circle in angles."""
    difference = x - y
    for k in angles:
        difference[..., k] = wrap(difference[..., k])
    return difference.abs().max().item()


def law(field: nn.Module, directions=(1,)) -> dict[str, float]:
    """How far each verb is from knowing no direction."""
    x, noise, mask = batch()
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    path = setflow.WrappedPath(BASE)

    def loss(x, noise, **options):
        return setflow.masked_fm_loss(
            field, x, noise, mask, t, path=path, reduction="none", **options
        )

    def density(x, estimator=None):
        return setflow.masked_log_prob(
            field, BASE, SOLVER, x, mask, estimator=estimator,
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip

    def sample(noise):
        return setflow.masked_sample(field, BASE, SOLVER, mask, x_source=noise)

    def turned(x):
        return turn(x, directions)

    probes = setflow.HutchinsonDivergence(2)
    with torch.no_grad():
        return {
            "velocity": (field(turned(x), t, mask=mask) - field(x, t, mask=mask)).abs().max(),
            "loss": (loss(turned(x), turned(noise)) - loss(x, noise)).abs().max(),
            "coupled loss": (
                loss(turned(x), turned(noise), coupling="event") - loss(x, noise, coupling="event")
            ).abs().max(),
            "log_prob": (density(turned(x)) - density(x)).abs().max(),
            "estimate": (density(turned(x), probes) - density(x, probes)).abs().max(),
            "sample": distance(sample(turned(noise))[mask], turned(sample(noise))[mask]),
        }  # fmt: skip


@each("options", [{}, {"qk_norm": True}, {"heads": 1}])
def test_turning_events_turns_samples_and_changes_no_density(options) -> None:
    far = law(relative(**options))
    assert {verb: float(value) for verb, value in far.items() if value > 1e-10} == {}


def test_features_of_pairs_know_no_direction() -> None:
    field = relative(angles=[1], pair_features=PairFeatures(columns=(0, 1, 2)))
    x, _, mask = batch()
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    assert (field(turn(x), t, mask=mask) - field(x, t, mask=mask)).abs().max() < 1e-10


def test_several_relative_angles_turn_together() -> None:
    field = relative(directions=(1, 2))
    far = law(field, directions=(1, 2))
    assert {verb: float(value) for verb, value in far.items() if value > 1e-10} == {}
    assert law(field, directions=(2,))["velocity"] > 1e-2  # their difference in an object counts


def leaks(monkeypatch, name: str) -> nn.Module:
    """A field that makes one mistake by which a direction becomes known."""
    frames, turned = module.frames, module.turned
    if name == "an angle of the event":
        monkeypatch.setattr(module, "in_own_frame", lambda x, directions: x)
    elif name == "the global token has a direction":
        pad = module.F.pad
        monkeypatch.setattr(
            module.F, "pad", lambda x, widths, **more: pad(x, widths, **({"value": 1.0} | more))
        )
    elif name == "values are turned and not turned back":  # behind q, k, v
        calls = itertools.count(1)
        monkeypatch.setattr(
            module, "turned", lambda x, *turn: turned(x, *turn) if next(calls) % 2 else x
        )
    elif name == "a frequency is no whole number":
        monkeypatch.setattr(module, "frames", lambda phi, pairs: frames(0.5 * phi, pairs))
    return relative()


@each(
    "mistake",
    [
        "an angle of the event",
        "the global token has a direction",
        "values are turned and not turned back",
    ],
)
def test_a_direction_that_becomes_known_is_seen(mistake) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        far = law(leaks(monkeypatch, mistake))
    assert min(far[verb] for verb in ("velocity", "log_prob", "sample")) > 1e-3, far


def test_a_field_of_plain_angles_knows_directions() -> None:
    far = law(relative(directions=()))
    assert min(far.values()) > 1e-3


def test_the_period_is_a_turn() -> None:
    x, _, mask = batch()
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    other = x.clone()
    other[:, 2, 1] += 2 * math.pi  # of one object
    other[:, 3, 1] -= 4 * math.pi
    field = relative()
    assert (field(other, t, mask=mask) - field(x, t, mask=mask)).abs().max() < 1e-11
    with pytest.MonkeyPatch.context() as monkeypatch:
        field = leaks(monkeypatch, "a frequency is no whole number")
        assert (field(other, t, mask=mask) - field(x, t, mask=mask)).abs().max() > 1e-3


def test_differences_of_angles_are_seen_with_their_sense() -> None:
    """One object that is moved moves the others; a mirror image is another event."""
    field, (_, x, _) = relative(), batch(1)
    v = field(x, 0.5)
    moved = x.clone()
    moved[:, 0, 1] += 0.3
    assert (field(moved, 0.5) - v)[:, 1:].abs().amax((1, 2)).min() > 1e-3
    mirrored = x * torch.tensor([1.0, -1.0, 1.0])
    assert (field(mirrored, 0.5) - v).abs().amax((1, 2)).min() > 1e-3


def test_total_probability_of_relative_angles() -> None:
    """Two objects on the circle, and that of one, which is uniform."""
    field = relative(1, angles=[0], directions=[0], layers=1)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(0.7)
    base = setflow.WrappedNormal(torch.tensor([3.0], dtype=torch.float64), [0])
    n = 32
    circle = -math.pi + 2 * math.pi / n * (torch.arange(n, dtype=torch.float64) + 0.5)
    points = torch.cartesian_prod(circle, circle)[..., None]
    with torch.no_grad():
        log_p = setflow.masked_log_prob(field, base, setflow.RK4(10), points, None)
        alone = setflow.masked_log_prob(field, base, setflow.RK4(8), circle[:, None, None], None)
    assert (log_p.exp().sum() * (2 * math.pi / n) ** 2).item() == pytest.approx(1, abs=1e-4)
    assert log_p.std() > 0.1  # or the field does nothing
    torch.testing.assert_close(alone, torch.full_like(alone, -math.log(2 * math.pi)))


@each(
    ("options", "message"),
    [
        ({"angles": [1], "relative_angles": [2]}, r"relative_angles=\[2\], expected some of the "),
        ({"angles": [1], "relative_angles": [3]}, r"expected the positions of the features"),
        ({"hidden": 8, "heads": 4}, "relative_angles need heads with 4 features or more, got 2"),
    ],
)
def test_bad_relative_angles_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        setflow.TransformerField(3, **({"angles": [1], "relative_angles": [1]} | options))
