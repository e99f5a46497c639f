"""What is compared of sets that are no jets: features, one by one and jointly, N, and pairs.

Notation. An event is a set of N objects with features x; z are the scaled features, f(x) over its
standard deviation in the reference, with f the transform of the feature's kind (the logarithm of a
positive one, say). The features are compared one by one, and jointly by the mean W1 of the sums
(z_a + z_b) / sqrt(2) of two features a < b of an object, projections that see how the two depend on
each other. Two objects i, j of an event have the pair distance |z_i - z_j|, which sees what objects
stand in one event.

An event with more than `PAIRS` pairs gives so many that are drawn at random, by its place and a
fixed seed, so that what is measured of a sample depends on it alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from setflow.physics.metrics import Metric
from setflow.schema import Feature, names
from setflow.sets.batch import SetBatch
from setflow.sets.masks import count_real
from setflow.sets.weights import effective_number, total_weight

__all__ = [
    "SetMeasure",
    "SetObservables",
    "renumbered",
    "scale_of",
    "shuffle_objects",
    "swap_features",
]

MULTIPLICITY, PAIR = "multiplicity", "pair distance"
PAIRS = 200
"""The largest number of pairs that one event gives."""


@dataclass(frozen=True)
class SetObservables:
    """All observables of a sample of n events with P real objects and Q pairs, in float64.

    Arguments:
        features: the names of the D features.
        metrics: the metrics of these observables.
        multiplicity: the number of real objects, with shape `(n,)`.
        objects: the features of the real objects of all events, with shape `(P, D)`.
        scaled: their scaled features z, with shape `(P, D)`.
        event: the event that each of them belongs to, from 0 to n - 1, with shape `(P,)`.
        pairs: the pair distances, with shape `(Q,)`.
        pair_event: the event that each of them belongs to, with shape `(Q,)`.
        weight: how much each event counts, and its objects and pairs with it, with shape `(n,)`;
            None means equally much.
    """

    features: tuple[str, ...]
    metrics: tuple[Metric, ...]
    multiplicity: Tensor
    objects: Tensor
    scaled: Tensor
    event: Tensor
    pairs: Tensor
    pair_event: Tensor
    weight: Tensor | None = None

    @property
    def effective(self) -> float:
        """The effective number of events, (sum w)^2 / sum w^2; n without weights."""
        return float(len(self)) if self.weight is None else effective_number(self.weight)

    def __len__(self) -> int:
        return len(self.multiplicity)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the observables."""
        return tuple(part for metric in self.metrics for part in metric.parts)

    def column(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the values of one observable and the event of each, both of one dimension.

        Raises:
            ValueError: if there is no such observable.
        """
        if name in self.features:
            return self.objects[:, self.features.index(name)], self.event
        if name in (sums := _sums(len(self.features))):
            a, b = sums[name]
            return (self.scaled[:, a] + self.scaled[:, b]) / math.sqrt(2), self.event
        if name == MULTIPLICITY:
            return self.multiplicity, torch.arange(len(self), device=self.event.device)
        if name == PAIR:
            return self.pairs, self.pair_event
        raise ValueError(f"there is no observable {name!r}, expected one of: {self.names}")

    def select(self, events: Tensor | slice) -> SetObservables:
        """Return those of some events, given by distinct indices, shape `(k,)`, or a slice."""
        _, place = renumbered(events, len(self), self.event.device)
        event, pair_event = place[self.event], place[self.pair_event]
        kept, kept_pairs = event >= 0, pair_event >= 0
        return replace(
            self,
            multiplicity=self.multiplicity[events],
            objects=self.objects[kept],
            scaled=self.scaled[kept],
            event=event[kept],
            pairs=self.pairs[kept_pairs],
            pair_event=pair_event[kept_pairs],
            weight=None if self.weight is None else self.weight[events],
        )


def renumbered(
    events: Tensor | slice, n: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return the indices of chosen events, and the new number of each event.

    Arguments:
        events: distinct indices, with shape `(k,)`, or a slice.
        n: the number of events.
        device: where what belongs to the events lies; None means the CPU.

    Returns:
        Two integer tensors: of the chosen events, with shape `(k,)`, and of all, with shape `(n,)`,
        where -1 is one that is not chosen.

    >>> renumbered(torch.tensor([2, 0]), 4)[1]
    tensor([ 1, -1,  0, -1])
    """
    chosen = torch.arange(n, device=device)[events]
    place = torch.full((n,), -1, device=device)
    place[chosen] = torch.arange(len(chosen), device=device)
    return chosen, place


@dataclass(frozen=True)
class SetMeasure:
    """How sets of some features are measured; a call returns the observables of a sample.

    Arguments:
        features: the features, numbers on a line.
        low: the smallest value of each in the reference, with shape `(D,)`.
        high: the largest.
        std: the standard deviation of f(x) in the reference, likewise.
        metrics: the metrics, in the order of the report.

    >>> x = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]).expand(4, 2, 2)
    >>> measure = SetMeasure.of([Feature("x", "mm"), Feature("y", "mm")], SetBatch(x))
    >>> measure(SetBatch(x)).pairs.round(decimals=3)
    tensor([2.6460, 2.6460, 2.6460, 2.6460], dtype=torch.float64)
    """

    features: tuple[Feature, ...]
    low: Tensor
    high: Tensor
    std: Tensor
    metrics: tuple[Metric, ...]

    @classmethod
    def of(cls, features: Sequence[Feature], reference: SetBatch) -> SetMeasure:
        """Return the measure whose scales are those of a reference.

        Raises:
            ValueError: if it has fewer than two objects, or one that is not finite.
        """
        features = tuple(features)
        real = reference.x[reference.mask].double()
        if len(real) < 2 or not bool(real.isfinite().all()):
            raise ValueError(
                f"the reference has {len(real)} objects, expected at least two, all of them finite"
            )
        plain = cls(features, real.amin(0), real.amax(0), torch.ones(len(features)).double(), ())
        spread, scaled = real.std(0), plain.scaled(real).std(0)
        scaled[~(scaled > 0)] = 1.0  # a constant is at distance 0 from itself
        metrics = [
            Metric(f"w1_{f.name}", f"W1 {f.name}", (f.name,), f.unit, scale_of(float(width)))
            for f, width in zip(features, spread, strict=True)
        ]
        if len(features) > 1:
            sums = tuple(_sums(len(features)))
            metrics.append(Metric("w1_joint", "W1 joint features", sums, "", 0.01))
        metrics.append(
            Metric("w1_multiplicity", "W1 multiplicity", (MULTIPLICITY,), "objects", 1.0)
        )
        if int(reference.lengths.max()) > 1:
            metrics.append(Metric("w1_pairs", "W1 pair distance", (PAIR,), "", 0.01))
        return cls(features, plain.low, plain.high, scaled.double(), tuple(metrics))

    def scaled(self, x: Tensor) -> Tensor:
        """Return z of features x with shape `(*, D)`; where f ends, x is cut to the reference."""
        columns = []
        for k, feature in enumerate(self.features):
            column, kind = x[..., k].double(), feature.of_kind
            if not kind.is_identity:
                column = kind.forward(column.clamp(self.low[k], self.high[k]))
            columns.append(column / self.std[k])
        return torch.stack(columns, -1)

    def __call__(self, batch: SetBatch) -> SetObservables:
        """Return the observables of events.

        Arguments:
            batch: the events, with `x` of shape `(n, N, D)`.

        Raises:
            ValueError: if there is no event, or a real object is not finite.
        """
        x, mask, weight = checked_objects(batch)
        pairs, pair_event = self._pairs(x, mask)
        return SetObservables(
            features=names(self.features),
            metrics=self.metrics,
            multiplicity=count_real(mask).double(),
            objects=x[mask],
            scaled=self.scaled(x[mask]),
            event=mask.nonzero()[:, 0],
            pairs=pairs,
            pair_event=pair_event,
            weight=weight,
        )

    def _pairs(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances of pairs, and the event of each."""
        order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)  # real ones first
        z = self.scaled(torch.where(mask[..., None], x, self.low))
        z = z.gather(1, order[..., None].expand_as(z))
        lengths = mask.sum(1)
        few = lengths * (lengths - 1) // 2 <= PAIRS
        least = int((1 + math.isqrt(1 + 8 * PAIRS)) // 2)  # so many objects have all their pairs
        least = min(least, x.shape[1])
        first, second = torch.triu_indices(least, least, 1)
        there = few[:, None] & (second < lengths[:, None])
        event, column = there.nonzero().unbind(-1)
        parts = [(event, first[column], second[column])]
        if bool((~few).any()):
            generator = torch.Generator().manual_seed(0)
            drawn = torch.rand(len(x), PAIRS, 2, dtype=torch.float64, generator=generator)[~few]
            event = (~few).nonzero()
            many = lengths[event]
            i, j = (drawn[..., 0] * many).long(), (drawn[..., 1] * (many - 1)).long()
            j = j + (j >= i)
            parts.append((event.expand_as(i).reshape(-1), i.reshape(-1), j.reshape(-1)))
        found = [(z[event, i] - z[event, j]).norm(dim=-1) for event, i, j in parts]
        return torch.cat(found), torch.cat([event for event, _, _ in parts])


def checked_objects(batch: SetBatch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return features in float64, the mask and the weights of events, on the CPU.

    Arguments:
        batch: the events, with `x` of shape `(n, N, D)`.

    Raises:
        ValueError: if there is no event, a real object is not finite, or the weights do not sum to
            a positive number.
    """
    if not len(batch):
        raise ValueError("no event to compute observables of")
    x, mask = batch.x.detach().double().cpu(), batch.mask.cpu()
    bad = (mask[..., None] & ~x.isfinite()).any(-1).any(-1)
    if bool(bad.any()):
        raise ValueError(
            f"a feature is not finite in {int(bad.sum())} of {len(x)} events, the first of "
            f"them event {int(bad.nonzero()[0])}; a distance to them is not defined: find out "
            "why they were made, and count them, before cutting them away"
        )
    if batch.weight is not None:
        total_weight(batch.weight, "the weights of the events")
    return x, mask, None if batch.weight is None else batch.weight.cpu()


def _sums(dim: int) -> dict[str, tuple[int, int]]:
    """Return the pairs of features whose sums are compared, by the names of these observables."""
    return {f"sum of {a} and {b}": (a, b) for a, b in itertools.combinations(range(dim), 2)}


def scale_of(width: float) -> float:
    """Return the power of ten in which a distance is quoted, 1% of the width or below."""
    return 10.0 ** (math.floor(math.log10(width)) - 2) if width > 0 else 1.0


def shuffle_objects(batch: SetBatch, generator: torch.Generator) -> SetBatch:
    """Return events whose objects are shuffled between them: the first control.

    All real objects are permuted, whole. This keeps the multiplicity of each event and the spectra
    of the features (whose W1 is exactly 0), and destroys every correlation between the objects of
    an event.

    Arguments:
        batch: the events, with `x` of shape `(n, N, D)`.
        generator: the source of randomness, on the CPU.
    """
    x, real = batch.x.detach().clone(), batch.x[batch.mask].detach()
    x[batch.mask] = real[torch.randperm(len(real), generator=generator).to(real.device)]
    return SetBatch(x, batch.mask, weight=batch.weight)


def swap_features(batch: SetBatch, generator: torch.Generator) -> SetBatch:
    """Return events whose lists of features are swapped between them: the second control.

    Feature by feature, within the k events of one multiplicity, event i takes the list of event
    i + s modulo k, in the order of the objects, with s drawn anew from 0 to k - 1 for each
    multiplicity and feature but the first, which stays. This keeps the lists and the spectra of the
    features (whose W1 is exactly 0), and destroys the correlation between features.

    Arguments:
        batch: the events, with `x` of shape `(n, N, D)`.
        generator: the source of randomness, on the CPU.
    """
    x, mask = batch.x.detach().clone(), batch.mask
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    x, mask = x.gather(1, order[..., None].expand_as(x)), mask.gather(1, order)
    counts = count_real(mask)
    for count in range(1, mask.shape[1] + 1):
        events = (counts == count).nonzero()[:, 0]
        if len(events) < 2:
            continue
        for column in range(1, x.shape[-1]):
            shift = int(torch.randint(len(events), (), generator=generator))
            x[events, :, column] = x[events.roll(-shift), :, column]
    return SetBatch(x, mask, weight=batch.weight)
