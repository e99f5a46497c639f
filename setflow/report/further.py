"""What a report measures of jets beside W1: each of `MEASURES`, and the training's nearest jets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from setflow.physics.efps import energy_flow_polynomials
from setflow.physics.measures import (
    FAST_MEASURES,
    fidelity,
    fidelity_floor,
    floor_parts,
    least_jets,
    metrics_of,
)
from setflow.physics.memorisation import LEAST, MEMORISATION, Training, distance_ratio
from setflow.physics.metrics import Metric, Observables
from setflow.physics.protocols import Estimate
from setflow.sets.batch import SetBatch

__all__ = ["Copies", "Further", "OfMeasure", "OfTraining", "Procedure", "Sides", "UnmeasuredError"]

_BLOCK = 4096  # jets
_TOUCHING = 1e-9  # standard deviations: what rounding leaves between a jet and itself


@dataclass(frozen=True)
class Procedure:
    """How two samples are compared.

    Arguments:
        measures: which of `setflow.physics.MEASURES` beside W1; none for sets that are no jets.
        protocol: one of `setflow.physics.PROTOCOLS`.
        seed: the seed of draws, floors and trainings.
        pairs: the number of pairs of parts of the reference that the floor of W1 is taken from.
        device: where the transformer trains.
        say: is told what takes long.
    """

    measures: Sequence[str]
    protocol: str
    seed: int
    pairs: int
    device: str
    say: Callable[[str], None]


class Sides(NamedTuple):
    """The observables of jets.

    Arguments:
        generated: those of the generated jets.
        reference: those of the jets of the reference that are compared.
        everything: those of all jets of the reference, of which these are the first.
    """

    generated: Observables
    reference: Observables
    everything: Observables


@dataclass(frozen=True)
class Copies:
    """How many jets stand in the training, particle for particle.

    Arguments:
        training: the number of jets of the training.
        generated: how many of the generated jets stand there.
        reference: how many of those of the reference that are compared.
    """

    training: int
    generated: int
    reference: int


class UnmeasuredError(Exception):
    """Metrics have no value; the text says why."""


class Further(Protocol):
    """A measure beside W1."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """The metrics that it gives."""

    def values(self, sides: Sides) -> dict[str, Estimate]:
        """Return the metrics of the generated jets.

        Raises:
            UnmeasuredError: if these jets have none.
        """

    def floors(self, sides: Sides) -> dict[str, Estimate]:
        """Return those of the truth against itself."""

    def of_control(self, control: Observables, reference: Observables) -> dict[str, float]:
        """Return those of a control against the jets of the reference that are compared."""


class OfMeasure:
    """One of `MEASURES`.

    Arguments:
        measure: its name.
        procedure: how jets are compared.
    """

    def __init__(self, measure: str, procedure: Procedure) -> None:
        self._measure, self._procedure = measure, procedure
        self.metrics = metrics_of([measure])

    def values(self, sides: Sides) -> dict[str, Estimate]:
        _require_equal(sides, least_jets(self._measure))
        try:
            return self._of(sides.generated, sides.reference, "generated jets")
        except ImportError as error:
            raise UnmeasuredError(str(error)) from error

    def floors(self, sides: Sides) -> dict[str, Estimate]:
        self._say("the truth against itself")
        return fidelity_floor(
            sides.everything,
            self._procedure.protocol,
            measures=[self._measure],
            sizes=(len(sides.generated), len(sides.reference)),
            seed=self._procedure.seed,
            device=self._procedure.device,
        )

    def of_control(self, control: Observables, reference: Observables) -> dict[str, float]:
        found = self._of(control, reference, "a control")
        return {name: estimate.value for name, estimate in found.items()}

    def _of(self, side: Observables, reference: Observables, what: str) -> dict[str, Estimate]:
        self._say(what)
        return fidelity(
            reference,
            side,
            self._procedure.protocol,
            measures=[self._measure],
            seed=self._procedure.seed,
            device=self._procedure.device,
        )

    def _say(self, what: str) -> None:
        if self._measure not in FAST_MEASURES:
            titles = " and ".join(metric.title for metric in self.metrics)
            self._procedure.say(f"measuring {titles} of {what}")


class OfTraining:
    """How near jets are to those of the training.

    Arguments:
        sides: the jets.
        training: the jets of the training.
        procedure: what tells how many pairs, and the seed.

    Attributes:
        copies: how many of the jets stand in the training; they are counted where there are too few
            for a ratio, too.

    Raises:
        ValueError: if there is no jet of the training, or a value is not finite.
    """

    metrics = (MEMORISATION,)

    def __init__(self, sides: Sides, training: SetBatch, procedure: Procedure) -> None:
        procedure.say(f"looking for the nearest of {len(training):,} jets of the training")
        blocks = (training[k : k + _BLOCK] for k in range(0, len(training), _BLOCK))
        efps = torch.cat([energy_flow_polynomials(b.x.double(), b.mask) for b in blocks])
        self._known, self._procedure = Training(efps), procedure
        self._near, self._far = (
            self._known.distances(side.efps) for side in (sides.generated, sides.everything)
        )
        self._compared = self._far[: len(sides.reference)]
        # a jet of one particle is (0, 0, 1), whoever made it
        counts = (
            int(((distance < _TOUCHING) & (side.multiplicity.cpu().numpy() > 1)).sum())
            for distance, side in zip((self._near, self._compared), sides, strict=False)
        )
        self.copies = Copies(len(training), *counts)

    def values(self, sides: Sides) -> dict[str, Estimate]:
        _require_equal(sides, LEAST)
        try:
            ratio = distance_ratio(self._near, self._compared, seed=self._procedure.seed)
        except ValueError as error:  # half of the reference stands in the training
            raise UnmeasuredError(str(error)) from error
        return {MEMORISATION.name: ratio}

    def floors(self, sides: Sides) -> dict[str, Estimate]:
        """Return the ratio of disjoint parts of the reference, 1, and how far it scatters."""
        (first, second), ratio = floor_parts(
            len(self._far), (len(sides.generated), len(sides.reference))
        )
        rng, found = np.random.default_rng(self._procedure.seed), []
        for _ in range(self._procedure.pairs):
            order = rng.permutation(len(self._far))
            parts = self._far[order[:first]], self._far[order[first : first + second]]
            found.append(float(np.median(parts[0]) / np.median(parts[1])))
        scatter = float(np.std(found, ddof=1)) * math.sqrt(ratio)
        return {MEMORISATION.name: Estimate(float(np.mean(found)), scatter)}

    def of_control(self, control: Observables, reference: Observables) -> dict[str, float]:
        near = self._known.distances(control.efps)
        ratio = distance_ratio(near, self._compared, seed=self._procedure.seed)
        return {MEMORISATION.name: ratio.value}


def _require_equal(sides: Sides, least: int) -> None:
    """Check that jets count equally, and that there are so many.

    Raises:
        UnmeasuredError: if they do not, or there are fewer.
    """
    if any(side.weight is not None for side in sides):
        raise UnmeasuredError(
            "takes jets that count equally; draw jets in proportion to their weights first"
        )
    fewest = min(map(len, sides))
    if fewest < least:
        raise UnmeasuredError(
            f"needs at least {least:,} jets on each side, and there are {fewest:,}"
        )
