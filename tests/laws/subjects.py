"""Verbs, fields and bases as subjects of the laws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

import setflow
from laws.laws import Case, Outcome, Subject
from setflow.divergence import FixedProbeDivergence


class Pointwise(nn.Module):
    """A plain user's field: it knows no masks and acts on each object alone."""

    event_ndim = 2

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        time = t[..., None, None].expand(*x.shape[:-1], 1)
        return self.net(torch.cat([x, time], -1))


class ObjectConditioned(nn.Module):
    """A field with one context row per object, masked sum of the others' states included."""

    event_ndim = 2
    takes_mask = True

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3 + 3 + 2, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(
        self, x: Tensor, t: Tensor, c: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        total = (x * t[..., None, None]).sum(-2, keepdim=True).expand_as(x)
        return self.net(torch.cat([x, total, c], -1))


def with_gradients(value: Tensor, field: nn.Module, inputs: dict[str, Tensor]) -> Outcome:
    """Gradients with respect to the parameters and the inputs.

    Those of the summed asinh: every value counts, and none so much that its rounding hides others.
    """
    named = dict(field.named_parameters())
    wanted = list(named.values()) + list(inputs.values())
    loss = value.asinh().sum()
    grads = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    gradients = dict(zip(named, grads, strict=False))
    per_slot = dict(zip((f"d/d {name}" for name in inputs), grads[len(named) :], strict=True))
    return Outcome(per_slot=per_slot, gradients=gradients)


def _context(case: Case) -> Tensor | None:
    return case.c if case.c_object is None else case.c_object


def _present(case: Case) -> dict[str, Tensor]:
    return {} if case.present is None else {"present": case.present}


def loss_of(field: nn.Module, verb: Callable[..., Tensor] = setflow.masked_fm_loss) -> Subject:
    def subject(case: Case) -> Outcome:
        x, x_source = case.x.clone().requires_grad_(), case.x_source.clone().requires_grad_()
        value = verb(
            field, x, x_source, case.mask, case.t, _context(case), reduction="none",
            **_present(case),
        )  # fmt: skip
        outcome = with_gradients(value, field, {"x_target": x, "x_source": x_source})
        return Outcome({"loss": value.detach()}, outcome.per_slot, outcome.gradients)

    return subject


def sample_of(field: nn.Module, verb: Callable[..., Tensor] = setflow.masked_sample) -> Subject:
    def subject(case: Case) -> Outcome:
        x_source = case.x_source.clone().requires_grad_()
        base = setflow.StandardNormal(
            tuple(case.x.shape[case.object_dim :]), batch_shape=case.t.shape
        )
        value = verb(
            field, base, setflow.Heun(steps=3), case.mask, c=_context(case), x_source=x_source,
            **_present(case),
        )  # fmt: skip
        outcome = with_gradients(value, field, {"x_source": x_source})
        return Outcome({}, outcome.per_slot | {"sample": value.detach()}, outcome.gradients)

    return subject


def coupled_loss_of(
    field: nn.Module, verb: Callable[..., Tensor] = setflow.masked_fm_loss
) -> Subject:
    """The loss with noise that is paired with the objects; their contexts, if any, are of kinds."""

    def kinds(case: Case) -> Case:
        rows = case.c_object
        return (
            case if rows is None else replace(case, c_object=rows[..., :1].sign().expand_as(rows))
        )

    coupled = partial(verb, coupling="event")
    return lambda case: loss_of(field, coupled)(kinds(case))


def stochastic_loss_of(field: nn.Module) -> Subject:
    """The loss of a stochastic interpolant; the noise on the path stands in for its data too."""

    def verb(
        field: nn.Module, x_target: Tensor, x_source: Tensor, mask: Tensor | None, t: Tensor,
        c: Tensor | None, *, reduction: str, **present: Tensor,
    ) -> Tensor:  # fmt: skip
        t = 0.1 + 0.8 * t
        return setflow.masked_stochastic_fm_loss(
            field, x_target, x_source, mask, t, c, z=-0.5 * x_source, reduction=reduction,
            **present,
        )  # fmt: skip

    return loss_of(field, verb)


def denoising_loss_of(parameterization: str) -> Callable[[nn.Module], Subject]:
    """The loss of a diffusion model."""

    def verb(
        field: nn.Module, x_target: Tensor, x_source: Tensor, mask: Tensor | None, t: Tensor,
        c: Tensor | None, *, reduction: str, **present: Tensor,
    ) -> Tensor:  # fmt: skip
        return setflow.masked_diffusion_loss(
            field, x_target, setflow.VPSchedule(), mask, t, c, parameterization=parameterization,
            noise=x_source, weighting=setflow.MinSNRWeighting(), reduction=reduction, **present,
        )  # fmt: skip

    return lambda field: loss_of(field, verb)


def adaptive_sample_of(field: nn.Module) -> Subject:
    """A sample by an adaptive solver.

    Over a short time: the flow of a field with random weights magnifies rounding a million times.
    """

    def verb(
        field: nn.Module, base: setflow.StandardNormal, solver: object, mask: Tensor | None, **rest
    ) -> Tensor:
        solver = setflow.Dopri5(rtol=1e-3, atol=1e-3)
        return setflow.masked_sample(field, base, solver, mask, t1=0.9, **rest)

    return sample_of(field, verb)


class NoiseOfItsObject:
    """Euler-Maruyama whose noise is a hash of the coordinate it moves, so that it follows objects.

    With noise from a generator, longer padding draws other numbers for the same objects.
    """

    is_sde = True
    steps = 3

    def integrate(self, drift, diffusion, x0, t0, t1, steps):
        x, h, t = x0, (t1 - t0) / steps, t0
        for step in range(steps):
            noise = torch.sin(1e3 * (x0.detach() + step)) * 2**0.5
            x = x + h * drift(x, t) + abs(h) ** 0.5 * diffusion(t) * noise
            t += h
        return x


def diffusion_sample_of(solver: object) -> Callable[[nn.Module], Subject]:
    """A sample of a diffusion model, by the probability flow or the reverse equation."""

    def verb(
        field: nn.Module, base: object, _: object, mask: Tensor | None, *, c: Tensor | None,
        x_source: Tensor,
    ) -> Tensor:  # fmt: skip
        schedule = setflow.VPSchedule(beta_max=2.0)
        shape = tuple(x_source.shape[x_source.ndim - field.event_ndim :])
        process = setflow.Diffusion(
            field, schedule, solver, parameterization="x0", event_shape=shape, validate_args=False
        )
        return process(c, mask=mask).sample(x_source=x_source)

    return lambda field: sample_of(field, verb)


def log_prob_of(
    field: nn.Module, verb: Callable[..., Tensor] = setflow.masked_log_prob, probes: bool = False
) -> Subject:
    """A log-density; the probes of Hutchinson's estimator follow the objects as noise does.

    An exact divergence takes two steps of one evaluation each: with its gradient it is the dearest
    of all subjects, and estimates see what stands between the evaluations of one step.
    """
    solver = setflow.Heun(steps=2) if probes else setflow.Euler(steps=2)

    def subject(case: Case) -> Outcome:
        x = case.x.clone().requires_grad_()
        base = setflow.StandardNormal(tuple(case.x.shape[case.object_dim + 1 :]))
        estimator = FixedProbeDivergence(case.x_source[None]) if probes else None
        value = verb(
            field, base, solver, x, case.mask, c=_context(case), estimator=estimator,
            **_present(case),
        )  # fmt: skip
        outcome = with_gradients(value, field, {"x": x})
        return Outcome({"log_prob": value.detach()}, outcome.per_slot, outcome.gradients)

    return subject


def estimated_log_prob_of(field: nn.Module) -> Subject:
    return log_prob_of(field, probes=True)


def _scored_sample(*arguments: object, **options: object) -> tuple[Tensor, Tensor]:
    return setflow.masked_sample(*arguments, return_log_prob=True, **options)


def scored_sample_of(
    field: nn.Module, verb: Callable[..., tuple[Tensor, Tensor]] = _scored_sample
) -> Subject:
    """A sample and its log-density, from one solve, with probes that follow the objects."""

    def subject(case: Case) -> Outcome:
        x_source = case.x_source.clone().requires_grad_()
        base = setflow.StandardNormal(tuple(case.x.shape[case.object_dim + 1 :]))
        x, log_p = verb(
            field, base, setflow.Heun(steps=2), case.mask, c=_context(case), x_source=x_source,
            estimator=FixedProbeDivergence(case.x[None]), **_present(case),
        )  # fmt: skip
        both = torch.cat([x.flatten(), log_p.flatten()])
        outcome = with_gradients(both, field, {"x_source": x_source})
        per_slot = outcome.per_slot | {"sample": x.detach()}
        return Outcome({"log_prob": log_p.detach()}, per_slot, outcome.gradients)

    return subject


def velocity_of(field: nn.Module) -> Subject:
    """A library field called directly."""

    def subject(case: Case) -> Outcome:
        x = case.x.clone().requires_grad_()
        value = field(x, case.t, _context(case), mask=case.mask)
        outcome = with_gradients(value, field, {"x": x})
        return Outcome({}, outcome.per_slot | {"velocity": value.detach()}, outcome.gradients)

    return subject


def density_of(log_prob: Callable[..., Tensor]) -> Subject:
    """A base's log-density of the real coordinates."""

    def subject(case: Case) -> Outcome:
        x = case.x.clone().requires_grad_()
        value = log_prob(x, mask=case.mask, **_present(case))
        (gradient,) = torch.autograd.grad((value**2).sum(), x)
        return Outcome({"log_prob": value.detach()}, {"d/d x": gradient})

    return subject


def _circles(case: Case) -> setflow.WrappedNormal:
    scale = torch.tensor([1.0, 0.4, 2.0], dtype=case.x.dtype, device=case.x.device)
    return setflow.WrappedNormal(scale, angles=[1, 2])


def loss_on_circles_of(field: nn.Module, **options: object) -> Subject:
    """The loss of a path that goes the shorter way round."""

    def subject(case: Case) -> Outcome:
        path = setflow.WrappedPath(_circles(case))
        return loss_of(field, partial(setflow.masked_fm_loss, path=path, **options))(case)

    return subject


def sample_on_circles_of(field: nn.Module) -> Subject:
    """A sample whose angles are wrapped, far from the cut, where a rounding would leap."""

    def subject(case: Case) -> Outcome:
        def verb(field: nn.Module, _: object, *arguments: object, **options: object) -> Tensor:
            x = setflow.masked_sample(field, _circles(case), *arguments, **options)
            return torch.cat([x[..., :1], x[..., 1:].sin()], -1)

        return sample_of(field, verb)(case)

    return subject


def log_prob_on_circles_of(field: nn.Module) -> Subject:
    """A log-density on circles."""

    def subject(case: Case) -> Outcome:
        def verb(field: nn.Module, _: object, *arguments: object, **options: object) -> Tensor:
            return setflow.masked_log_prob(field, _circles(case), *arguments, **options)

        return log_prob_of(field, verb)(case)

    return subject
