"""The numbers of a report: every metric, its error, its floor, its controls and its verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from setflow.physics.measures import fidelity_floor, floor_parts
from setflow.physics.memorisation import MEMORISATION
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
from setflow.report.further import (
    Copies,
    Further,
    OfMeasure,
    OfTraining,
    Procedure,
    Sides,
    UnmeasuredError,
)
from setflow.report.judging import Result, is_zero, verdict_of
from setflow.sets.batch import SetBatch

__all__ = ["Findings", "Values", "findings_of", "values_of"]


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


@dataclass(frozen=True)
class Values:
    """What was measured between two samples, before the controls.

    Arguments:
        metrics: what could be measured, in the order of the report.
        found: the value and error of each, by name.
        floors: its floor.
        floor: that of the W1.
        missing: the metrics that could not be measured, and why.
        copies: which jets stand in the training; None if that was not given.
        further: what measures the metrics beside W1.
        procedure: how it was measured.
    """

    metrics: Sequence[Metric]
    found: Mapping[str, Estimate]
    floors: Mapping[str, Estimate]
    floor: Floor
    missing: dict[str, str]
    copies: Copies | None
    further: Sequence[Further]
    procedure: Procedure


def values_of(
    generated: Measured,
    reference: Measured,
    everything: Measured,
    procedure: Procedure,
    training: SetBatch | None = None,
) -> Values:
    """Measure generated events against a reference.

    Arguments:
        generated: the observables of the generated events.
        reference: those of the events of the reference that are compared.
        everything: those of all events of the reference.
        procedure: what is measured, and how.
        training: the jets that the model was trained on, cut alike; None if they are not known.
    """
    missing = rare_metrics(generated, reference, everything)
    generated, reference, everything = (
        without_metrics(side, missing) for side in (generated, reference, everything)
    )
    found, floor = _w1(generated, reference, everything, procedure)
    floors = {name: Estimate(mean, floor.spread[name]) for name, mean in floor.mean.items()}
    metrics, running, copies = [*reference.metrics], [], None
    jets = [side for side in (generated, reference, everything) if isinstance(side, Observables)]
    if len(jets) == len(Sides._fields):
        sides = Sides(*jets)
        further: list[Further] = [OfMeasure(name, procedure) for name in procedure.measures]
        if training is not None:
            near = OfTraining(sides, training, procedure)
            copies = near.copies
            further.append(near)
        for measure in further:
            try:
                found |= measure.values(sides)
            except UnmeasuredError as reason:
                missing |= {metric.name: str(reason) for metric in measure.metrics}
                continue
            floors |= measure.floors(sides)
            metrics += measure.metrics
            running.append(measure)
    return Values(metrics, found, floors, floor, missing, copies, running, procedure)


def findings_of(values: Values, reference: Measured, controls: Iterable[Measured]) -> Findings:
    """Measure the controls, and judge the values.

    Arguments:
        values: what was measured of the generated events.
        reference: the observables of the events of the reference that are compared.
        controls: those of the reference shuffled and swapped; they are asked for one after the
            other, and none is kept.
    """
    reference = without_metrics(reference, values.missing)

    def of_control(control: Measured) -> dict[str, float]:
        control = without_metrics(control, values.missing)
        found = _w1_of_control(control, reference, values.floor, values.procedure)
        if isinstance(control, Observables) and isinstance(reference, Observables):
            for measure in values.further:
                found |= measure.of_control(control, reference)
        return found

    of_controls = list(map(of_control, controls))
    results = {
        metric.name: _result(
            metric,
            values.found[metric.name],
            values.floors[metric.name],
            [found[metric.name] for found in of_controls],
            too_small=metric is MEMORISATION,
        )
        for metric in values.metrics
    }
    return Findings(results, values.floor, values.missing, values.copies)


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
