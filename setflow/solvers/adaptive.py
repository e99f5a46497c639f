"""An adaptive solver with a step size and an error norm of each event's own.

Notation. dx/dt = f(x, t) is integrated from `t0` to `t1`, forwards or backwards in time. A step
from x to x' comes with an estimate e of its error. With the scaled error

    r_i = |e_i| / (atol + rtol max(|x_i|, |x'_i|))

of each coordinate, the step is accepted if the root mean square of r over the *real* coordinates of
the event is at most 1; a log-density that is integrated along (the mean, if it is several
estimates) counts with its whole ratio, as the larger of the two. The next step is 0.9 r^(-1/5)
times this one, at least 0.2 and at most 10 times.

A mean over all slots would be diluted by padding, and a step size for the whole batch would depend
on the other events. Here each event steps alone: its result depends neither on its padding nor on
its company, up to round-off. All events that are given together are evaluated together until the
last one has arrived; one that has arrived stands still. The verbs give those of like length.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from setflow.sets.masks import current_transform, is_readable
from setflow.sets.planning import Plan
from setflow.solvers.rows import Rates, RowFlow

__all__ = ["Dopri5", "IntegrationError", "SolveReport"]

_NAMED = 8  # events in an error message
_FIRST_STEP, _STEP = 2, 6  # evaluations to choose the first step, and for each step
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0


class IntegrationError(RuntimeError):
    """A solver cannot reach its tolerance.

    Arguments:
        solver: which solver.
        events: the indices of the events that failed first, in the lead shape of the state; the
            solve ends with them, so that others might have followed.
        time: the time that the first of them had reached.
        reason: where it was to go, why it could not, and what to do.
    """

    def __init__(
        self, solver: str, events: Sequence[tuple[int, ...]], time: float, reason: str
    ) -> None:
        named = ", ".join(map(str, events[:_NAMED]))
        more = f" and {len(events) - _NAMED} more" if len(events) > _NAMED else ""
        super().__init__(
            f"{solver} cannot take event{'s' if len(events) > 1 else ''} {named}{more} beyond "
            f"t = {time:.6g} {reason}"
        )
        self.solver = solver
        self.events = tuple(events)
        self.time = time
        self.reason = reason

    def __reduce__(self) -> Any:
        return type(self), (self.solver, self.events, self.time, self.reason)

    def renamed(self, events: Sequence[tuple[int, ...]]) -> IntegrationError:
        """Return the same error for events with other indices, in their order."""
        return IntegrationError(self.solver, events, self.time, self.reason)


@dataclass(frozen=True)
class SolveReport:
    """What a solve cost.

    Arguments:
        evaluations: the evaluations of f that each event needed until it arrived, with shape
            `lead`.
        accepted: the steps that each event took, with shape `lead`.
        rejected: the steps that it tried and did not take, with shape `lead`.
        calls: how often f was called for the whole batch: the evaluations of its slowest event, and
            six more for each step that was repeated for the sake of its gradients. Of events that
            were solved in groups of like length it is that of the group with most.
    """

    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor
    calls: int

    @classmethod
    def joined(cls, reports: Sequence[SolveReport], plan: Plan, lead: tuple[int, ...]) -> Self:
        """Return the report of a batch that was solved in groups.

        Arguments:
            reports: those of the groups.
            plan: which events stand in which group.
            lead: the lead shape of the batch.
        """
        evaluations, accepted, rejected = (
            plan.events([getattr(report, name) for report in reports]).reshape(lead)
            for name in ("evaluations", "accepted", "rejected")
        )
        calls = max(report.calls for report in reports)
        return cls(evaluations, accepted, rejected, calls)


class Dopri5:
    """The Dormand-Prince method of order 5, with a step size per event.

    Dormand and Prince, "A family of embedded Runge-Kutta formulae" (J. Comput. Appl. Math. 6, 19,
    1980); Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I", II.4 and II.5.
    The state is advanced in float64, whatever its dtype; f sees it in its own. Gradients flow
    through the steps that were taken, and through no choice of their size.

    After a solve, also after one that failed, `last` holds its `SolveReport`.

    Arguments:
        rtol: the relative tolerance of a step.
        atol: the absolute tolerance of a step.
        max_nfe: how often f may be called in one solve.

    Raises:
        ValueError: if a tolerance is not positive, or `max_nfe` allows no step.

    >>> solver = Dopri5(rtol=1e-6)
    >>> x0 = torch.tensor([[1.0], [2.0]])
    >>> solver.integrate(lambda x, t: -x, x0, t0=0.0, t1=1.0, event_ndim=1)
    tensor([[0.3679],
            [0.7358]])
    >>> solver.last.evaluations.shape
    torch.Size([2])
    """

    is_sde: ClassVar[bool] = False
    requires_steps: ClassVar[bool] = False
    supports_rsample: ClassVar[bool] = True
    takes_mask: ClassVar[bool] = True
    is_adaptive: ClassVar[bool] = True
    steps_apart: ClassVar[bool] = True

    order: ClassVar[int] = 5
    nodes: ClassVar[tuple[float, ...]] = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
    rows: ClassVar[tuple[tuple[float, ...], ...]] = (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
    weights: ClassVar[tuple[float, ...]] = (*rows[-1], 0.0)  # so that the last stage is x'
    # two thirds of the difference between the formulae of order 5 and 4 of 1980
    error_weights: ClassVar[tuple[float, ...]] = (
        71 / 86400, 0.0, -142 / 50085, 71 / 2880, -5751 / 169600, 44 / 1575, -1 / 60,
    )  # fmt: skip

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-6, *, max_nfe: int = 10_000) -> None:
        tolerances: dict[str, Any] = {"rtol": rtol, "atol": atol}
        for name, value in tolerances.items():
            if not isinstance(value, Real) or not 0 < float(value) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if rtol >= 1:
            raise ValueError(
                f"rtol must be below 1, got {rtol}: Dopri5 takes tolerances and chooses its steps "
                "by them, as Dopri5(1e-5, 1e-6); max_nfe bounds its evaluations, and RK4(50) takes "
                "a number of steps"
            )
        if isinstance(max_nfe, bool) or not isinstance(max_nfe, int):
            raise ValueError(f"max_nfe must be an integer, got {max_nfe!r}")
        if max_nfe < _FIRST_STEP + _STEP:
            raise ValueError(
                f"max_nfe must be at least {_FIRST_STEP + _STEP}, got {max_nfe}: {_FIRST_STEP} "
                f"evaluations choose the first step, and each step takes {_STEP}"
            )
        self.rtol = rtol
        self.atol = atol
        self.max_nfe = max_nfe
        self.last: SolveReport | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rtol={self.rtol}, atol={self.atol}, max_nfe={self.max_nfe})"

    def integrate(
        self,
        f: Callable[[Tensor, Tensor], Tensor],
        x0: Tensor,
        t0: Tensor | float,
        t1: Tensor | float,
        *,
        mask: Tensor | None = None,
        event_ndim: int | None = None,
    ) -> Tensor:
        """Return x(t1) for dx/dt = f(x, t) and x(t0) = `x0`, zero in padded slots.

        Arguments:
            f: the velocity; called with x, of the shape and dtype of `x0`, and the times t of the
                events, a tensor with shape `lead` and the dtype of `x0`. What it returns in padded
                slots is not read.
            x0: the state at `t0`, with shape `(*lead, *event_shape)`.
            t0: the first time, a number or a scalar tensor, to which gradients flow.
            t1: the last time, before or after `t0`, likewise.
            mask: which slots are real, with shape `(*lead, N)`, or which coordinates, with that of
                `x0`; None means all.
            event_ndim: how many trailing dimensions form one event; None takes it from the mask.

        Raises:
            IntegrationError: if an event cannot reach the tolerance.
            ValueError: if shapes do not fit, or neither mask nor `event_ndim` tells what an event
                is.
        """
        x1, _ = self._solve(lambda x, t: (f(x, t), None), x0, None, t0, t1, mask, event_ndim)
        return x1

    def integrate_augmented(
        self,
        f_aug: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        x0: Tensor,
        logp0: Tensor,
        t0: Tensor | float,
        t1: Tensor | float,
        *,
        mask: Tensor | None = None,
        event_ndim: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return x(t1) and logp(t1), integrated together, each within the tolerance.

        Arguments:
            f_aug: returns the velocity, of the shape of `x0`, and the rate of change of the
                log-density, of the shape of `logp0`; called as `f` is in `integrate`.
            x0: the state at `t0`, with shape `(*lead, *event_shape)`.
            logp0: the accumulated value at `t0`, with shape `lead`, or `(*lead, K)` for K estimates
                side by side, of which the mean keeps the tolerance; may have a wider dtype than
                `x0`.
            t0: the first time, a number or a scalar tensor, to which gradients flow.
            t1: the last time, before or after `t0`, likewise.
            mask: which slots are real, with shape `(*lead, N)`, or which coordinates, with that of
                `x0`; None means all.
            event_ndim: how many trailing dimensions form one event; None takes it from the mask.

        Raises:
            IntegrationError: if an event cannot reach the tolerance.
            ValueError: if shapes do not fit, or neither mask nor `event_ndim` tells what an event
                is.
        """
        x1, logp1 = self._solve(f_aug, x0, logp0, t0, t1, mask, event_ndim)
        assert logp1 is not None
        return x1, logp1

    def _norm(self, scaled: Tensor, n_real: Tensor) -> Tensor:
        """Return the root mean square of each row over its real coordinates, with shape `(B,)`.

        Arguments:
            scaled: scaled errors with shape `(B, F)`, zero where a coordinate is padding.
            n_real: the number of real coordinates of each row, with shape `(B,)`.
        """
        return (scaled.square().sum(-1) / n_real.clamp(min=1)).sqrt()

    def _solve(
        self,
        rates: Rates,
        x0: Tensor,
        logp0: Tensor | None,
        t0: Tensor | float,
        t1: Tensor | float,
        mask: Tensor | None,
        event_ndim: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        ends = t0, t1
        t0, t1 = (t.item() if isinstance(t, Tensor) else float(t) for t in ends)
        if not (math.isfinite(t0) and math.isfinite(t1)):
            raise ValueError(f"t0 and t1 must be finite, got {t0} and {t1}")
        if current_transform() is not None and not is_readable(x0):
            raise ValueError(
                f"{type(self).__name__} chooses its steps by the values of x, which vmap does not "
                "show; give it the events as one batch, in which each has its own steps, or use a "
                "solver with fixed steps such as setflow.RK4(50)"
            )
        flow = RowFlow.of(rates, x0, logp0, mask, event_ndim)
        y0 = self._between(flow, flow.pack(x0, logp0), ends[0], t0)
        if t0 == t1 or len(y0) == 0:
            none = torch.zeros(flow.lead, dtype=torch.int64, device=x0.device)
            self.last = SolveReport(none, none, none, flow.calls)
            return flow.unpack(self._between(flow, y0, t1, ends[1]))
        solve = _Solve(self, flow, y0, t0, t1)
        while solve.goes_on:
            solve.advance()
        self.last = solve.report()
        solve.raise_if_failed()
        return flow.unpack(self._between(flow, solve.y, t1, ends[1]))

    def _between(
        self, flow: RowFlow, y: Tensor, first: Tensor | float, last: Tensor | float
    ) -> Tensor:
        """Return rows after a step of no length between a number and an equal tensor.

        The solve runs between numbers. Where a gradient is to flow to the tensor, this step gives
        it the derivatives that its length has.
        """
        tensors = [t for t in (first, last) if isinstance(t, Tensor)]
        followed = current_transform() is not None or any(t.requires_grad for t in tensors)
        if not tensors or not followed or not torch.is_grad_enabled() or not len(y):
            return y
        at, there = (torch.zeros_like(y[:, 0]) + t for t in (first, last))
        return _stages(self, flow, y, flow(at, y), at, there, (there - at)[:, None])[0]


class _Solve:
    """One solve under way: where each event is, and how far it will try to go next.

    Per event, with shape `(B,)`: its time `t`, the size `step` of its next step, and the numbers of
    steps `tried` and `taken`. Its state `y` and the slope there are rows with shape `(B, F)`.
    """

    def __init__(self, solver: Dopri5, flow: RowFlow, y0: Tensor, t0: float, t1: float) -> None:
        self.solver, self.flow, self.y, self.t0, self.t1 = solver, flow, y0, t0, t1
        self.direction = math.copysign(1.0, t1 - t0)
        self.resolution = sys.float_info.epsilon * max(abs(t0), abs(t1))  # no less changes t
        self.t = torch.full_like(flow.n_real, t0, dtype=torch.float64)
        self.tried = torch.zeros_like(flow.n_real)
        self.taken = torch.zeros_like(flow.n_real)
        self.goes_on = True
        self.slope = flow(self.t, y0)
        with torch.no_grad():
            self.step = self._first_step().detach()  # from forward derivatives, too

    def _first_step(self) -> Tensor:
        """Hairer, Norsett and Wanner, II.4.

        An event whose velocity is zero here and a little later tries the whole way at once.
        """
        span = abs(self.t1 - self.t0)
        small = 1e-6 * span
        d0, d1 = self._size(self.y, self.y), self._size(self.slope, self.y)
        probe = torch.where((d0 < 1e-5) | (d1 < 1e-5), small, 0.01 * d0 / d1)
        probe = torch.where(probe.isfinite(), probe.clamp(max=span), small)
        there = torch.where(probe < span, self.t + self.direction * probe, self.t1)
        slope = self.flow(there, self.y + self.direction * probe[:, None] * self.slope)
        steepest = torch.maximum(d1, self._size(slope - self.slope, self.y) / probe)
        step = torch.minimum(100 * probe, (0.01 / steepest) ** (1 / self.solver.order))
        step = torch.where(steepest <= 1e-15, span, step)
        return torch.where(step.isfinite() & (step > 0), step, small)

    def advance(self) -> None:
        """Let each event try one step; one that has arrived stands still."""
        solver = self.solver
        with torch.no_grad():
            left = (self.t1 - self.t).abs()
            step = torch.minimum(self.step, left)
            there = torch.where(step < left, self.t + self.direction * step, self.t1)
        y, slopes = self._try(step, there)
        with torch.no_grad():
            error = step[:, None] * _combine(solver.error_weights, slopes)
            ratio = self._size(error, self.y, y)
            accepted, self.finite = ratio <= 1, ratio.isfinite()
            factor = (_SAFETY * ratio ** (-1 / solver.order)).clamp(_SHRINK, _GROW)
            self.step = (step * torch.where(self.finite, factor, _SHRINK)).detach()
            moved = accepted & (left > 0)
            there = torch.where(moved, there, self.t)
        room = self.flow.calls + _STEP <= solver.max_nfe
        if room and y.requires_grad and not bool((self.finite | (left == 0)).all()):
            # the gradient of a step not taken is 0, and 0 times an infinite derivative is NaN
            y, slopes = self._try(step * moved, there)
            room = self.flow.calls + _STEP <= solver.max_nfe
        self.y = torch.where(moved[:, None], y, self.y)
        self.slope = torch.where(moved[:, None], slopes[-1], self.slope)
        with torch.no_grad():
            self.t = there
            self.tried += left > 0
            self.taken += moved
            running = self.t != self.t1
            self.stuck = ~accepted & (self.step <= self.resolution)
            self.failed = running & self.stuck if room else running
            self.goes_on = bool(running.any() & ~self.failed.any())

    def _try(self, step: Tensor, there: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return where steps from `t` to `there` lead, and the slopes of their stages."""
        h = (self.direction * step)[:, None]
        return _stages(self.solver, self.flow, self.y, self.slope, self.t, there, h)

    def _size(self, values: Tensor, *states: Tensor) -> Tensor:
        """Return the norm of rows with shape `(B,)`, scaled by the tolerances at the states.

        Of several log-densities side by side the mean counts, which is what they stand for.
        """
        numel = self.flow.numel

        def scaled(part: Callable[[Tensor], Tensor]) -> Tensor:
            largest = functools.reduce(torch.maximum, (part(y).abs() for y in states))
            return part(values).abs() / (self.solver.atol + self.solver.rtol * largest)

        size = self.solver._norm(scaled(lambda rows: rows[:, :numel]), self.flow.n_real)
        if self.flow.logp0 is None:
            return size
        return torch.maximum(size, scaled(lambda rows: rows[:, numel:].mean(-1)))

    def report(self) -> SolveReport:
        lead = self.flow.lead
        tried, taken = self.tried.reshape(lead), self.taken.reshape(lead)
        return SolveReport(_FIRST_STEP + _STEP * tried, taken, tried - taken, self.flow.calls)

    def raise_if_failed(self) -> None:
        failed = self.failed.nonzero().flatten().tolist()
        if not failed:
            return
        first, lead = failed[0], self.flow.lead
        indices = (torch.unravel_index(torch.tensor(event), lead) for event in failed)
        events = [tuple(int(i) for i in index) for index in indices]
        if not bool(self.finite[first]):
            reason = (
                "the velocity is not finite there; look at the field at this time, or end before "
                "it where it is singular"
            )
        elif bool(self.stuck[first]):
            reason = (
                "the step has shrunk to nothing, as at a jump of the velocity; loosen rtol and "
                "atol, or make the field smoother"
            )
        else:
            reason = (
                f"the {self.flow.calls} evaluations made leave no further step within max_nfe; "
                "raise it, loosen rtol and atol, or take a solver with fixed steps such as "
                "setflow.RK4(100)"
            )
        way = f"on the way from {self.t0:g} to {self.t1:g}: {reason}"
        raise IntegrationError(repr(self.solver), events, self.t[first].item(), way)


def _stages(
    solver: Dopri5, flow: RowFlow, y0: Tensor, slope: Tensor, t: Tensor, there: Tensor, h: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return where steps `h` from the rows `y0` lead, and the slopes of their stages.

    Arguments:
        solver: the method.
        flow: the right-hand side.
        y0: the rows, with shape `(B, F)`.
        slope: the slopes there.
        t: the times there, with shape `(B,)`.
        there: the times at the ends of the steps.
        h: the lengths of the steps, with shape `(B, 1)`.
    """
    y, slopes = y0, [slope]
    for node, row in zip(solver.nodes[1:], solver.rows[1:], strict=True):
        y = torch.addcmul(y0, h, _combine(row, slopes))
        # between the ends of the step: beyond the interval f may be undefined
        slopes.append(flow(torch.lerp(t, there, node), y))
    return y, slopes


def _combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum of slopes with shape `(B, F)`."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = torch.add(total, slope, alpha=weight)
    return total
