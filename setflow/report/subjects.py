"""What a comparison is of, jets, whole events or other sets: what is measured, and the controls.

`setflow.report.comparing` compares whatever it gets by one procedure; what differs between jets,
whole events and sets of other features is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from setflow.physics.collisions import (
    CollisionMeasure,
    is_collision,
    shuffle_within_types,
    swap_directions,
)
from setflow.physics.controls import shuffle_particles, swap_ptrel
from setflow.physics.kinematics import by_falling_pt, hardest_first, in_order
from setflow.physics.measures import MEASURES
from setflow.physics.metrics import METRICS, Measured, Metric, observables
from setflow.physics.sets import SetMeasure, shuffle_objects, swap_features
from setflow.physics.types import EXPLAINED, TITLES, JetTypes, are_typed_jets
from setflow.report.judging import CONTROLS, Result
from setflow.schema import (
    EVENT_WORDS,
    JET_WORDS,
    JETNET,
    TYPED_JETNET,
    Feature,
    Schema,
    Words,
    kept_objects,
    names,
)
from setflow.sets.batch import SetBatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Collisions", "Jets", "Sets", "Subject", "TypedJets", "subject_of"]

_BLOCK = 4096  # events


class Subject(ABC):
    """What a comparison is of.

    Attributes:
        words: what events and objects are called.
        features: the features of an object.
        metrics: the W1 metrics, in the order of the report.
        measures: what can be measured, of `setflow.physics.MEASURES`.
        swapped: what the second control swaps, in words.
        lists: the same in one word.
        controls_told: what both controls are, a sentence for each.
        titles: what stands above pictures, by their names, where no other subject has them.
    """

    words: ClassVar[Words]
    features: Sequence[Feature]
    metrics: tuple[Metric, ...]
    measures: ClassVar[tuple[str, ...]]
    swapped: str
    lists: ClassVar[str]
    controls_told: ClassVar[tuple[str, ...]]
    titles: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def kept(self, columns: int) -> str:
        """Return which objects are compared where events are cut, in words."""

    @abstractmethod
    def cut(self, batch: SetBatch, columns: int) -> SetBatch:
        """Return events with so many slots, real objects first; as they are if they are so."""

    @abstractmethod
    def measured(self, batch: SetBatch) -> Measured:
        """Return the observables of events that are cut."""

    @abstractmethod
    def controls(self, reference: SetBatch, columns: int, seed: int) -> Iterator[SetBatch]:
        """Yield the reference shuffled, then swapped, cut to so many slots."""

    @abstractmethod
    def draw(
        self,
        batches: tuple[SetBatch, SetBatch],
        measured: tuple[Any, Any],
        results: Mapping[str, Result],
        origin: str,
        jet_pt: float | None,
    ) -> dict[str, Figure]:
        """Return the pictures of generated and reference events, by name.

        Arguments:
            batches: the events of both sides, cut.
            measured: their observables.
            results: the metrics, by name.
            origin: what is compared, in a line.
            jet_pt: the median jet pT of the reference in GeV, of jets where it is known.
        """


class Jets(Subject):
    """Jets of particles (etarel, phirel, ptrel)."""

    words = JET_WORDS
    features = JETNET.objects
    metrics: tuple[Metric, ...] = METRICS
    measures = MEASURES
    swapped = "ptrel"
    lists = "momenta"
    controls_told: ClassVar[tuple[str, ...]] = CONTROLS["jets"]

    def kept(self, columns: int) -> str:
        return f"the {columns} hardest particles of a jet, those with the largest ptrel"

    def cut(self, batch: SetBatch, columns: int) -> SetBatch:
        if batch.mask.shape[1] == columns and in_order(batch.x[..., 2], batch.mask):
            return batch
        return SetBatch(*self._hardest(batch, columns), weight=batch.weight)

    def _hardest(self, batch: SetBatch, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        return hardest_first(batch.x, batch.mask, columns)

    def measured(self, batch: SetBatch) -> Measured:
        return observables(batch.x, batch.mask, batch.weight)

    def controls(self, reference: SetBatch, columns: int, seed: int) -> Iterator[SetBatch]:
        cut = self.cut(reference, columns)
        x, mask = shuffle_particles(cut.x, cut.mask, _generator(seed))
        del cut  # nothing of it is kept here while it is measured
        for k in range(0, len(x), _BLOCK):  # sorted in its place, for a copy is as large
            there = slice(k, k + _BLOCK)
            x[there], _ = self._hardest(SetBatch(x[there], mask[there]), columns)
        yield SetBatch(x, mask, weight=reference.weight)
        del x, mask
        yield self.cut(_swapped(reference, seed), columns)

    def draw(
        self,
        batches: tuple[SetBatch, SetBatch],
        measured: tuple[Any, Any],
        results: Mapping[str, Result],
        origin: str,
        jet_pt: float | None,
    ) -> dict[str, Figure]:
        from setflow.report import figures  # numbers alone need no mplhep

        return figures.draw_jets(batches, measured, results, origin=origin, jet_pt=jet_pt)


class TypedJets(Jets):
    """Jets of particles (etarel, phirel, ptrel, type).

    Arguments:
        reference: all jets of the reference, which tell what types are compared.
    """

    features = TYPED_JETNET.objects
    controls_told = (*CONTROLS["jets"], *EXPLAINED)
    titles = TITLES

    def __init__(self, reference: SetBatch) -> None:
        self._measure = JetTypes(reference)
        self.metrics = (*METRICS, *self._measure.metrics)

    def _hardest(self, batch: SetBatch, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.where(batch.mask[..., None], batch.x, 0)
        return by_falling_pt(x, batch.mask, columns)

    def measured(self, batch: SetBatch) -> Measured:
        return self._measure(batch)

    def draw(
        self,
        batches: tuple[SetBatch, SetBatch],
        measured: tuple[Any, Any],
        results: Mapping[str, Result],
        origin: str,
        jet_pt: float | None,
    ) -> dict[str, Figure]:
        from setflow.report import type_figures

        generated, reference = (
            SetBatch(side.x[..., :3], side.mask, weight=side.weight) for side in batches
        )
        drawn = super().draw((generated, reference), measured, results, origin, jet_pt)
        return drawn | type_figures.draw_types(measured, results, origin=origin)


class Sets(Subject):
    """Sets of any features.

    Arguments:
        schema: the features of an object, numbers on a line, and the feature by which the largest
            are kept where events are cut.
        reference: all events of the reference, which give the scales.
    """

    words = EVENT_WORDS
    measures = ("w1",)
    swapped = "each feature but the first"
    lists = "features"
    controls_told = CONTROLS["events"]
    measure: Callable[..., Any] = SetMeasure.of

    def __init__(self, schema: Schema, reference: SetBatch) -> None:
        self.features, self._schema = tuple(schema.objects), schema
        self._measure = self.measure(self.features, reference)
        self.metrics = self._measure.metrics

    def kept(self, columns: int) -> str:
        return kept_objects(self._schema, columns)

    def cut(self, batch: SetBatch, columns: int) -> SetBatch:
        return _largest(batch, self._schema, columns)

    def measured(self, batch: SetBatch) -> Measured:
        measured: Measured = self._measure(batch)
        return measured

    def controls(self, reference: SetBatch, columns: int, seed: int) -> Iterator[SetBatch]:
        yield shuffle_objects(self.cut(reference, columns), _generator(seed))
        yield self.cut(swap_features(reference, _generator(seed)), columns)

    def draw(
        self,
        batches: tuple[SetBatch, SetBatch],
        measured: tuple[Any, Any],
        results: Mapping[str, Result],
        origin: str,
        jet_pt: float | None,
    ) -> dict[str, Figure]:
        from setflow.report import set_figures

        return set_figures.draw_sets(self._schema, batches, measured, results, origin=origin)


class Collisions(Sets):
    """Whole events of a collider: leptons, photons, jets and missing momentum.

    Arguments:
        schema: the features of an object, those of `setflow.schema.COLLISIONS` among them.
        reference: all events of the reference, which decide what is compared.
    """

    swapped = "eta and phi"
    lists = "directions"
    controls_told = CONTROLS["collisions"]

    measure = CollisionMeasure

    def controls(self, reference: SetBatch, columns: int, seed: int) -> Iterator[SetBatch]:
        yield self.cut(shuffle_within_types(reference, self.features, _generator(seed)), columns)
        yield self.cut(swap_directions(reference, self.features, _generator(seed)), columns)

    def draw(
        self,
        batches: tuple[SetBatch, SetBatch],
        measured: tuple[Any, Any],
        results: Mapping[str, Result],
        origin: str,
        jet_pt: float | None,
    ) -> dict[str, Figure]:
        from setflow.report import collision_figures

        return collision_figures.draw_collisions(
            self.features, batches, measured, results, origin=origin
        )


def _swapped(jets: SetBatch, seed: int) -> SetBatch:
    return SetBatch(*swap_ptrel(jets.x, jets.mask, _generator(seed)), weight=jets.weight)


def subject_of(schema: Schema | None, reference: SetBatch) -> Subject:
    """Return what a comparison is of.

    Arguments:
        schema: what the features are; None means jets, `setflow.schema.TYPED_JETNET` those whose
            particles have types.
        reference: all events of the reference.
    """
    if schema is None:
        return Jets()
    if are_typed_jets(schema.objects):
        return TypedJets(reference)
    return (Collisions if is_collision(schema.objects) else Sets)(schema, reference)


def _largest(batch: SetBatch, schema: Schema, columns: int) -> SetBatch:
    """Return events with so many slots, the objects first that are largest by the schema."""
    by = torch.zeros(batch.mask.shape, device=batch.x.device)
    if schema.order_by is not None:
        by = -batch.x[..., names(schema.objects).index(schema.order_by)]
    by = torch.where(batch.mask, by, torch.inf)
    order = by.argsort(dim=1, stable=True)[:, :columns]
    x = batch.x.gather(1, order[..., None].expand(*order.shape, batch.x.shape[-1]))
    return SetBatch(x, batch.mask.gather(1, order), weight=batch.weight)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
