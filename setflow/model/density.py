"""What a log-density of sets is made of, and what a Box-Cox exponent above 0 leaves out of it.

With lambda > 0 the Box-Cox transform of a positive feature has a lowest value. What a flow puts
below the smallest training value is sampled onto that value, so it belongs to no density: the
integral of the density falls short of 1 by the probability of an event with such an object.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from setflow.schema import Feature

if TYPE_CHECKING:
    from setflow.model.model import SetFlow
    from setflow.sets.arrays import Array
    from setflow.sets.protocols import Solver

__all__ = ["LogDensity", "MissingMass", "missing_mass", "wide_angles", "wrapped_share"]

FAR = 6  # standard deviations: what stands so far off is no part of 1e-4 of any training sample


class LogDensity(NamedTuple):
    """The log-density of sets, term by term, in nats, each with shape `(B,)` and float64.

    For a single event, a batch without batch dimension, each has the shape `()`.

    Attributes:
        total: log p({x_1 .. x_N}, N | c) of the unordered set, per physical unit of each feature of
            each object: the sum of the four terms that follow.
        objects: log p(z_1 .. z_N | N, c), the density of the ordered tuple of scaled features,
            given their types where objects have some.
        scaling: log|det dz/dx|, of the scaling of the features and of their transforms.
        ordering: log N!, since a set may be written down in so many orders; with types the sum of
            log n_k! over them, those of objects that are listed type by type. The tuple in the
            order given has the density of the set less log N!.
        cardinality: log p(N | c), with types log p(n_1 .. n_K | c); 0 if the model has no
            cardinality model, and the density is then one for given numbers.
        standard_error: what the probes of a stochastic divergence leave uncertain in `objects`; 0
            for an exact one, NaN if the estimator cannot tell (a single probe).
    """

    total: Tensor
    objects: Tensor
    scaling: Tensor
    ordering: Tensor
    cardinality: Tensor
    standard_error: Tensor


class MissingMass(NamedTuple):
    """The probability that is missing from a density of sets, estimated from a sample.

    Attributes:
        mass: the fraction of the sampled events in which an object was put onto the smallest
            training value; 0 without a sample where no transform has a lowest value.
        standard_error: that of `mass`: the standard deviation of the fraction given the sample, for
            a flat prior, so that it is not 0 where no event or every event was hit.
        events: how many events were sampled.
    """

    mass: float
    standard_error: float
    events: int


def missing_mass(
    flow: SetFlow,
    n: int,
    c: Array | None = None,
    *,
    lengths: Array | None = None,
    seed: int = 0,
    solver: Solver | None = None,
) -> MissingMass:
    """Estimate how far the integral of the density of a model falls short of 1.

    Arguments:
        flow: the model.
        n: the number of events to sample.
        c: the physical context of these events, as `SetFlow.sample` takes it.
        lengths: their numbers of objects, with shape `(n,)`; None draws them from p(N | c).
        seed: the seed of the sample.
        solver: the ODE solver; None as `SetFlow.sample`.

    Raises:
        ValueError: if `n` is not positive, or as `SetFlow.sample`.

    >>> given = {"mean": 0, "std": 1, "lowest": [-torch.inf, 0]}
    >>> scaler = setflow.data.Standardizer(kinds=["real", "positive(boxcox=0.5)"], **given)
    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))
    >>> flow = setflow.SetFlow(field, scaler=scaler, features=["x", "pt"])
    >>> missing_mass(flow, 1000, lengths=[1] * 1000, seed=1).mass  # half of a normal distribution
    0.499
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}: the mass is estimated from a sample")
    if not flow.scaler.has_bound:
        return MissingMass(0.0, 0.0, 0)
    batch = flow.sample(n, c, seed, lengths=lengths, solver=solver)
    hit = int(flow.scaler.clipped(batch.x, batch.mask).flatten(1).any(-1).sum())
    centre = (hit + 1) / (n + 2)
    return MissingMass(hit / n, math.sqrt(centre * (1 - centre) / (n + 3)), n)


def wide_angles(flow: SetFlow, wrapped: Collection[str] = ()) -> dict[int, str]:
    """Return the features that a file wraps and whose training sample comes near the ends.

    They are those of kind `real(wrapped=True)`, and the ones that are named, with less than six
    standard deviations from their mean to -pi or pi: their names by their places.

    Arguments:
        flow: the model.
        wrapped: the names of features that a file holds in [-pi, pi), whatever the model says.
    """
    wide = {}
    for k, name in enumerate(flow.features):
        feature, mean, std = flow.schema.object(name), flow.scaler.mean[k], flow.scaler.std[k]
        if not feature.of_kind.is_identity or not (feature.of_kind.is_angle or name in wrapped):
            continue
        if half_turn(feature) - abs(float(mean)) < FAR * float(std):
            wide[k] = name
    return wide


def half_turn(feature: Feature) -> float:
    """Return pi in the unit of an angle."""
    return 180.0 if feature.unit == "deg" else math.pi


def wrapped_share(
    flow: SetFlow,
    n: int,
    c: Array | None = None,
    *,
    lengths: Array | None = None,
    seed: int = 0,
    solver: Solver | None = None,
    wrapped: Collection[str] = (),
) -> dict[str, float]:
    """Estimate for which share of its objects a model makes an angle that a file has to wrap.

    A feature of kind `real(wrapped=True)` is an angle that the model takes as a number on the whole
    line. What lies outside [-pi, pi) is wrapped in a file, and its density there is that of another
    value: it is to be narrow. One whose training sample keeps six standard deviations from the ends
    is taken to be, without a sample.

    Arguments:
        flow: the model.
        n: the number of events to sample.
        c: the physical context of these events, as `SetFlow.sample` takes it.
        lengths: their numbers of objects, with shape `(n,)`; None draws them from p(N | c).
        seed: the seed of the sample.
        solver: the ODE solver; None as `SetFlow.sample`.
        wrapped: the names of further features that a file wraps.

    Returns:
        The share by the names of the features that are not narrow.

    >>> scaler = setflow.data.Standardizer(mean=[0], std=[2.0])
    >>> schema = setflow.schema.Schema([setflow.schema.Feature("phi", "rad", "real(wrapped=True)")])
    >>> field = setflow.GaussianSetField(torch.zeros(1), torch.ones(1))
    >>> flow = setflow.SetFlow(field, scaler=scaler, schema=schema)
    >>> wrapped_share(flow, 1000, lengths=[10] * 1000)
    {'phi': 0.1188}
    """
    wide = wide_angles(flow, wrapped)
    if not wide:
        return {}
    batch = flow.sample(n, c, seed, lengths=lengths, solver=solver)
    x = batch.x[batch.mask][:, list(wide)]
    ends = x.new_tensor([half_turn(flow.schema.object(name)) for name in wide.values()])
    outside = ((x < -ends) | (x >= ends)).double().mean(0)
    return dict(zip(wide.values(), outside.tolist(), strict=True))
