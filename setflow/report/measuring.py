"""The numbers of a report: every metric, its error, its floor, its controls and its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

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
from setflow.physics.metrics import (
    Floor,
    Measured,
    Metric,
    Observables,
    distances,
    truth_floor,
    w1_estimates,
)
from setflow.physics.protocols import Estimate
from setflow.physics.types import rare_metrics, without_metrics
from setflow.report.judging import Result, is_zero, verdict_of
from setflow.sets.batch import SetBatch

__all__ = ["Copies", "Findings", "Procedure", "findings_of"]

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


@dataclass(frozen=True)
class Findings:
    """What was measured between two samples.

    Arguments:
        metrics: the results, by the name of the metric and in the order of the report.
        floor: the floor of the W1, with its sizes and whether it was scaled.
        missing: the metrics that could not be measured, and why.
        copies: which jets stand in the training; None if that was not given.
    """

    metrics: dict[str, Result]
    floor: Floor
    missing: dict[str, str]
    copies: Copies | None = None


def findings_of(
    generated: Measured,
    reference: Measured,
    everything: Measured,
    controls: Iterable[Measured],
    procedure: Procedure,
    training: SetBatch | None = None,
) -> Findings:
    """Measure generated events against a reference.

    Arguments:
        generated: the observables of the generated events.
        reference: those of the events of the reference that are compared.
        everything: those of all events of the reference.
        controls: those of the reference shuffled and swapped; they are asked for one after the
            other, and none is kept.
        procedure: what is measured, and how.
        training: the jets that the model was trained on, cut alike; None if they are not known.
    """
    missing = rare_metrics(generated, reference, everything)
    generated, reference, everything = (
        without_metrics(side, missing) for side in (generated, reference, everything)
    )
    found, floor = _w1(generated, reference, everything, procedure)
    floors = {name: Estimate(mean, floor.spread[name]) for name, mean in floor.mean.items()}
    metrics = [*reference.metrics]
    jets = [side for side in (generated, reference, everything) if isinstance(side, Observables)]
    running = []
    for measure in procedure.measures:
        reason = _reason_against(jets, least_jets(measure))
        if reason is None:
            try:
                found |= _beyond_w1(measure, jets[0], jets[1], procedure, "generated jets")
                floors |= _floor_beyond_w1(measure, jets, procedure)
                running.append(measure)
            except ImportError as error:
                reason = str(error)
        if reason is None:
            metrics += metrics_of([measure])
        else:
            missing |= {metric.name: reason for metric in metrics_of([measure])}
    memory, ratio = (None, None) if training is None else _memory_of(jets, training, procedure)
    if isinstance(ratio, str):
        missing[MEMORISATION.name] = ratio
    elif memory is not None and ratio is not None:
        metrics.append(MEMORISATION)
        found[MEMORISATION.name], floors[MEMORISATION.name] = ratio, memory.floor()

    def of_control(control: Measured) -> dict[str, float]:
        control = without_metrics(control, missing)
        values = _w1_of_control(control, reference, floor, procedure)
        if isinstance(control, Observables):
            for measure in running:
                of_measure = _beyond_w1(measure, control, jets[1], procedure, "a control")
                values |= {name: estimate.value for name, estimate in of_measure.items()}
            if memory is not None and MEMORISATION in metrics:
                values[MEMORISATION.name] = memory.of_control(control)
        return values

    of_controls = list(map(of_control, controls))
    results = {
        metric.name: _result(
            metric,
            found[metric.name],
            floors[metric.name],
            [values[metric.name] for values in of_controls],
            too_small=metric is MEMORISATION,
        )
        for metric in metrics
    }
    copies = None if memory is None else memory.copies()
    return Findings(results, floor, missing, copies)


def _w1(
    generated: Measured, reference: Measured, everything: Measured, procedure: Procedure
) -> tuple[dict[str, Estimate], Floor]:
    """Return W1 of generated events, and its floor."""
    if procedure.protocol == "jetnet":
        return _w1_as_published(generated, reference, everything, procedure)
    values = distances(generated, reference)
    try:
        estimates = w1_estimates(reference, generated, seed=procedure.seed)
        errors = {name: estimate.error for name, estimate in estimates.items()}
    except ValueError:  # a draw of few events has no object, or no weight that were positive
        errors = {}
    generator = torch.Generator().manual_seed(procedure.seed)
    worths = generated.effective, reference.effective
    floor = truth_floor(everything, *worths, pairs=procedure.pairs, generator=generator)
    return {name: Estimate(v, errors.get(name, math.nan)) for name, v in values.items()}, floor


def _w1_as_published(
    generated: Measured, reference: Measured, everything: Measured, procedure: Procedure
) -> tuple[dict[str, Estimate], Floor]:
    """Return what `_w1` does, by draws with replacement."""
    assert isinstance(everything, Observables)  # the protocol is one of jets
    protocol, seed, pairs = procedure.protocol, procedure.seed, procedure.pairs
    found = w1_estimates(reference, generated, protocol, seed=seed)
    sizes = len(generated), len(reference)
    estimates = fidelity_floor(
        everything, protocol, measures=["w1"], sizes=sizes, pairs=pairs, seed=seed
    )
    parts, ratio = floor_parts(len(everything), sizes)
    floor = Floor(
        {name: estimate.value for name, estimate in estimates.items()},
        {name: estimate.error for name, estimate in estimates.items()},
        pairs,
        parts,
        parts != sizes,
        math.sqrt(ratio),
    )
    return found, floor


def _w1_of_control(
    control: Measured, reference: Measured, floor: Floor, procedure: Procedure
) -> dict[str, float]:
    """Return W1 of a control.

    Where it is 0 by construction it stays so in the protocol of draws, of which two differ.
    """
    whole = distances(control, reference)
    if procedure.protocol != "jetnet":
        return whole
    drawn = w1_estimates(reference, control, procedure.protocol, seed=procedure.seed)
    return {
        name: 0.0 if is_zero(whole[name], floor.mean[name]) else estimate.value
        for name, estimate in drawn.items()
    }


def _reason_against(sides: Sequence[Observables], least: int) -> str | None:
    """Return why jets cannot be measured by what needs so many of them, or None."""
    if any(side.weight is not None for side in sides):
        return "takes jets that count equally; draw jets in proportion to their weights first"
    fewest = min(map(len, sides))
    if fewest < least:
        return f"needs at least {least:,} jets on each side, and there are {fewest:,}"
    return None


def _titles(measure: str) -> str:
    return " and ".join(metric.title for metric in metrics_of([measure]))


def _beyond_w1(
    measure: str, side: Observables, reference: Observables, procedure: Procedure, what: str
) -> dict[str, Estimate]:
    """Return the metrics of a measure, of generated jets or of a control."""
    if measure not in FAST_MEASURES:
        procedure.say(f"measuring {_titles(measure)} of {what}")
    return fidelity(
        reference,
        side,
        procedure.protocol,
        measures=[measure],
        seed=procedure.seed,
        device=procedure.device,
    )


def _floor_beyond_w1(
    measure: str, sides: Sequence[Observables], procedure: Procedure
) -> dict[str, Estimate]:
    """Return the floors of a measure, for generated jets and those of the reference."""
    generated, reference, everything = sides
    if measure not in FAST_MEASURES:
        procedure.say(f"measuring {_titles(measure)} of the truth against itself")
    return fidelity_floor(
        everything,
        procedure.protocol,
        measures=[measure],
        sizes=(len(generated), len(reference)),
        seed=procedure.seed,
        device=procedure.device,
    )


class _Memory:
    """How near jets are to those of the training.

    Arguments:
        sides: the generated jets, those of the reference that are compared, and all of it, of
            which those are the first.
        training: the jets of the training.
        procedure: what tells how many pairs, and the seed.

    Raises:
        ValueError: if there is no jet of the training, or a value is not finite.
    """

    def __init__(
        self, sides: Sequence[Observables], training: SetBatch, procedure: Procedure
    ) -> None:
        procedure.say(f"looking for the nearest of {len(training):,} jets of the training")
        blocks = (training[k : k + _BLOCK] for k in range(0, len(training), _BLOCK))
        efps = torch.cat([energy_flow_polynomials(b.x.double(), b.mask) for b in blocks])
        self._known, self._procedure, self._sides = Training(efps), procedure, sides
        self._training = len(training)
        self._near, self._far = (self._known.distances(sides[k].efps) for k in (0, 2))
        self._compared = self._far[: len(sides[1])]

    def ratio(self) -> Estimate:
        """Return how far generated jets are from the nearest of the training, over the reference.

        Raises:
            ValueError: if half of the reference stands in the training.
        """
        return distance_ratio(self._near, self._compared, seed=self._procedure.seed)

    def of_control(self, control: Observables) -> float:
        """Return how far the jets of a control are from the nearest, over the reference."""
        near = self._known.distances(control.efps)
        return distance_ratio(near, self._compared, seed=self._procedure.seed).value

    def floor(self) -> Estimate:
        """Return the ratio of disjoint parts of the reference, 1, and how far it scatters."""
        sizes = len(self._sides[0]), len(self._compared)
        (first, second), ratio = floor_parts(len(self._far), sizes)
        rng, values = np.random.default_rng(self._procedure.seed), []
        for _ in range(self._procedure.pairs):
            order = rng.permutation(len(self._far))
            parts = self._far[order[:first]], self._far[order[first : first + second]]
            values.append(float(np.median(parts[0]) / np.median(parts[1])))
        return Estimate(float(np.mean(values)), float(np.std(values, ddof=1)) * math.sqrt(ratio))

    def copies(self) -> Copies:
        """Return how many of the generated jets and of the reference stand in the training."""
        # a jet of one particle is (0, 0, 1), whoever made it
        counts = (
            int(((distance < _TOUCHING) & (side.multiplicity.cpu().numpy() > 1)).sum())
            for distance, side in zip((self._near, self._compared), self._sides, strict=False)
        )
        return Copies(self._training, *counts)


def _memory_of(
    sides: Sequence[Observables], training: SetBatch, procedure: Procedure
) -> tuple[_Memory | None, Estimate | str]:
    """Return how near jets are to those of the training, and the ratio or why it cannot be told.

    Jets that stand in the training are counted where there are too few for a ratio, too.
    """
    reason = _reason_against(sides, LEAST)
    memory = None
    try:
        memory = _Memory(sides, training, procedure)
        return memory, reason or memory.ratio()
    except ValueError as error:  # half of the reference stands in the training
        return memory, reason or str(error)


def _result(
    metric: Metric,
    found: Estimate,
    floor: Estimate,
    controls: Sequence[float],
    *,
    too_small: bool = False,
) -> Result:
    named: Mapping[str, float] = dict(zip(("shuffled", "swapped"), controls, strict=True))
    error = None if math.isnan(found.error) else found.error
    verdict = verdict_of(
        found.value,
        floor.value,
        max(floor.error, error or 0.0),
        named,
        larger_is_better=metric.larger_is_better,
        too_small=too_small,
    )
    return Result(
        value=found.value,
        error=error,
        floor=floor.value,
        floor_spread=floor.error,
        **named,
        unit=metric.unit,
        verdict=verdict,
    )
