"""Diagnostics against closed forms, and verdicts on fields that are known to be sound or broken."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import setflow
from laws import saboteurs
from laws.laws import cases, redraw
from laws.subjects import ObjectConditioned, Pointwise
from setflow import diagnostics
from setflow.data.toys import sample_moons
from setflow.sets.events import Events

MASK = torch.tensor(
    [[0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]], dtype=torch.bool
)
PADDED = (~MASK).sum(-1)
OCCUPIED = (0, 1, 3)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sets(seed: int = 1) -> Tensor:
    """Four sets of MASK, of two features, with NaN in their padding."""
    return torch.where(MASK[..., None], normal(4, 5, 2, seed=seed), math.nan)


def check(got: dict[str, Tensor], values: list[float], *names: str, atol: float = 1e-12) -> None:
    """Compare with the statistics of one value per event, in plain Python."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    expected = {"mean": mean, "std": math.sqrt(variance), "min": min(values), "max": max(values)}
    assert list(got) == list(names)
    for name in names:
        assert got[name].shape == ()
        assert not got[name].requires_grad
        assert got[name].item() == pytest.approx(expected[name], abs=atol, rel=1e-10), name


class Field(nn.Module):
    """A velocity given as a function of (x, t, c), or (x, t, c, mask) if it takes the mask."""

    def __init__(self, function, event_ndim=2, *, takes_mask=False):
        super().__init__()
        self.function = function
        self.event_ndim = event_ndim
        self.takes_mask = takes_mask

    def forward(self, x, t, c=None, **mask):
        return self.function(x, t, c, **mask)


def coupled(coupling: float) -> setflow.GaussianSetField:
    return setflow.GaussianSetField(
        torch.tensor([0.5, -1.0]), torch.tensor([0.7, 1.2]), coupling=coupling
    )


# --- the velocity and its divergence ---


def events_of(x: Tensor, event_ndim: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    lead = x.shape[: x.ndim - event_ndim]
    for index in itertools.product(*map(range, lead)):
        yield index, x[index]


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
@pytest.mark.parametrize("event", [(), (2,), (4, 3), (3, 2, 2)])
def test_field_stats_are_those_of_the_norm_of_each_event(lead, event):
    def function(x, t, c):
        assert t.shape == lead
        assert c.shape == (*lead, 1)
        return (t * c[..., 0]).reshape(lead + (1,) * len(event)) * x

    x, t, c = normal(*lead, *event), normal(*lead, seed=2), normal(*lead, 1, seed=3)
    norms = [
        abs(t[k].item() * c[k].item()) * math.sqrt(sum(v**2 for v in value.flatten().tolist()))
        for k, value in events_of(x, len(event))
    ]
    got = diagnostics.field_stats(Field(function, len(event)), x, t, c)
    check(got, norms, "mean", "std", "min", "max")
    got = diagnostics.field_stats(Field(function, len(event)), x, 0.5, c)
    assert got["max"].item() == pytest.approx(
        max(
            0.5 * n / abs(t[k].item())
            for n, (k, _) in zip(norms, events_of(x, len(event)), strict=True)
        )
    )


def test_field_stats_read_real_coordinates_and_leave_empty_events_out():
    x = sets()
    norms = [x[k][MASK[k]].norm().item() * 3 for k in OCCUPIED]
    for mask in (MASK, MASK.double(), MASK.int()):
        got = diagnostics.field_stats(Field(lambda x, t, c: 3 * x + 0 * t.sum()), x, 0.3, mask=mask)
        check(got, norms, "mean", "std", "min", "max")


def test_divergence_stats_are_those_of_the_trace_of_the_jacobian():
    matrix = normal(3, 3, seed=5)
    field = Field(lambda x, t, c: x @ matrix + t[..., None] * x**2, 1)
    x, t = normal(6, 3), normal(6, seed=2)
    divergences = (matrix.trace() + 2 * t * x.sum(-1)).tolist()
    for estimator in (None, setflow.ExactDivergence()):
        got = diagnostics.divergence_stats(field, x, t, estimator=estimator)
        check(got, divergences, "mean", "std", "min", "max")


@pytest.mark.parametrize("coupling", [0.0, 2.0])
def test_divergence_stats_count_real_coordinates_and_leave_empty_events_out(coupling):
    t, field = 0.3, coupled(coupling)

    def rate(variance: float) -> float:
        return ((t - 1) * variance + t) / ((1 - t) ** 2 * variance + t**2)

    def divergence(n: int) -> float:
        return sum(
            (n - 1) * rate(s**2) + rate(s**2 * (1 + coupling * n)) for s in field.scale.tolist()
        )

    got = diagnostics.divergence_stats(field, sets(), t, mask=MASK)
    check(got, [divergence(int(MASK[k].sum())) for k in OCCUPIED], "mean", "std", "min", "max")


def test_divergence_stats_take_an_estimator_and_its_generator():
    field, x = redraw(setflow.VelocityField(3, hidden=8)), normal(20, 3)
    hutchinson = setflow.HutchinsonDivergence()

    def drawn(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    got = [
        diagnostics.divergence_stats(field, x, 0.4, estimator=hutchinson, generator=drawn(seed))
        for seed in (1, 1, 2)
    ]
    assert got[0] == got[1] != got[2]
    with torch.no_grad():
        events = Events.of(field, x, None, t=0.4)
        values = hutchinson.for_solve(field, events, drawn(1))(events)[1].mean(-1)
    check(got[0], values.tolist(), "mean", "std", "min", "max")

    def users_own(field, x, t, c):  # needs gradients
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(field(x, t, c)[..., 0].sum(), x)
        return gradient[..., 0]

    with torch.no_grad():
        got = diagnostics.divergence_stats(
            Field(lambda x, t, c: x.roll(1, -1) * x**2, 1), x, 0.4, estimator=users_own
        )
    check(got, (2 * x[:, 0] * x[:, 2]).tolist(), "mean", "std", "min", "max")


# --- the flow there and back ---

GROWTH = {  # what a step of z = h a makes of dx/dt = a x
    setflow.Euler: lambda z: 1 + z,
    setflow.Midpoint: lambda z: 1 + z + z**2 / 2,
    setflow.Heun: lambda z: 1 + z + z**2 / 2,
    setflow.RK4: lambda z: 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24,
}


@pytest.mark.parametrize("solver", GROWTH)
@pytest.mark.parametrize(("t0", "t1"), [(1.0, 0.0), (0.75, 0.25)])
def test_reversibility_error_of_linear_growth(solver, t0, t1):
    """There and back, x is multiplied by (R(z) R(-z))^n."""
    field, x, c = Field(lambda x, t, c: c[..., None] * x), sets(), 3 * normal(4, 1, seed=8)
    steps = 6

    def closed(k: int) -> float:
        z = c[k].item() * (t0 - t1) / steps
        factor = (GROWTH[solver](z) * GROWTH[solver](-z)) ** steps
        return abs(factor - 1) * x[k][MASK[k]].norm().item()

    expected = [closed(k) for k in OCCUPIED]
    assert min(expected) > 1e-10
    got = diagnostics.reversibility_error(field, solver(steps), x, t0, t1, c=c, mask=MASK)
    check(got, expected, "mean", "std", "max", atol=1e-14)
    told = diagnostics.reversibility_error(
        field, solver(50), x, t0=t0, t1=t1, c=c, mask=MASK, steps=steps
    )
    assert told == got


def test_reversibility_error_starts_from_the_data():
    """dx/dt = t x + 1 in one step of Euler's: x + 1 at t = 1, and from there back to -1."""
    field, x = Field(lambda x, t, c: t[..., None] * x + 1, 1), normal(6, 3)
    got = diagnostics.reversibility_error(field, setflow.Euler(1), x)
    check(got, (x + 1).norm(dim=-1).tolist(), "mean", "std", "max")


def test_reversibility_error_calls_a_users_solver_as_it_declares():
    class Stepper:
        requires_steps = True
        takes_mask = True
        steps = 7

        def __init__(self):
            self.seen = []

        def integrate(self, f, x0, t0, t1, steps, mask, event_ndim):
            self.seen.append((t0, t1, steps, event_ndim))
            assert mask is None or torch.equal(mask, MASK)
            return setflow.Heun(steps).integrate(f, x0, t0=t0, t1=t1)

    field, x = coupled(2.0), sets()
    for steps, used in ((None, 7), (3, 3)):
        solver = Stepper()
        got = diagnostics.reversibility_error(field, solver, x, mask=MASK, steps=steps)
        assert solver.seen == [(0.0, 1.0, used, 2), (1.0, 0.0, used, 2)]
        assert got == diagnostics.reversibility_error(field, setflow.Heun(used), x, mask=MASK)
        assert got["max"] > 1e-6


@pytest.mark.parametrize(
    ("solver", "order"), [(setflow.Euler, 1), (setflow.Midpoint, 3), (setflow.RK4, 5)]
)
def test_reversibility_error_falls_as_an_order_higher_for_methods_of_even_order(solver, order):
    field = Field(lambda x, t, c: torch.sin(2 * x) * (1 + t[..., None]) - x.roll(1, -1), 1)
    x = normal(10, 3)
    coarse, fine = (
        diagnostics.reversibility_error(field, solver(), x, steps=steps)["max"].item()
        for steps in (40, 80)
    )
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


def test_a_trained_field_inverts():
    """The tutorial's field and solver, in both dtypes."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    field = setflow.VelocityField(dim=2, hidden=128).float()
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-3)
    for _ in range(150):
        x = sample_moons(256, generator=generator, dtype=torch.float32)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float32)
        loss = setflow.fm_loss(field, x, noise, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = sample_moons(100, generator=generator, dtype=torch.float32)
    error = diagnostics.reversibility_error(
        field=field, solver=setflow.RK4(50), x=x, t0=1.0, t1=0.0
    )
    assert 1e-8 < error["mean"] < 1e-6
    error = diagnostics.reversibility_error(field.double(), setflow.RK4(steps=50), x.double())
    assert 1e-13 < error["mean"] <= error["max"] < 1e-8
    stats = diagnostics.field_stats(field, x.double(), 0.5)
    assert 0.1 < stats["min"] + stats["mean"] < stats["max"] < 5


def test_reversibility_error_of_an_adaptive_solver_follows_its_tolerance():
    field, x = coupled(2.0), sets()
    loose, tight = (
        diagnostics.reversibility_error(field, setflow.Dopri5(rtol=r, atol=r), x, mask=MASK)
        for r in (1e-3, 1e-9)
    )
    assert 1e-6 < loose["max"] < 1e-1
    assert 0 < tight["max"] < 1e-7


def test_reversibility_error_refuses_steps_and_solvers_that_do_not_fit():
    field, x = Field(lambda x, t, c: x, 1), normal(4, 3)
    for steps in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="steps must be a positive integer"):
            diagnostics.reversibility_error(field, setflow.RK4(), x, steps=steps)
    with pytest.raises(ValueError, match="Dopri5 does not declare requires_steps"):
        diagnostics.reversibility_error(field, setflow.Dopri5(), x, steps=10)
    for steps in (None, 10):
        with pytest.raises(ValueError, match="EulerMaruyama solves stochastic equations"):
            diagnostics.reversibility_error(field, setflow.EulerMaruyama(8), x, steps=steps)


# --- the laws, one by one ---


def test_padding_leakage_is_what_padding_adds_to_a_sum_over_slots():
    x = sets()
    total = Field(lambda x, t, c: x.sum(-2, keepdim=True).expand_as(x))
    got = diagnostics.padding_leakage(total, x, MASK, 0.5, fillings=(0.5, -1.0))
    leaks = [PADDED[k].item() for k in OCCUPIED]  # that of -1 is the larger one
    sums = [x[k][MASK[k]].sum(0) for k in (0, 2, 3)]  # those with padding
    padded = max(
        (s + f * n).abs().max().item()
        for s, n in zip(sums, PADDED[[0, 2, 3]].tolist(), strict=True)
        for f in (0, 0.5, -1)
    )
    assert got.pop("padded").item() == pytest.approx(padded)
    check(got, leaks, "mean", "max")
    assert diagnostics.padding_leakage(total, x, MASK, 0.5)["max"] == math.inf


def test_padding_leakage_sees_multiplication_instead_of_selection():
    def multiplies(x, t, c, mask):
        weight = mask[..., None].to(x.dtype)
        return (x * weight).sum(-2, keepdim=True) * weight

    field = Field(multiplies, takes_mask=True)
    assert diagnostics.padding_leakage(field, sets(), MASK, 0.5, fillings=(1e30,))["max"] == 0
    for value in (math.inf, math.nan):
        got = diagnostics.padding_leakage(field, sets(), MASK, 0.5, fillings=(value,))
        assert got["mean"] == got["max"] == math.inf


def test_padding_leakage_fills_a_context_per_object():
    field = Field(lambda x, t, c: x + c.sum(-2, keepdim=True))
    got = diagnostics.padding_leakage(field, 0 * sets(), MASK, 0.5, sets(2), fillings=(-2.0,))
    got.pop("padded")
    # the states in padding do not mix here: what leaks is the context
    check(got, [2 * PADDED[k].item() for k in OCCUPIED], "mean", "max")


@pytest.mark.parametrize("lead", [(4,), (2, 2), ()])
def test_padding_leakage_of_sound_fields_is_zero(lead):
    x, mask = sets(), MASK
    x, mask = (x[0], mask[0]) if not lead else (x.reshape(*lead, 5, 2), mask.reshape(*lead, 5))
    for field in (coupled(2.0), redraw(setflow.TransformerField(2, hidden=8, layers=1, heads=2))):
        got = diagnostics.padding_leakage(field, x, mask, 0.5)
        assert {name: value.item() for name, value in got.items()} == {
            "mean": 0.0, "max": 0.0, "padded": 0.0
        }  # fmt: skip
    # a field of users that knows no masks leaks nothing into other objects, and all of its own
    got = diagnostics.padding_leakage(Field(lambda x, t, c: x + 2), x, mask, 0.5)
    assert (got["mean"], got["max"], got["padded"]) == (0, 0, math.inf)


def test_length_error_is_half_of_a_mean_over_slots():
    x = sets()
    field = Field(lambda x, t, c: x.mean(-2, keepdim=True).expand_as(x))
    sums = [x[k][MASK[k]].sum(0).abs().max().item() for k in OCCUPIED]
    got = diagnostics.length_error(field, x, MASK, 0.5)
    check(got, [s / 10 for s in sums], "mean", "max")
    full = normal(4, 5, 2)
    got = diagnostics.length_error(field, full, None, 0.5)
    check(got, (full.sum(1).abs().amax(-1) / 10).tolist(), "mean", "max")


def test_permutation_error_of_two_positions_is_their_difference():
    x = normal(6, 2, 3)
    field = saboteurs.OrderedField()  # v = 0.5 position x
    for seed in range(6):  # the identity is never drawn
        generator = torch.Generator().manual_seed(seed)
        got = diagnostics.permutation_error(field, x, None, 0.5, generator=generator)
        check(got, (0.5 * x.abs().amax((-1, -2))).tolist(), "mean", "max")


def test_permutation_error_moves_mask_and_context_with_the_objects():
    x, c = sets(), sets(2)

    def weighed(x, t, c, mask):
        total = torch.where(mask[..., None], x * c, 0.0).sum(-2, keepdim=True)
        return mask[..., None] * (x + c + total)

    field = Field(weighed, takes_mask=True)
    generator = torch.Generator().manual_seed(3)
    got = diagnostics.permutation_error(field, x, MASK, 0.5, c, generator=generator)
    assert got["max"] < 1e-12
    # the mask moves too: a field that adds the rank of each slot among real ones is caught
    ranks = Field(lambda x, t, c, mask: x * mask.cumsum(-1)[..., None], takes_mask=True)

    def error(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return diagnostics.permutation_error(ranks, x, MASK, 0.5, generator=generator)["mean"]

    assert error(0) > 0.1
    assert error(0) == error(0)
    assert len({error(seed).item() for seed in range(5)}) > 1


@pytest.mark.parametrize("lead", [(4,), (2, 2)])
def test_company_error_is_the_mean_that_is_taken_over_the_batch(lead):
    x, mask = sets().reshape(*lead, 5, 2), MASK.reshape(*lead, 5)
    over = tuple(range(len(lead)))
    field = Field(lambda x, t, c: x - x.mean(over, keepdim=True))  # alone it is zero
    real = torch.where(MASK[..., None], sets(), 0.0)
    expected = (real - real.mean(0)).abs() * MASK[..., None]
    got = diagnostics.company_error(field, x, mask, 0.5)
    check(got, [expected[k].max().item() for k in OCCUPIED], "mean", "max")
    # without a mask, for events of any shape
    field = Field(lambda x, t, c: c + t.mean() * x, 1)
    t, x, c = normal(4, seed=4), normal(4, 3), normal(4, 3, seed=5)
    got = diagnostics.company_error(field, x, None, t, c)
    expected = ((t - t.mean())[:, None] * x).abs().amax(-1)
    check(got, expected.tolist(), "mean", "max")


@pytest.mark.parametrize("measure", ["length_error", "permutation_error", "company_error"])
def test_sound_fields_have_no_error_of_a_law_and_nan_counts_as_infinite(measure):
    transformer = redraw(setflow.TransformerField(2, hidden=8, layers=1, heads=2))
    for field in (coupled(2.0), transformer):
        got = getattr(diagnostics, measure)(field, sets(), MASK, 0.5)
        assert 0 <= got["mean"] <= got["max"] < 1e-10
    bad = Field(lambda x, t, c: x / 0)
    assert getattr(diagnostics, measure)(bad, 0 * sets(), MASK, 0.5)["max"] == math.inf


# --- the verdict ---


class Saboteur(nn.Module):
    event_ndim = 2
    takes_mask = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x, t, c=None, *, mask=None):
        mask = torch.ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask
        return torch.where(mask[..., None], self.velocity(x, mask), 0.0)

    def velocity(self, x, mask):
        raise NotImplementedError


class SlotMean(nn.Module):
    """Knows no masks, and takes the mean over slots."""

    event_ndim = 2

    def forward(self, x, t, c=None):
        return x - x.mean(-2, keepdim=True)


class Cumulative(Saboteur):
    """A sequence layer: each object sees those before it."""

    def velocity(self, x, mask):
        return self.weight * x.cumsum(-2)


class FirstSlots(Saboteur):
    """Takes the first sum(mask) slots for the real ones."""

    def velocity(self, x, mask):
        first = torch.arange(x.shape[-2]) < mask.sum(-1, keepdim=True)
        return self.weight * torch.where(first[..., None], x, 0.0).sum(-2, keepdim=True) + x


class OverBatch(Saboteur):
    """Centres on the mean of the real objects of all events."""

    def velocity(self, x, mask):
        return self.weight * (x - x.sum((0, 1)) / mask.sum().clamp(min=1))


class Averages(Saboteur):
    """Divides by the number of objects without a thought for empty events."""

    def velocity(self, x, mask):
        return x + self.weight * x.sum(-2, keepdim=True) / mask.sum(-1)[..., None, None]


class Forgetful(Saboteur):
    """Takes no mask for no objects."""

    def forward(self, x, t, c=None, *, mask=None):
        n = t.new_zeros(t.shape) if mask is None else mask.sum(-1)
        return self.weight * x * n[..., None, None]


class Directions(nn.Module):
    """Pointwise and without a mask, with a root that has no derivative at zero."""

    event_ndim = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x, t, c=None):
        return x * ((self.weight * x) ** 2).sum(-1, keepdim=True).sqrt()


class Explodes(Saboteur):
    """Finite alone and with padding, but not in company."""

    def velocity(self, x, mask):
        return x / 0 if len(x) > 1 and bool(mask.any(-1).all()) else x


SABOTEURS = {
    "unmasked attention": (lambda: redraw(saboteurs.UnmaskedAttention()), {"length"}),
    "mean over slots": (SlotMean, {"length"}),
    "positions": (saboteurs.OrderedField, {"order"}),
    "a sequence layer": (Cumulative, {"order"}),
    "the first slots": (FirstSlots, {"order"}),
    "a mean over the batch": (OverBatch, {"company"}),
    "not finite in company": (Explodes, {"company"}),
    "no mask, no objects": (Forgetful, {"agreement"}),
    "0 / 0 of an empty event": (Averages, {"emptiness"}),
    "no derivative at zero": (Directions, {"content", "emptiness"}),
}


@pytest.mark.parametrize("name", SABOTEURS)
@pytest.mark.parametrize("lead", ["lead1", "lead2"])
def test_broken_laws_names_what_a_saboteur_breaks(name, lead):
    field, expected = SABOTEURS[name]
    case = dict(cases())[lead]
    broken = diagnostics.broken_laws(
        field(), case.x, case.mask, case.t, generator=torch.Generator().manual_seed(0)
    )
    assert {law.name for law in broken} == expected
    for law in broken:
        assert law.error > 1e-3
        assert len(law.advice) > 40
        assert str(law).startswith(f"{law.name} (by ")
        assert law.advice in str(law)


def test_broken_laws_measures_the_error():
    """A mean over 2 n + 1 slots instead of n, n the size of the largest event."""
    x, mask = torch.zeros(2, 3, 1), torch.tensor([[True, True, True], [True, False, False]])
    x[0, :, 0] = torch.tensor([0.1, 0.2, 0.6])
    (law,) = diagnostics.broken_laws(SlotMean(), x, mask, 0.5)
    velocity = 0.9 / 3 - 0.9 / 7
    # d/dx_i of the squares summed over real slots: 2 v_i - (2 / slots) sum v, where sum v is 0 for
    # 3 slots; for 7, v is larger by the difference above
    gradient = 2 * velocity - 2 / 7 * 3 * velocity
    assert law.name == "length"
    assert law.error == pytest.approx(max(velocity, gradient))


@pytest.mark.parametrize(
    ("field", "options"),
    [
        (lambda: coupled(0.0), {}),
        (lambda: coupled(2.0), {}),
        (lambda: redraw(setflow.TransformerField(2, hidden=16, layers=2, heads=2)), {}),
        (
            lambda: redraw(
                setflow.TransformerField(2, hidden=8, layers=1, heads=2, condition_dim=4)
            ),
            {"context": 4},
        ),
        (lambda: Field(lambda x, t, c: torch.ones_like(x)), {}),
    ],
    ids=["gaussian", "coupled gaussian", "transformer", "with context", "constant"],
)
def test_sound_fields_break_no_law(field, options):
    for name, case in cases((2,), **options):
        if name != "lead0":  # one event has no company
            assert diagnostics.broken_laws(field(), case.x, case.mask, case.t, case.c) == []
            assert diagnostics.broken_laws(field(), case.x, None, c=case.c) == []


def test_sound_fields_of_users_break_no_law():
    for name, case in cases(object_context=2):
        if name != "lead0":
            assert diagnostics.broken_laws(redraw(Pointwise()), case.x, case.mask) == []
            field = redraw(ObjectConditioned())
            assert diagnostics.broken_laws(field, case.x, case.mask, c=case.c_object) == []


class Normed(nn.Module):
    """A batch norm over objects."""

    event_ndim = 2

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x, t, c=None):
        return self.norm(x.flatten(0, -2)).reshape(x.shape)


def test_a_batch_norm_breaks_laws_in_training_and_its_own_in_use_and_is_left_as_it_was():
    field, x = Normed(), normal(4, 6, 3)
    before = {name: value.clone() for name, value in field.state_dict().items()}
    broken = diagnostics.broken_laws(field, x, None)
    assert {"company", "same law"} <= {law.name for law in broken}
    assert diagnostics.company_error(field, x, None, 0.5)["max"] > 1e-2
    diagnostics.field_stats(field, x, 0.5)
    diagnostics.divergence_stats(field, x, 0.5)
    diagnostics.reversibility_error(field, setflow.Euler(2), x)
    assert field.training
    for name, value in field.state_dict().items():
        assert torch.equal(value, before[name]), name
    (law,) = diagnostics.broken_laws(field.eval(), x, None)
    assert law.name == "same law"
    assert not any(part.training for part in field.modules())
    for name, value in field.state_dict().items():
        assert torch.equal(value, before[name]), name


class Moody(Pointwise):
    """Softens what it gives when it is used."""

    def forward(self, x, t, c=None):
        v = super().forward(x, t, c)
        return v if self.training else 0.9 * v


@pytest.mark.parametrize("training", [True, False])
def test_a_field_that_is_another_in_use_than_in_training_breaks_the_same_law(training):
    x = normal(4, 6, 3)
    field = Moody().train(training)
    field.net[0].train(not training)
    (law,) = diagnostics.broken_laws(field, x, None)
    assert law.name == "same law"
    assert law.error > 1e-3
    assert [part.training for part in field.modules()].count(training) == 4  # of 5


def test_noise_in_training_is_not_judged_and_takes_nothing_from_the_generators():
    class Dropout(Moody):
        def forward(self, x, t, c=None):
            return nn.functional.dropout(super().forward(x, t, c), 0.5, self.training)

    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    field = Dropout().eval()
    torch.set_rng_state(state)
    assert diagnostics.broken_laws(field, normal(4, 6, 3), None, generator=generator) == []
    assert torch.equal(torch.get_rng_state(), state)


def test_a_field_that_cannot_be_judged_is_refused():
    x = normal(4, 6, 3)

    class Dropout(Pointwise):
        def forward(self, x, t, c=None):
            return nn.functional.dropout(super().forward(x, t, c), 0.5, self.training)

    with pytest.raises(ValueError, match=r"another velocity or gradient .*field.eval\(\)"):
        diagnostics.broken_laws(Dropout(), x, None)
    assert diagnostics.broken_laws(Dropout().eval(), x, None) == []
    bad = Field(lambda x, t, c: torch.where(t > 0.7, math.nan, 1.0)[..., None, None] * x)
    with pytest.raises(ValueError, match=r"not finite.* 6 real objects and t=0.875"):
        diagnostics.broken_laws(bad, x, None)
    chaos = Field(lambda x, t, c: torch.sin(1e5 * x))
    with pytest.raises(ValueError, match=r"rounding of its states .*float64"):
        diagnostics.broken_laws(chaos, x.float(), None)
    assert diagnostics.broken_laws(chaos, x.double(), None) == []


def test_rounding_in_float32_is_not_taken_for_a_broken_law():
    """A redrawn transformer amplifies rounding above 1e-5; a saboteur stays visible."""
    field = redraw(setflow.TransformerField(3, hidden=16, layers=2, heads=2)).float()
    case = dict(cases())["lead1"]
    x, t = case.x.float(), case.t.float()
    assert diagnostics.broken_laws(field, x, case.mask, t) == []
    broken = diagnostics.broken_laws(redraw(saboteurs.UnmaskedAttention()).float(), x, case.mask, t)
    assert [law.name for law in broken] == ["length"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_diagnostics_work_where_gradients_are_off(mode):
    case = dict(cases())["lead1"]
    field = redraw(setflow.TransformerField(3, hidden=8, layers=1, heads=2))
    expected = diagnostics.divergence_stats(field, case.x, case.t, mask=case.mask)
    rooted = Directions()
    with mode():
        x = case.x.clone()
        got = diagnostics.divergence_stats(field, x, case.t, mask=case.mask)
        assert got["mean"].item() == pytest.approx(expected["mean"].item())
        assert diagnostics.broken_laws(field, x, case.mask, case.t) == []
        broken = diagnostics.broken_laws(rooted, x, case.mask, case.t)
    assert [law.name for law in broken] == ["content", "emptiness"]


def test_broken_law_says_what_and_by_how_much():
    law = diagnostics.BrokenLaw("order", 0.25, "use no positions")
    assert str(law) == "order (by 0.25): use no positions"
    assert (law.name, law.error, law.advice) == ("order", 0.25, "use no positions")


# --- contexts of three kinds ---

CONTEXT_MASK = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0]], dtype=torch.bool)


def context_sets(mask: Tensor = CONTEXT_MASK, lead: tuple[int, ...] = (4,)) -> setflow.SetBatch:
    """Another set for each set of MASK, of two features, with NaN in their padding."""
    x = torch.where(mask[..., None], normal(4, 3, 2, seed=7), math.nan)
    return setflow.SetBatch(
        x.reshape(*lead, 3, 2), mask.reshape(*lead, 3), normal(*lead, 2, seed=8)
    )


def total(c: setflow.SetBatch) -> Tensor:
    return torch.where(c.mask[..., None], c.x, 0.0).sum(-2)


def mean(c: setflow.SetBatch) -> Tensor:
    return total(c) / c.mask.sum(-1, keepdim=True).clamp(min=1)


class Reader(nn.Module):
    """Pushes every object by what it reads from the context."""

    event_ndim = 2

    def __init__(self, read):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))
        self.read = read

    def forward(self, x, t, c=None):
        return torch.tanh(x + self.weight * self.read(c))


def directions(c: setflow.SetBatch) -> Tensor:
    return (c.x / c.x.norm(dim=-1, keepdim=True)).sum(-2)


CONTEXTS = {  # what is read from the context, and the laws that this breaks
    "row": (lambda c: c[..., None, :], "row", set()),
    "row, centred on the batch": (lambda c: (c - c.mean(0))[..., None, :], "row", {"company"}),
    "row, divided by itself": (lambda c: (c / c.abs())[..., None, :], "row", {"emptiness"}),
    "objects": (lambda c: c + c.sum(-2, keepdim=True), "objects", set()),
    "objects, mean over slots": (lambda c: c.mean(-2, keepdim=True), "objects", {"length"}),
    "objects, by position": (lambda c: c.cumsum(-2), "objects", {"order"}),
    "objects, divided by itself": (lambda c: c / c.abs(), "objects", {"content", "emptiness"}),
    "set": (lambda c: (mean(c) + c.c)[..., None, :], "set", set()),
    "set, mean over slots": (lambda c: c.x.mean(-2, keepdim=True), "set", {"length"}),
    "set, by position": (
        lambda c: (torch.arange(c.x.shape[-2]) * c.x.mT).sum(-1)[..., None, :], "set", {"order"}
    ),
    "set, the first slots": (
        lambda c: c.x[..., :1, :] * c.mask[..., :1, None], "set", {"order"}
    ),
    "set, directions": (
        lambda c: directions(c)[..., None, :], "set", {"content", "emptiness"}
    ),
    "set, 0 / 0 without objects": (
        lambda c: (total(c) / c.mask.sum(-1, keepdim=True))[..., None, :], "set", {"emptiness"}
    ),
    "set, centred on the batch": (
        lambda c: (mean(c) - mean(c).mean(0))[..., None, :], "set", {"company"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("lead", [(4,), (2, 2)])
def test_broken_laws_are_named_with_contexts_of_every_kind(name, lead):
    read, kind, expected = CONTEXTS[name]
    c = {
        "row": normal(*lead, 2, seed=5),
        "objects": sets(6).reshape(*lead, 5, 2),
        "set": context_sets(lead=lead),
    }[kind]
    x, mask = sets().reshape(*lead, 5, 2), MASK.reshape(*lead, 5)
    broken = diagnostics.broken_laws(Reader(read), x, mask, c=c)
    assert {law.name for law in broken} == expected


@pytest.mark.parametrize("kind", ["objects", "set"])
def test_a_transformer_breaks_no_law_with_contexts_of_other_kinds(kind):
    sizes, c = {
        "objects": ({"object_condition_dim": 2}, sets(6)),
        "set": ({"set_condition_dim": 2, "condition_dim": 2}, context_sets()),
    }[kind]
    field = redraw(setflow.TransformerField(2, hidden=8, layers=1, heads=2, **sizes))
    assert diagnostics.broken_laws(field, sets(), MASK, c=c) == []
    assert jumps(field, sets(), MASK, c=c)["max"] < 1e-8


def test_a_context_set_without_objects_is_legal():
    mask = CONTEXT_MASK.clone()
    mask[0] = False  # the set of MASK has three objects
    read = CONTEXTS["set"][0]
    assert diagnostics.broken_laws(Reader(read), sets(), MASK, c=context_sets(mask)) == []
    divides = Reader(CONTEXTS["set, 0 / 0 without objects"][0])
    with pytest.raises(ValueError, match=r"not finite.* 3 real objects"):
        diagnostics.broken_laws(divides, sets(), MASK, c=context_sets(mask))


def test_the_errors_of_a_context_set_by_numbers():
    c, x = context_sets(), torch.zeros(4, 5, 2)
    sums = torch.where(c.mask[..., None], c.x, 0.0).sum(1)
    mean_over_slots = Field(lambda x, t, c: c.x.mean(-2, keepdim=True).expand_as(x))
    got = diagnostics.length_error(mean_over_slots, x, MASK, 0.5, c)
    check(got, [sums[k].abs().max().item() / 6 for k in OCCUPIED], "mean", "max")

    total = Field(lambda x, t, c: c.x.sum(-2, keepdim=True).expand_as(x))
    got = diagnostics.padding_leakage(total, x, MASK, 0.5, c, fillings=(2.0,))
    got.pop("padded")
    check(got, [2.0 * (~c.mask[k]).sum().item() for k in OCCUPIED], "mean", "max")
    assert diagnostics.permutation_error(total, x, MASK, 0.5, c)["max"] < 1e-14

    two = setflow.SetBatch(normal(4, 2, 2), torch.ones(4, 2))
    first = Field(lambda x, t, c: c.x[..., :1, :].expand_as(x))
    got = diagnostics.permutation_error(first, x, MASK, 0.5, two)  # the identity is never drawn
    apart = (two.x[:, 0] - two.x[:, 1]).abs().amax(-1)
    check(got, [apart[k].item() for k in OCCUPIED], "mean", "max")


def test_statistics_take_a_context_set():
    c, x = context_sets(), sets()
    field = Field(lambda x, t, c: x * total(c)[..., None, :])
    factors = total(c)
    norms = [(x[k][MASK[k]] * factors[k]).norm().item() for k in OCCUPIED]
    check(diagnostics.field_stats(field, x, 0.5, c, mask=MASK), norms, "mean", "std", "min", "max")
    traces = [MASK[k].sum().item() * factors[k].sum().item() for k in OCCUPIED]
    for estimator in (None, setflow.HutchinsonDivergence()):  # exact where the matrix is diagonal
        got = diagnostics.divergence_stats(field, x, 0.5, c, mask=MASK, estimator=estimator)
        check(got, traces, "mean", "std", "min", "max")
    kicks = GROWTH[setflow.Euler](-factors) * GROWTH[setflow.Euler](factors) - 1
    errors = [(x[k][MASK[k]] * kicks[k]).norm().item() for k in OCCUPIED]
    got = diagnostics.reversibility_error(field, setflow.Euler(1), x, c=c, mask=MASK)
    check(got, errors, "mean", "std", "max")
    assert diagnostics.company_error(field, x, MASK, 0.5, c)["max"] < 1e-14
    over_batch = Field(lambda x, t, c: x * total(c).mean(0))
    assert diagnostics.company_error(over_batch, x, MASK, 0.5, c)["max"] > 0.1


# --- jumps ---


class Faded(saboteurs.NearestNeighbour):
    """Pulls towards the nearest neighbour, not at all where another one is as near."""

    def forward(self, x, t, c=None, *, mask=None):
        apart = (x[..., :, None, :] - x[..., None, :, :]).square().sum(-1)
        excluded = torch.eye(x.shape[-2], dtype=torch.bool)
        if mask is not None:
            excluded = excluded | ~mask[..., None, :]
        apart = apart.masked_fill(excluded, math.inf)
        first, second = apart.topk(2, largest=False).values.unbind(-1)
        weight = torch.where(second.isfinite(), 1 - first / second, 1.0)
        return weight[..., None] * super().forward(x, t, c, mask=mask)


def jumps(field, x, mask=None, t=0.5, c=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return diagnostics.continuity_error(field, x, t, c, mask=mask, generator=generator)


@pytest.mark.parametrize("lead", [(), (4,), (2, 2)])
def test_continuity_error_is_the_height_of_a_step(lead):
    """Of height 2 (1 + k) in event k, on a slope."""
    x = torch.zeros(*lead, 1, dtype=torch.float64)
    heights = 1 + torch.arange(x.numel()).to(x).reshape(lead)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    edge = 0.4 * direction
    field = Field(lambda x, t, c: 0.1 * x + t[..., None] * torch.sign(x - edge), 1)
    got = jumps(field, x, t=heights)
    check(got, (2 * heights).flatten().tolist(), "mean", "max", atol=1e-10)
    beyond = Field(lambda x, t, c: torch.sign(x - 3 * edge), 1)  # where no line ends
    assert jumps(beyond, x, t=heights)["max"] == 0


def test_what_is_left_of_a_slope_is_its_length():
    x = sets().double()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    length = 2.0 ** math.floor(math.log2(torch.finfo(x.dtype).eps ** 0.75))
    slopes = [1e3 * (direction[k][MASK[k]]).abs().max().item() * length for k in OCCUPIED]
    got = jumps(Field(lambda x, t, c: 1e3 * x), x, MASK)
    assert got["mean"].item() == pytest.approx(sum(slopes) / 3, rel=1e-2)
    assert got["max"].item() == pytest.approx(max(slopes), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_hard_graph_is_told_from_continuous_fields(dtype):
    case = dict(cases())["lead1"]
    x, t = case.x.to(dtype), case.t.to(dtype)
    limit = {torch.float64: 1e-8, torch.float32: 1e-2}[dtype]
    assert jumps(saboteurs.NearestNeighbour(), x, case.mask, t)["mean"] > 0.3
    continuous = [
        Faded(),
        redraw(setflow.TransformerField(3, hidden=16, layers=2, heads=2)).to(dtype),
        redraw(Pointwise()).to(dtype),
        setflow.GaussianSetField(torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)),
        Field(lambda x, t, c: torch.tanh(100 * x)),
    ]
    for field in continuous:
        assert 0 < jumps(field, x, case.mask, t)["max"] < limit, type(field).__name__
    mlp = redraw(setflow.VelocityField(3, hidden=16)).to(dtype)
    assert 0 < jumps(mlp, x.flatten(0, 1), t=0.5)["max"] < limit


def test_a_jump_needs_a_third_object():
    """Of two, each is the other's nearest neighbour for ever; padding is no neighbour."""
    field, x = saboteurs.NearestNeighbour(), sets().double()
    two = MASK & (MASK.cumsum(-1) <= 2)
    assert jumps(field, x, two)["max"] < 1e-10
    assert jumps(field, x, MASK)["max"] > 0.1


def test_continuity_error_draws_by_its_generator_and_counts_nan_as_infinite():
    field, x = redraw(Pointwise()), normal(4, 5, 3)
    assert jumps(field, x) == jumps(field, x) != jumps(field, x, seed=1)
    assert jumps(Field(lambda x, t, c: (x - 10).sqrt()), x)["max"] == math.inf
    normed = Normed()
    before = {name: value.clone() for name, value in normed.state_dict().items()}
    diagnostics.continuity_error(normed, x, 0.5)
    for name, value in normed.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_continuity_error_holds_contexts_still():
    c = context_sets()
    steps = Field(lambda x, t, c: torch.sign(total(c))[..., None, :] + 0 * x)
    assert jumps(steps, sets(), MASK, c=c)["max"] == 0
    moved = Field(lambda x, t, c: torch.sign(x + 0 * total(c)[..., None, :]))
    assert jumps(moved, sets(), MASK, c=c)["max"] == 2


# --- what is refused ---


def test_errors():
    field, x = Field(lambda x, t, c: x), normal(4, 5, 2)
    with pytest.raises(ValueError, match="event_ndim"):
        diagnostics.field_stats(nn.Linear(2, 2), x, 0.5)
    vectors = Field(lambda x, t, c: x, 1)
    for measure in (diagnostics.length_error, diagnostics.permutation_error):
        with pytest.raises(ValueError, match="event_ndim=1, expected at least 2"):
            measure(vectors, x, None, 0.5)
    with pytest.raises(ValueError, match="event_ndim=1, expected at least 2"):
        diagnostics.broken_laws(vectors, x, None)
    with pytest.raises(ValueError, match="one time per event"):
        diagnostics.field_stats(field, x, torch.rand(5))
    with pytest.raises(ValueError, match="one context row per event"):
        diagnostics.divergence_stats(field, x, 0.5, torch.rand(3, 2))
    with pytest.raises(ValueError, match=r"mask has shape \(4,\), expected \(4, 5\)"):
        diagnostics.company_error(field, x, MASK[:, 0], 0.5)
    with pytest.raises(ValueError, match="only 0"):
        diagnostics.field_stats(field, x, 0.5, mask=0.5 * MASK)
    with pytest.raises(ValueError, match="floating dtype"):
        diagnostics.field_stats(field, x > 0, 0.5)
    with pytest.raises(ValueError, match="has a real object"):
        diagnostics.field_stats(field, x, 0.5, mask=torch.zeros_like(MASK))
    with pytest.raises(ValueError, match="has a real object"):
        diagnostics.field_stats(field, x[:0], 0.5)
    with pytest.raises(ValueError, match="nothing to fill"):
        diagnostics.padding_leakage(field, x, None, 0.5)
    with pytest.raises(ValueError, match="fillings is empty"):
        diagnostics.padding_leakage(field, x, MASK, 0.5, fillings=())
    with pytest.raises(ValueError, match="has the shape of its state"):
        diagnostics.padding_leakage(Field(lambda x, t, c: x[:1]), x, MASK, 0.5)
    with pytest.raises(ValueError, match="one object has no order"):
        diagnostics.permutation_error(field, x[:, :1], None, 0.5)
    with pytest.raises(ValueError, match="one event has no company"):
        diagnostics.company_error(field, x[:1], None, 0.5)
    with pytest.raises(ValueError, match="x holds 1 event with real objects"):
        diagnostics.broken_laws(field, x[2:], MASK[2:])
    with pytest.raises(ValueError, match="coarser rounding would hide"):
        diagnostics.broken_laws(field, x.bfloat16(), None)
    with pytest.raises(ValueError, match="coarser rounding would hide"):
        diagnostics.continuity_error(field, x.bfloat16(), 0.5)
    with pytest.raises(ValueError, match=r"mask of shape \(4, 3\), expected \(2, 'M'\)"):
        diagnostics.length_error(field, x[:2], None, 0.5, context_sets())


def test_broken_laws_names_a_time_that_meets_features():
    """With as many events as features x * t raises nothing and takes other events' times."""
    field = Field(lambda x, t, c: x * t)
    (law,) = diagnostics.broken_laws(field, torch.randn(2, 4, 2), None)
    assert law.name == "company"
    assert "t[..., None, None]" in law.advice
    for events in (3, 4):  # it asks with batches of other sizes, too
        with pytest.raises(RuntimeError) as caught:
            diagnostics.broken_laws(field, torch.randn(events, 4, 3), None)
        assert "t[..., None, None]" in str(caught.value.__notes__)
    right = Field(lambda x, t, c: x * t[..., None, None])
    assert diagnostics.broken_laws(right, torch.randn(3, 4, 3), None) == []
