"""What makes a result NaN or infinite is named, by every verb, where a look costs nothing."""

from __future__ import annotations

import math

import pytest
import torch

import setflow
from each import each
from laws.laws import redraw
from setflow.sets.events import Events
from setflow.sets.finite import refuse_not_finite

BASE, SOLVER, SCHEDULE = setflow.StandardNormal((3,)), setflow.Euler(2), setflow.VPSchedule()
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def field(condition_dim=2):
    made = setflow.TransformerField(3, hidden=16, layers=1, heads=2, condition_dim=condition_dim)
    return redraw(made)


def spoilt(value, *place):
    """Return data and a context, in which one number is spoilt."""
    given = {name: torch.randn(2, 3, 3) for name in ("x_target", "x_source", "z", "noise")}
    given["c"] = torch.randn(2, 2)
    name, *index = place
    if name in given:
        given[name][tuple(index)] = value
    return given


LOSSES = {
    "fm": lambda f, g, mask, **o: setflow.masked_fm_loss(
        f, g["x_target"], g["x_source"], mask, c=g["c"], **o
    ),
    "stochastic": lambda f, g, mask, **o: setflow.masked_stochastic_fm_loss(
        f, g["x_target"], g["x_source"], mask, c=g["c"], z=g["z"], **o
    ),
    "diffusion": lambda f, g, mask, **o: setflow.masked_diffusion_loss(
        f, g["x_target"], SCHEDULE, mask, c=g["c"], noise=g["noise"], **o
    ),
}
PARTS = {
    "fm": ("x_target", "x_source"),
    "stochastic": ("x_target", "x_source", "z"),
    "diffusion": ("x_target", "noise"),
}


@each(("verb", "part"), [(verb, part) for verb, parts in PARTS.items() for part in parts])
@each("value", [math.nan, math.inf])
def test_a_loss_names_the_number_that_spoils_it(verb, part, value):
    for mask, of in ((MASK, " of a real object"), (None, "")):
        message = rf"the loss is not finite, for {part}\[1, 2, 0\]{of} is {value:g}; leave such"
        with pytest.raises(ValueError, match=message):
            LOSSES[verb](field(), spoilt(value, part, 1, 2, 0), mask)
    hidden = LOSSES[verb](field(), spoilt(value, part, 0, 2, 0), MASK)  # in a padded slot
    assert bool(hidden.isfinite())


@each("verb", LOSSES)
def test_a_loss_names_the_context_that_spoils_it(verb):
    with pytest.raises(ValueError, match=r"for the context c\[0, 1\] is nan; leave such events"):
        LOSSES[verb](field(), spoilt(math.nan, "c", 0, 1), MASK, reduction="none")


@each("verb", LOSSES)
@each("t", [-0.5, 1.5, math.nan, [0.5, 2.0], torch.tensor([math.nan, 0.5])])
def test_a_time_is_one_of_the_path(verb, t):
    with pytest.raises(ValueError, match=r"expected .*time.* from 0, where the data are, to 1"):
        LOSSES[verb](field(), spoilt(0.0, "x_target", 0, 0, 0), MASK, t=t)


@each("verb", LOSSES)
def test_both_ends_are_times_of_the_path(verb):
    given = spoilt(0.0, "x_target", 0, 0, 0)
    assert bool(LOSSES[verb](field(), given, MASK, t=torch.tensor([0.0, 1.0])).isfinite())


def test_what_the_field_makes_of_finite_numbers_is_returned():
    class Overflowing(torch.nn.Module):
        event_ndim = 2

        def forward(self, x, t, c=None):
            return x * torch.inf

    given = spoilt(0.0, "c", 0, 0)
    assert LOSSES["fm"](Overflowing(), given, MASK).isinf()


def test_a_sample_names_the_number_that_spoils_it():
    source, c = torch.randn(2, 3, 3), torch.randn(2, 2)
    source[0, 2, 1] = math.nan  # padding

    def sample(solver=SOLVER, **given):
        return setflow.masked_sample(field(), BASE, solver, MASK, **{"c": c, **given})

    assert bool(sample(x_source=source).isfinite().all())
    source[1, 2, 1] = math.nan
    message = r"the sample is not finite, for x_source\[1, 2, 1\] of a real object is nan; leave"
    for solver in (SOLVER, setflow.Dopri5()):
        with pytest.raises(ValueError, match=message):
            sample(solver, x_source=source)
    c[1, 0] = math.inf
    with pytest.raises(ValueError, match=r"for the context c\[1, 0\] is inf; leave such events"):
        sample()


def test_processes_name_the_number_that_spoils_a_sample():
    source = torch.randn(2, 3, 3)
    source[1, 0, 0] = math.nan
    plain, euler = field(0), setflow.EulerMaruyama(2)
    flow = setflow.FlowMatching(plain, BASE, SOLVER)(mask=MASK)
    options = {"parameterization": "x0", "event_shape": (3,)}
    ordinary = setflow.Diffusion(plain, SCHEDULE, SOLVER, **options)(mask=MASK)
    stochastic = setflow.Diffusion(plain, SCHEDULE, euler, t0=0.9, **options)(mask=MASK)
    for process in (flow, ordinary, stochastic):
        for guidance in (None, lambda x, t, v: v):
            with pytest.raises(ValueError, match=r"x_source\[1, 0, 0\] of a real object is nan"):
                process.sample(x_source=source, guidance_fn=guidance)


@each("given", [{"t0": 5.0}, {"t1": -0.5}, {"t0": math.nan}, {"t1": torch.tensor(2.0)}])
def test_a_solve_lies_between_data_and_noise(given):
    (name,) = given
    message = f"{name} is .*, expected a time from 0, where the data are, to 1"
    x = torch.randn(2, 3, 3)
    for call in (
        lambda: setflow.masked_sample(field(0), BASE, SOLVER, MASK, **given),
        lambda: setflow.masked_log_prob(field(0), BASE, SOLVER, x, MASK, **given),
        lambda: setflow.FlowMatching(field(0), BASE, SOLVER, **given),
        lambda: setflow.Diffusion(field(0), SCHEDULE, SOLVER, parameterization="x0", **given),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@each("given", [{"t0": "1"}, {"t1": None}, {"t0": torch.ones(2)}])
def test_the_ends_of_a_solve_are_numbers(given):
    (name,) = given
    for call in (
        lambda: setflow.masked_sample(field(0), BASE, SOLVER, MASK, **given),
        lambda: setflow.FlowMatching(field(0), BASE, SOLVER, **given),
    ):
        with pytest.raises(TypeError, match=f"{name} is .*, expected one number, a time from 0"):
            call()


def test_nothing_is_raised_where_all_that_was_given_is_finite():
    events = Events.of(2, torch.randn(2, 3, 3), MASK, c=torch.randn(2, 2))
    refuse_not_finite("the loss", events, x_target=events.x)


def test_inside_vmap_no_value_is_looked_at():
    x = torch.randn(4, 2, 3, 3)
    x[1, 1, 0, 0] = math.nan
    f = field(0)
    losses = torch.func.vmap(
        lambda one: setflow.masked_fm_loss(f, one, torch.zeros_like(one), MASK, t=0.5)
    )(x)
    assert losses.isnan().tolist() == [False, True, False, False]
