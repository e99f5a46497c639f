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
its company, up to round-off. All events are evaluated together until the last one has arrived; one
that has arrived stands still.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from setflow.sets.masks import as_mask, count_real, zero_padding
from setflow.sets.shapes import check_accumulated, event_numel, split_event

__all__ = ["Dopri5", "IntegrationError", "SolveReport"]

_NAMED = 8  # events in an error message
_FIRST_STEP, _STEP = 2, 6  # evaluations to choose the first step, and for each step
_ORDER, _SAFETY, _SHRINK, _GROW = 5, 0.9, 0.2, 10.0

_Rates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


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
        calls: how often f was called for the whole batch: the evaluations of its slowest event.
    """

    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor
    calls: int


class Dopri5:
    """The Dormand-Prince method of order 5, with a step size per event.

    Dormand and Prince, "A family of embedded Runge-Kutta formulae" (J. Comput. Appl. Math. 6, 19,
    1980), in the parallel implementation of Lienen and Günnemann, "torchode: A Parallel ODE Solver
    for PyTorch" (arXiv:2210.12375): install it with `pip install 'setflow[adaptive]'`. The state is
    advanced in float64, whatever its dtype; f sees it in its own.

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

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-6, *, max_nfe: int = 10_000) -> None:
        for name, value in (("rtol", rtol), ("atol", atol)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
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
        t0: float,
        t1: float,
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
            t0: the first time.
            t1: the last time, before or after `t0`.
            mask: which slots are real, with shape `(*lead, N)`; None means all.
            event_ndim: how many trailing dimensions form one event; None takes it from the mask.

        Raises:
            ImportError: if torchode is not installed.
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
        t0: float,
        t1: float,
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
            t0: the first time.
            t1: the last time, before or after `t0`.
            mask: which slots are real, with shape `(*lead, N)`; None means all.
            event_ndim: how many trailing dimensions form one event; None takes it from the mask.

        Raises:
            ImportError: if torchode is not installed.
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
        rates: _Rates,
        x0: Tensor,
        logp0: Tensor | None,
        t0: float,
        t1: float,
        mask: Tensor | None,
        event_ndim: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        torchode = _torchode()
        t0, t1 = float(t0), float(t1)
        if not (math.isfinite(t0) and math.isfinite(t1)):
            raise ValueError(f"t0 and t1 must be finite, got {t0} and {t1}")
        state = _State.of(x0, logp0, mask, event_ndim)
        y0 = state.pack(x0, logp0)
        flow = _Flow(rates, state, min(t0, t1), max(t0, t1))
        if t0 == t1 or y0.shape[0] == 0:
            none = torch.zeros(state.lead, dtype=torch.int64, device=x0.device)
            self.last = SolveReport(none, none, none, 0)
            return state.unpack(y0)
        control = _Control(self, state, flow)
        term = torchode.ODETerm(flow, with_stats=False)
        loop = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
        start = torch.full((y0.shape[0],), t0, dtype=torch.float64, device=x0.device)
        problem = torchode.InitialValueProblem(y0, start, torch.full_like(start, t1))
        stats = loop.solve(problem, term=term).stats
        steps = stats["n_steps"].reshape(state.lead)
        accepted = stats["n_accepted"].reshape(state.lead)
        self.last = SolveReport(
            _FIRST_STEP + _STEP * steps, accepted, steps - accepted, calls=flow.calls
        )
        self._raise_if_failed(control, state.lead, t0, t1)
        return state.unpack(control.y)

    def _raise_if_failed(
        self, control: _Control, lead: tuple[int, ...], t0: float, t1: float
    ) -> None:
        failed = control.failed.nonzero().flatten().tolist()
        if not failed:
            return
        first = failed[0]
        indices = (torch.unravel_index(torch.tensor(event), lead) for event in failed)
        events = [tuple(int(i) for i in index) for index in indices]
        time = control.t[first].item()
        if not bool(control.finite[first]):
            reason = (
                "the velocity is not finite there; look at the field at this time, or end before "
                "it where it is singular"
            )
        elif bool(control.stuck[first]):
            reason = (
                "the step has shrunk to nothing, as at a jump of the velocity; loosen rtol and "
                "atol, or make the field smoother"
            )
        else:
            reason = (
                f"the {control.calls} evaluations made leave no further step within max_nfe; "
                "raise it, loosen rtol and atol, or take a solver with fixed steps such as "
                "setflow.RK4(100)"
            )
        raise IntegrationError(
            repr(self), events, time, f"on the way from {t0:g} to {t1:g}: {reason}"
        )


def _torchode() -> Any:
    try:
        with torch.inference_mode(False):  # its constants are made when it is imported
            import torchode
    except ImportError as error:
        raise ImportError(
            "adaptive solvers need torchode, which is not installed; "
            "install it with pip install 'setflow[adaptive]'"
        ) from error
    return torchode


@dataclass(frozen=True)
class _State:
    """How a state, and perhaps its log-density, is packed into rows of float64, one per event."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    lead: tuple[int, ...]
    mask: Tensor | None
    n_real: Tensor  # (B,), real coordinates
    logp0: Tensor | None

    @classmethod
    def of(
        cls, x0: Tensor, logp0: Tensor | None, mask: Tensor | None, event_ndim: int | None
    ) -> _State:
        if not x0.is_floating_point():
            raise ValueError(f"the state must be floating point, got {x0.dtype}")
        if event_ndim is None:
            if mask is None:
                raise ValueError(
                    "neither mask nor event_ndim is given, so it is not known what an event is; "
                    "pass event_ndim, 2 for sets with shape (N, D)"
                )
            event_ndim = max(1, x0.ndim - mask.ndim + 1)
        lead, event = split_event(x0, event_ndim)
        n_real = torch.full((math.prod(lead),), event_numel(event), device=x0.device)
        if mask is not None:
            if not event:
                raise ValueError("a mask needs an object dimension, got event_ndim=0")
            mask = as_mask(mask, (*lead, event[0])).to(x0.device)
            n_real = count_real(mask).reshape(-1) * event_numel(event[1:])
        if logp0 is not None:
            check_accumulated(logp0, lead)
        return cls(tuple(x0.shape), x0.dtype, lead, mask, n_real, logp0)

    @property
    def numel(self) -> int:
        return event_numel(self.shape[len(self.lead) :])

    def pack(self, x: Tensor, logp: Tensor | None) -> Tensor:
        """Return rows with shape `(B, F)`, or `(B, F + K)` with the K log-densities last."""
        if tuple(x.shape) != self.shape:
            raise ValueError(
                f"f returned shape {tuple(x.shape)} for a state of shape {self.shape}; "
                "a velocity has the shape of its state"
            )
        rows = zero_padding(x, self.mask).reshape(len(self.n_real), self.numel).double()
        if logp is None or self.logp0 is None:
            return rows
        if logp.shape != self.logp0.shape:
            raise ValueError(
                f"f_aug returned a rate of shape {tuple(logp.shape)}, expected "
                f"{tuple(self.logp0.shape)}: that of logp0"
            )
        columns = event_numel(logp.shape[len(self.lead) :])
        return torch.cat([rows, logp.reshape(len(rows), columns).double()], -1)

    def unpack(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        x = y[:, : self.numel].reshape(self.shape).to(self.dtype)
        if self.logp0 is None:
            return x, None
        return x, y[:, self.numel :].reshape(self.logp0.shape).to(self.logp0.dtype)


class _Flow:
    """The right-hand side on packed rows; counts its calls."""

    def __init__(self, rates: _Rates, state: _State, first: float, last: float) -> None:
        self.rates = rates
        self.state = state
        self.first = first
        self.last = last
        self.calls = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        x, _ = self.state.unpack(y)
        # round-off in t + h must not lead outside the interval, where f may be undefined
        time = t.clamp(self.first, self.last).reshape(self.state.lead).to(x.dtype)
        return self.state.pack(*self.rates(x, time))


class _Control:
    """Accepts or rejects each event's step and chooses its next one, for the loop of torchode.

    What torchode interpolates at the end is not used: `y` is where each event's last step led, and
    `t` the time that it reached. No gradient flows through the choice of steps.
    """

    def __init__(self, solver: Dopri5, state: _State, flow: _Flow) -> None:
        self.solver = solver
        self.state = state
        self.flow = flow

    @property
    def calls(self) -> int:
        return self.flow.calls

    def init(
        self, term: Any, problem: Any, order: int, dt0: None, *, stats: Any, args: Any
    ) -> tuple[Tensor, None, Tensor]:
        self.t, self.y = problem.t_start, problem.y0
        self.t_end, self.direction = problem.t_end, problem.time_direction
        latest = torch.maximum(self.t.abs(), self.t_end.abs())
        self.resolution = torch.finfo(latest.dtype).eps * latest  # no smaller step changes t
        f0 = term.vf(self.t, self.y, stats, args)
        with torch.no_grad():
            step = self._first_step(lambda t, y: term.vf(t, y, stats, args), f0)
        return self.direction * step, None, f0

    def _first_step(self, f: Callable[[Tensor, Tensor], Tensor], f0: Tensor) -> Tensor:
        """Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I", II.4.

        An event whose velocity is zero here and a little later tries the whole way at once.
        """
        span = (self.t_end - self.t).abs()
        small = 1e-6 * span
        d0, d1 = self._size(self.y, self.y), self._size(f0, self.y)
        probe = torch.where((d0 < 1e-5) | (d1 < 1e-5), small, 0.01 * d0 / d1)
        probe = torch.where(probe.isfinite(), torch.minimum(probe, span), small)
        h = self.direction * probe
        f1 = f(self.t + h, self.y + h[:, None] * f0)
        steepest = torch.maximum(d1, self._size(f1 - f0, self.y) / probe)
        step = torch.minimum(100 * probe, (0.01 / steepest) ** (1 / _ORDER))
        step = torch.where(steepest <= 1e-15, span, step)
        return torch.where(step.isfinite() & (step > 0), torch.minimum(step, span), small)

    def adapt_step_size(
        self, t0: Tensor, dt: Tensor, y0: Tensor, step: Any, state: None, stats: Any
    ) -> tuple[Tensor, Tensor, None, Tensor]:
        with torch.no_grad():
            ratio = self._size(step.error_estimate, y0, step.y)
            self.finite = ratio.isfinite()
            accept = ratio <= 1
            factor = (_SAFETY * ratio ** (-1 / _ORDER)).clamp(_SHRINK, _GROW)
            dt_next = dt * torch.where(self.finite, factor, _SHRINK)
            moved = accept & self._before_end(t0)
            self.t = torch.where(moved, t0 + dt, t0)
            self.stuck = ~accept & (dt_next.abs() <= self.resolution)
            spent = self.flow.calls + _STEP > self.solver.max_nfe
            self.failed = self._before_end(self.t) & (self.stuck | spent)
        self.y = step.y  # an event that has arrived takes steps of size 0
        return accept, dt_next, None, self.failed.long()  # torchode stops at a status other than 0

    def merge_states(self, running: Tensor, current: None, previous: None) -> None:
        """Nothing is remembered from step to step."""

    def _before_end(self, t: Tensor) -> Tensor:
        before: Tensor = self.direction * (t - self.t_end) < 0
        return before

    def _size(self, values: Tensor, *states: Tensor) -> Tensor:
        """Return the norm of values with shape `(B, F)`, scaled by the tolerances at the states.

        Of several log-densities side by side the mean counts, which is what they stand for.
        """
        largest = torch.stack([self._with_mean(y).abs() for y in states]).amax(0)
        scaled = self._with_mean(values).abs() / (self.solver.atol + self.solver.rtol * largest)
        size = self.solver._norm(scaled[:, : self.state.numel], self.state.n_real)
        return size if self.state.logp0 is None else torch.maximum(size, scaled[:, -1])

    def _with_mean(self, rows: Tensor) -> Tensor:
        """Return rows with shape `(B, F + 1)`, or as they are if there is no log-density."""
        if self.state.logp0 is None:
            return rows
        x, logp = rows[:, : self.state.numel], rows[:, self.state.numel :]
        return torch.cat([x, logp.mean(-1, keepdim=True)], -1)
