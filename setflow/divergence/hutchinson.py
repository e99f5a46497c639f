"""Hutchinson's estimator: the divergence from random projections of the Jacobian.

Notation. J is the Jacobian of the velocity over real coordinates and e a random probe with
E[e e^T] = I on them and zero on padding; e^T J e has the expectation tr J, and the mean over
`n_probes` probes a variance that falls with their number. With signs as probes the variance of one
is 2 sum_{i != j} S_ij^2, S the symmetric part of J: the diagonal adds nothing to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from setflow.divergence.base import Evaluation, PlannedEstimator, PlannedSolve
from setflow.divergence.linearization import linearize, recomputed, wide_weights
from setflow.random import EventSeeds, counter_normal, counter_signs
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.events import Events
from setflow.sets.masks import current_transform, zero_padding
from setflow.sets.planning import Chunk, Plan, plan_events, traits_of
from setflow.sets.shapes import positive_integer

__all__ = [
    "FixedProbeDivergence",
    "HutchinsonDivergence",
    "Probe",
    "draw_probes",
]

Probe = Literal["rademacher", "gaussian"]

# as for the exact divergence; the passes are few, so that more objects may go together
_CPU_OVERHEAD, _CPU_OBJECTS = 300, 4096
_GPU_OVERHEAD, _GPU_OBJECTS = 2**15, 2**20


def draw_probes(
    probe: Probe, count: int, like: Tensor, mask: Tensor | None, seeds: EventSeeds
) -> Tensor:
    """Return probes for events, a function of (seed, event, rank among real objects, feature) only.

    Arguments:
        probe: `rademacher` or `gaussian`.
        count: how many.
        like: events with shape `(*lead, *event_shape)`.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.
        seeds: the seeds of the events, with shape `lead`.

    Returns:
        The probes, with shape `(count, *like.shape)` and the dtype of `like`, zero in padding.
    """
    lead = tuple(seeds.index.shape)
    event = tuple(like.shape[len(lead) :])
    objects, features = (event[0], event[1:]) if len(event) > 1 else (1, event)
    if mask is None:
        mask = torch.ones(*lead, objects, dtype=torch.bool, device=like.device)
    if probe == "rademacher":
        signs = counter_signs(seeds, mask, features, count)
        return signs.to(like.dtype).reshape(count, *like.shape)
    # not from the seed itself, whose normal numbers are the noise of the events of a sample
    keys = [seeds.at(1 + k).seed for k in range(count)]
    drawn = [counter_normal(key, seeds.index, mask, features) for key in keys]
    return torch.stack(drawn).to(like.dtype).reshape(count, *like.shape)


@dataclass
class _ProbedSolve(PlannedSolve):
    """One solve of an estimator that is made of probes.

    Arguments:
        probes: the probes, with shape `(B, *event_shape, K)`.
        drawn: given the events, the probes of an evaluation, with shape `(K, *x.shape)`; None has
            those of all evaluations.
    """

    probes: Tensor
    drawn: Callable[[Events], Tensor] | None

    def __call__(self, events: Events) -> tuple[Tensor, Tensor]:
        if self.drawn is not None:
            self.probes = _as_rows(self.drawn(events), events)
        return super().__call__(events)

    def estimates(self, part: Events, chunk: Chunk) -> tuple[Tensor, Tensor]:
        # taken now: when a backward pass computes again, other probes may be the current ones
        probes = self.probes
        if chunk.rows is not None and chunk.slots is not None:
            probes = probes[chunk.rows[:, None], chunk.slots]
        elif chunk.rows is not None:
            probes = probes[chunk.rows]

        def differentiated(again: Events) -> tuple[Tensor, Tensor]:
            graph = torch.is_grad_enabled()
            with linearize(self.field, again, self.weights, create_graph=graph) as lin:
                real = part.mask if part.present is None else part.present
                vectors = zero_padding(probes, real).movedim(-1, 0).to(lin.state.dtype)
                products = lin.pull(vectors) * vectors
                count = products.shape[2:].numel()
                traces = products.reshape(*products.shape[:2], count).sum(-1).T.double()  # (b, K)
                return (lin.velocity if graph else lin.velocity.detach()), traces

        if current_transform() is not None:
            with torch.enable_grad():  # nothing is to be cut off
                return differentiated(part)
        if not torch.is_grad_enabled():
            return differentiated(part)
        v, traces = recomputed(differentiated, self.field, part, self.weights)
        return v, traces


def _as_rows(probes: Tensor, events: Events) -> Tensor:
    """Return probes with shape `(B, *event_shape, K)`, in the dtype of the states."""
    rows = probes.to(events.x).reshape(len(probes), *events.flat().x.shape)
    return rows.movedim(0, -1)


def _solve_with(
    probes: Tensor,
    field: nn.Module,
    events: Events,
    drawn: Callable[[Events], Tensor] | None = None,
) -> Evaluation:
    """Plan the events of a solve with probes of shape `(K, *x.shape)`, or those that it draws."""
    on_cpu = events.x.device.type == "cpu"
    count, rows = len(probes), _as_rows(probes, events)
    weights = wide_weights(field, events.x.dtype)
    if current_transform() is not None:  # no values to plan by
        return _ProbedSolve(field, Plan([Chunk(None, None)]), count, weights, rows, drawn)
    plan = plan_events(
        traits_of(field),
        events.flat(),
        overhead=_CPU_OVERHEAD if on_cpu else _GPU_OVERHEAD,
        objects=_CPU_OBJECTS if on_cpu else _GPU_OBJECTS,
    )
    return _ProbedSolve(field, plan, count, weights, rows, drawn)


class FixedProbeDivergence(PlannedEstimator):
    """The mean of e^T J e over given probes.

    Arguments:
        probes: with shape `(n_probes, *lead, *event_shape)`; padded slots may hold anything.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))
    >>> FixedProbeDivergence(torch.ones(1, 4, 3, 2))(field, torch.zeros(4, 3, 2), 1.0)
    tensor([6., 6., 6., 6.])
    """

    def __init__(self, probes: Array) -> None:
        probes = as_tensor(probes, "probes")
        if probes.ndim < 2:
            raise ValueError(
                f"probes have shape {tuple(probes.shape)}, expected (n_probes, *lead, "
                "*event_shape); HutchinsonDivergence(4) draws four"
            )
        self.probes = probes
        self.n_estimates = len(probes)

    def for_solve(
        self,
        field: nn.Module,
        events: Events,
        seeds: EventSeeds | torch.Generator | None = None,
    ) -> Evaluation:
        """Plan the events of one solve, once; see `DivergenceEstimator`.

        Raises:
            ValueError: if the probes do not have the shape of the states.
        """
        probes = self.probes
        if probes.shape[1:] != events.x.shape or not len(probes):
            raise ValueError(
                f"probes have shape {tuple(probes.shape)}, expected "
                f"{('n_probes', *events.x.shape)}: the shape of x behind the number of probes"
            )
        return _solve_with(probes, field, events)


_STRIDE = 2**20  # more than the probes of one evaluation


class HutchinsonDivergence(PlannedEstimator):
    """An unbiased estimate of the divergence at the price of a few reverse passes.

    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
    splines" (Communications in Statistics 19, 1990); in flows, Grathwohl et al., "FFJORD"
    (arXiv:1810.01367). In `masked_log_prob` the probes are drawn once per solve and are a function
    of the generator, the place of the event in the batch, the rank of the object among the real
    ones and the feature: padding does not change them. `FixedProbeDivergence` takes the probes
    themselves.

    Arguments:
        n_probes: how many probes to average; two or more for a standard error.
        probe: `rademacher` (signs, the smaller variance) or `gaussian`.
        renew: draw new probes at every evaluation instead of once per solve. The errors of
            different times then average out, which is worth many probes; but it is noise to a
            solver that chooses its steps by its errors, so that only fixed steps are accepted.

    Raises:
        ValueError: if `n_probes` is not a positive integer or `probe` is another word.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))
    >>> HutchinsonDivergence()(field, torch.zeros(4, 3, 2), 1.0)  # exact for a diagonal Jacobian
    tensor([6., 6., 6., 6.])
    """

    def __init__(
        self, n_probes: int = 1, probe: Probe = "rademacher", *, renew: bool = False
    ) -> None:
        if n_probes in get_args(Probe):
            raise ValueError(
                f"n_probes must be a positive integer, got {n_probes!r}: the number of probes "
                f"comes first, HutchinsonDivergence(4, probe={n_probes!r}); setflow.compat.nami "
                "has the order of nami"
            )
        if probe not in get_args(Probe):
            raise ValueError(f"probe must be 'rademacher' or 'gaussian', got {probe!r}")
        self.probe: Probe = probe
        self.n_probes = self.n_estimates = positive_integer(n_probes, "n_probes")
        self.renews = renew

    def __repr__(self) -> str:
        renew = ", renew=True" if self.renews else ""
        return f"HutchinsonDivergence({self.n_probes}, probe={self.probe!r}{renew})"

    def for_solve(
        self,
        field: nn.Module,
        events: Events,
        seeds: EventSeeds | torch.Generator | None = None,
    ) -> Evaluation:
        """Draw the probes of one solve and plan its events; see `DivergenceEstimator`."""
        if not isinstance(seeds, EventSeeds):
            try:
                seeds = EventSeeds.drawn(events.lead, events.x.device, seeds)
            except RuntimeError as error:
                if current_transform() is None:
                    raise
                raise ValueError(
                    "HutchinsonDivergence cannot draw its probes inside vmap, which does not show "
                    "their seed; give it the events as one batch, or use setflow.ExactDivergence()"
                ) from error
        first = seeds

        def drawn(events: Events, key: EventSeeds) -> Tensor:
            return draw_probes(self.probe, self.n_probes, events.x, events.mask, key)

        if self.renews:
            evaluation = itertools.count(1)
            none = events.x.new_zeros(()).expand(self.n_probes, *events.x.shape)
            return _solve_with(
                none, field, events, lambda at: drawn(at, first.at(_STRIDE * next(evaluation)))
            )
        return _solve_with(drawn(events, seeds), field, events)
