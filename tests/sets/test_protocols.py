"""What a field or a solver declares, misspells or contradicts with its arguments."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import setflow
from setflow.diagnostics import permutation_error
from setflow.process import FlowMatching
from setflow.sets.events import call_field

MASK = torch.arange(5) < torch.tensor([[5], [2], [0]])
X = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
BASE, SOLVER = setflow.StandardNormal((2,)), setflow.Euler(2)


class Mean(nn.Module):
    """The mean over what it takes for real."""

    event_ndim = 2

    def forward(self, x, t, c=None, mask=None):
        weights = torch.ones(x.shape[:-1]) if mask is None else mask.to(x)
        mean = (weights[..., None] * x).sum(-2, keepdim=True)
        return (mean / weights.sum(-1)[..., None, None].clamp(min=1)).expand_as(x)


class Right(Mean):
    takes_mask = True


class Bare(Mean):
    takes_mask = False


class Misspelt(Mean):
    take_mask = True


class Plural(Mean):
    def __init__(self):
        super().__init__()
        self.takes_masks = True


class Overriding(Bare):
    """Declares nothing for the forward that it adds."""

    def forward(self, x, t, c=None, *, mask=None):
        return super().forward(x, t, c, mask)


class LikeTheLibrary(setflow.fields.VectorField):
    event_ndim = 2
    forward = Mean.forward


class PassesOn(nn.Module):
    event_ndim = 2

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, *given, **options):
        return self.field(*given, **options)


class Drops(PassesOn):
    def forward(self, x, t, c=None):
        return self.field(x, t, c)


VERBS = {
    "masked_fm_loss": lambda f: setflow.masked_fm_loss(f, X, X, MASK),
    "masked_stochastic_fm_loss": lambda f: setflow.masked_stochastic_fm_loss(f, X, X, MASK),
    "masked_diffusion_loss": lambda f: setflow.masked_diffusion_loss(
        f, X, setflow.VPSchedule(), MASK
    ),
    "masked_sample": lambda f: setflow.masked_sample(f, BASE, SOLVER, MASK),
    "masked_log_prob": lambda f: setflow.masked_log_prob(f, BASE, SOLVER, X, MASK),
    "call_field": lambda f: call_field(f, X, 0.5, None, MASK),
    "ExactDivergence": lambda f: setflow.ExactDivergence()(f, X, 0.5, mask=MASK),
    "HutchinsonDivergence": lambda f: setflow.HutchinsonDivergence()(f, X, 0.5, mask=MASK),
    "permutation_error": lambda f: permutation_error(f, X, MASK, 0.5),
    "process": lambda f: FlowMatching(f, BASE, SOLVER)(mask=MASK).sample(),
    "process, told event_ndim": lambda f: FlowMatching(f, BASE, SOLVER, event_ndim=2)(
        mask=MASK
    ).log_prob(X),
    "diffusion": lambda f: setflow.Diffusion(
        f, setflow.VPSchedule(), SOLVER, parameterization="eps", event_shape=(2,)
    )(mask=MASK).sample(),
    "SetFlow": lambda f: setflow.SetFlow(f, features=("a", "b")),
}
UNDECLARED = {
    "undeclared": Mean,
    "misspelt": Misspelt,
    "misspelt on the object": Plural,
    "inherited False": Overriding,
    "inherited from VectorField": LikeTheLibrary,
    "compiled": lambda: torch.compile(Mean(), backend="eager"),
}


@pytest.mark.parametrize("make", UNDECLARED.values(), ids=UNDECLARED)
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_field_that_names_the_mask_must_say_whether_it_takes_it(verb, make):
    with pytest.raises(ValueError, match=r"rename it|add takes_mask = True"):
        verb(make())


@pytest.mark.parametrize("make", [PassesOn, Drops])
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_field_that_holds_one_must_say_it_too(verb, make):
    with pytest.raises(ValueError, match=r"holds a Right .*add takes_mask = True and pass mask on"):
        verb(make(Right()))


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_both_declarations_are_accepted(verb):
    passing = PassesOn(Right())
    passing.takes_mask = True
    for field in (Right(), Bare(), torch.compile(Right(), backend="eager"), passing):
        verb(field)


def test_without_a_mask_a_wrapper_need_not_say_anything():
    wrapped = Drops(Right())
    assert setflow.masked_sample(wrapped, BASE, SOLVER, None, x_source=X).shape == X.shape


def test_the_loss_of_the_same_events_is_the_same_in_5_slots_and_in_20():
    longer = [nn.functional.pad(X, (0, 0, 0, 15)), nn.functional.pad(MASK, (0, 15))]
    losses = [
        setflow.masked_fm_loss(Right(), x, torch.zeros_like(x), mask, 0.5)
        for x, mask in ((X, MASK), longer)
    ]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("is_discontinous", "is_discontinuous"), ("hold_context", "holds_context")],
)
def test_other_attributes_of_a_field_cannot_be_misspelt(wrong, right):
    field = Right()
    setattr(field, wrong, True)
    with pytest.raises(ValueError, match=f"{wrong} but none called {right}"):
        setflow.masked_log_prob(field, BASE, SOLVER, X, MASK)
    setattr(field, right, False)
    setflow.masked_log_prob(field, BASE, SOLVER, X, MASK)


class MySolver:
    def integrate(self, f, x0, t0, t1):
        return x0 + (t1 - t0) * f(x0, t0)


class WithMask(MySolver):
    def integrate(self, f, x0, t0, t1, mask=None, event_ndim=None):
        return super().integrate(f, x0, t0, t1)


class WithSteps(MySolver):
    steps = 100

    def integrate(self, f, x0, t0, t1, steps=10):
        return super().integrate(f, x0, t0, t1)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (WithMask(), "add takes_mask = True"),
        (WithSteps(), "steps=10 and not solver.steps=100; add requires_steps = True"),
        (type("Adaptive", (MySolver,), {"is_adaptativ": True})(), "none called is_adaptive"),
        (type("Stepping", (MySolver,), {"require_steps": True})(), "none called requires_steps"),
    ],
)
@pytest.mark.parametrize("name", ["masked_sample", "masked_log_prob"])
def test_a_solver_must_say_what_its_arguments_say(name, solver, message):
    x = {"mask": MASK, "x_source": X} if name == "masked_sample" else {"x": X, "mask": MASK}
    with pytest.raises(ValueError, match=message):
        getattr(setflow, name)(Right(), BASE, solver, **x)


def test_every_solver_of_the_library_declares_everything_it_may():
    for solver in (setflow.Euler, setflow.Midpoint, setflow.Heun, setflow.RK4, setflow.Dopri5):
        accepted = inspect.signature(solver.integrate).parameters
        assert solver.takes_mask == ("mask" in accepted)
        assert solver.requires_steps == ("steps" in accepted)


class WithoutContext(nn.Module):
    event_ndim = 2

    def forward(self, x, t):
        return x


class WithoutMask(nn.Module):
    event_ndim = 2
    takes_mask = True

    def forward(self, x, t, c=None):
        return x


def verbs(field):
    yield lambda: setflow.masked_fm_loss(field, X, X, MASK)
    yield lambda: setflow.masked_sample(field, BASE, SOLVER, MASK)
    yield lambda: setflow.masked_log_prob(field, BASE, SOLVER, X, MASK)
    yield lambda: setflow.fm_loss(field, X, X)
    yield lambda: call_field(field, X, 0.5)
    yield lambda: FlowMatching(field, BASE, SOLVER)(mask=MASK)
    yield lambda: setflow.SetFlow(field, features=["x", "y"])


def test_a_forward_that_cannot_be_called_is_refused():
    for call in verbs(WithoutContext()):
        with pytest.raises(ValueError, match=r"forward\(self, x, t\), but is .*c=None behind x"):
            call()
    for call in verbs(WithoutMask()):
        with pytest.raises(ValueError, match=r"t, c=None\), but is .* mask=mask\).*mask=None, or"):
            call()


def test_a_forward_of_an_object_or_of_any_arguments_can_be_called():
    bound = WithoutContext()
    bound.forward = lambda x, t, c=None: 0 * x
    anything = WithoutContext()
    anything.forward = lambda x, t, *_, **__: 0 * x
    for field in (bound, anything):
        for call in verbs(field):
            call()


class Unaligned(nn.Module):
    """Multiplies with a time per event as if it were one per object and feature."""

    event_ndim = 2

    def forward(self, x, t, c=None):
        return x * t


def test_an_error_of_shapes_inside_a_field_tells_what_it_was_called_with():
    x, mask = torch.zeros(4, 5, 3), torch.ones(4, 5)
    with pytest.raises(RuntimeError, match="must match the size") as caught:
        setflow.masked_fm_loss(Unaligned(), x, x, mask, c=torch.zeros(4, 2))
    assert "x (4, 5, 3), t (4,), c (4, 2)" in caught.value.__notes__[0]
    assert "t[..., None, None]" in caught.value.__notes__[0]
