"""Hutchinson's estimator: the divergence from random projections of the Jacobian.

Notation. J is the Jacobian of the velocity over real coordinates and e a random probe with
E[e e^T] = I on them and zero on padding; e^T J e has the expectation tr J, and the mean over
`n_probes` probes a variance that falls with their number. With signs as probes the variance of one
is 2 sum_{i != j} S_ij^2, S the symmetric part of J: the diagonal adds nothing to it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from setflow.divergence.base import (
    DivergenceEstimator,
    PlannedDivergence,
    StochasticDivergence,
)
from setflow.divergence.linearization import Linearization, linearize, recomputed
from setflow.random import EventSeeds, counter_normal, counter_signs
from setflow.sets.events import Context
from setflow.sets.masks import as_mask, zero_padding
from setflow.sets.planning import Chunk, Plan, plan_events
from setflow.sets.protocols import event_ndim_of
from setflow.sets.shapes import event_numel, positive_integer, split_event

__all__ = [
    "FixedProbeDivergence",
    "HutchinsonDivergence",
    "Probe",
    "ProbedDivergence",
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


class ProbedDivergence(PlannedDivergence):
    """An estimator of one solve that is made of probes."""

    @abstractmethod
    def probes_of(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the probes of one evaluation, with shape `(K, *x.shape)`."""

    def velocity_and_estimates(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity and its estimates; see `PlannedDivergence`."""
        probes = self.probes_of(x, mask).to(x)
        if mask is not None:
            real = as_mask(mask, x.shape[: x.ndim - event_ndim_of(field, at_least=2) + 1])
            probes = zero_padding(probes, real.expand(len(probes), *real.shape))
        lead, event = split_event(x, event_ndim_of(field))
        flat = probes.reshape(len(probes), event_numel(lead), *event)
        self._probes = flat.movedim(0, -1)  # (B, *event, K)
        self.columns = len(probes)
        return super().velocity_and_estimates(field, x, t, c, mask=mask)

    def plan(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None,
        mask: Tensor | None,
    ) -> Plan:
        on_cpu = x.device.type == "cpu"
        most = _CPU_OBJECTS if on_cpu else _GPU_OBJECTS
        return plan_events(
            field,
            x,
            mask,
            overhead=_CPU_OVERHEAD if on_cpu else _GPU_OVERHEAD,
            largest=lambda n: max(1, most // max(1, n)),
        )

    def estimates(
        self, field: nn.Module, x: Tensor, t: Tensor | float, c: Tensor | None, chunk: Chunk
    ) -> tuple[Tensor, Tensor]:
        # taken now: when a backward pass computes again, other probes may be the current ones
        probes = chunk.objects(self._probes) if x.ndim > 1 else chunk.events(self._probes)

        def differentiated(x: Tensor, t: Tensor | float, c: Tensor | None) -> tuple[Tensor, Tensor]:
            graph = torch.is_grad_enabled()
            with linearize(field, x, t, c, chunk.mask, create_graph=graph) as lin:
                estimates = self.traces(lin, probes.movedim(-1, 0).to(lin.state.dtype), chunk)
                return (lin.velocity if graph else lin.velocity.detach()), estimates

        if not torch.is_grad_enabled():
            return differentiated(x, t, c)
        v, estimates = recomputed(differentiated, field, x, t, c, chunk.mask)
        return v, estimates

    def traces(self, lin: Linearization, probes: Tensor, chunk: Chunk) -> Tensor:
        """Return K estimates of the trace of each event's Jacobian, with shape `(b, K)`."""
        return _over_coordinates(lin.pull(probes) * probes).T


def _over_coordinates(values: Tensor) -> Tensor:
    """Sum values with shape `(K, b, *event_shape)` over the event."""
    return values.reshape(*values.shape[:2], event_numel(values.shape[2:])).sum(-1)


class _GivenProbes(ProbedDivergence):
    """Probes that are the same at every evaluation of a solve."""

    def __init__(self, probes: Tensor) -> None:
        self._given = probes

    def probes_of(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self._given.shape[1:] != x.shape or not len(self._given):
            raise ValueError(
                f"probes have shape {tuple(self._given.shape)}, expected "
                f"{('n_probes', *x.shape)}: the shape of x behind the number of probes"
            )
        return self._given


class FixedProbeDivergence(DivergenceEstimator):
    """The mean of e^T J e over given probes.

    Arguments:
        probes: with shape `(n_probes, *lead, *event_shape)`; padded slots may hold anything.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))
    >>> FixedProbeDivergence(torch.ones(1, 4, 3, 2))(field, torch.zeros(4, 3, 2), 1.0)
    tensor([6., 6., 6., 6.])
    """

    def __init__(self, probes: Tensor) -> None:
        self.probes = probes

    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return velocity and estimated divergence; see `DivergenceEstimator`.

        Raises:
            ValueError: if the probes do not have the shape of `x`.
        """
        return self.for_solve(x, mask).velocity_and_divergence(field, x, t, c, mask=mask)

    def for_solve(
        self,
        x: Tensor,
        mask: Tensor | None,
        generator: torch.Generator | EventSeeds | None = None,
    ) -> PlannedDivergence:
        """Return the estimator that plans the events of one solve once."""
        return _GivenProbes(self.probes)


class _RenewedProbes(ProbedDivergence):
    """New probes at every evaluation, by its number."""

    def __init__(self, probe: Probe, n_probes: int, seeds: EventSeeds) -> None:
        self._draw = (probe, n_probes)
        self._seeds = seeds
        self._evaluations = 0

    def probes_of(self, x: Tensor, mask: Tensor | None) -> Tensor:
        self._evaluations += 1
        seeds = self._seeds.at(_STRIDE * self._evaluations)
        return draw_probes(*self._draw, x, mask, seeds)


_STRIDE = 2**20  # more than the probes of one evaluation


class HutchinsonDivergence(StochasticDivergence):
    """An unbiased estimate of the divergence at the price of a few reverse passes.

    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
    splines" (Communications in Statistics 19, 1990); in flows, Grathwohl et al., "FFJORD"
    (arXiv:1810.01367). In `masked_log_prob` the probes are drawn once per solve and are a function
    of the generator, the place of the event in the batch, the rank of the object among the real
    ones and the feature: padding does not change them. `FixedProbeDivergence` takes the probes
    themselves.

    Arguments:
        probe: `rademacher` (signs, the smaller variance) or `gaussian`.
        n_probes: how many probes to average; two or more for a standard error.
        renew: draw new probes at every evaluation instead of once per solve. The errors of
            different times then average out, which is worth many probes; but it is noise to a
            solver that chooses its steps by its errors, so that only fixed steps are accepted.

    Raises:
        ValueError: if `probe` is another word or `n_probes` is not positive.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))
    >>> HutchinsonDivergence()(field, torch.zeros(4, 3, 2), 1.0)  # exact for a diagonal Jacobian
    tensor([6., 6., 6., 6.])
    """

    def __init__(
        self, probe: Probe = "rademacher", n_probes: int = 1, *, renew: bool = False
    ) -> None:
        if probe not in get_args(Probe):
            raise ValueError(f"probe must be 'rademacher' or 'gaussian', got {probe!r}")
        self.probe: Probe = probe
        self.n_probes = self.n_estimates = positive_integer(n_probes, "n_probes")
        self.renews = renew

    def __repr__(self) -> str:
        renew = ", renew=True" if self.renews else ""
        return f"HutchinsonDivergence({self.probe!r}, n_probes={self.n_probes}{renew})"

    def bound(self, x: Tensor, mask: Tensor | None, seeds: EventSeeds) -> ProbedDivergence:
        """Draw the probes for events of the shape of `x`."""
        if self.renews:
            return _RenewedProbes(self.probe, self.n_probes, seeds)
        return _GivenProbes(draw_probes(self.probe, self.n_probes, x, mask, seeds))
