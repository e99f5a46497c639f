"""The numbers of a report: every metric, its error, its floor, its controls and its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from setflow.physics.measures import (
    FAST_MEASURES,
    fidelity,
    fidelity_floor,
    least_jets,
    metrics_of,
)
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
from setflow.report.judging import Result, verdict_of

__all__ = ["Findings", "findings_of"]


@dataclass(frozen=True)
class Findings:
    """What was measured between two samples.

    Arguments:
        metrics: the results, by the name of the metric and in the order of the report.
        floor: the floor of the W1, with its sizes and whether it was scaled.
        missing: the metrics that could not be measured, and why.
    """

    metrics: dict[str, Result]
    floor: Floor
    missing: dict[str, str]


def findings_of(
    generated: Measured,
    reference: Measured,
    everything: Measured,
    controls: Sequence[Measured],
    *,
    measures: Sequence[str],
    seed: int,
    pairs: int,
    say: Callable[[str], None],
) -> Findings:
    """Measure generated events against a reference.

    Arguments:
        generated: the observables of the generated events.
        reference: those of the events of the reference that are compared.
        everything: those of all events of the reference.
        controls: those of the reference shuffled and swapped.
        measures: which of `setflow.physics.MEASURES` beside W1; none for sets that are no jets.
        seed: the seed of draws, floors and trainings.
        pairs: the number of pairs of parts of the reference that the floor of W1 is taken from.
        say: is told what takes long.
    """
    values = distances(generated, reference)
    try:
        errors = {k: e.error for k, e in w1_estimates(reference, generated, seed=seed).items()}
    except ValueError:  # a draw of few events has no object, or no weight that were positive
        errors = {}
    generator = torch.Generator().manual_seed(seed)
    worths = generated.effective, reference.effective
    floor = truth_floor(everything, *worths, pairs=pairs, generator=generator)
    of_controls = [distances(control, reference) for control in controls]
    metrics = {
        metric.name: _result(
            metric,
            Estimate(values[metric.name], errors.get(metric.name, math.nan)),
            Estimate(floor.mean[metric.name], floor.spread[metric.name]),
            [found[metric.name] for found in of_controls],
        )
        for metric in reference.metrics
    }
    missing: dict[str, str] = {}
    for measure in measures:
        jets = [
            side for side in (generated, reference, everything) if isinstance(side, Observables)
        ]
        wrong = [side for side in controls if isinstance(side, Observables)]
        reason = _reason_against(measure, jets)
        if reason is None:
            try:
                metrics |= _beyond_w1(measure, jets, wrong, seed, say)
            except ImportError as error:
                reason = str(error)
        if reason is not None:
            missing |= {metric.name: reason for metric in metrics_of([measure])}
    return Findings(metrics, floor, missing)


def _reason_against(measure: str, sides: Sequence[Observables]) -> str | None:
    """Return why jets cannot be measured so, or None."""
    if any(side.weight is not None for side in sides):
        return "takes jets that count equally; draw jets in proportion to their weights first"
    least, fewest = least_jets(measure), min(map(len, sides))
    if fewest < least:
        return f"needs at least {least:,} jets on each side, and there are {fewest:,}"
    return None


def _beyond_w1(
    measure: str,
    sides: Sequence[Observables],
    controls: Sequence[Observables],
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Result]:
    """Return the metrics of a measure: of generated jets, those of the reference, and all of it."""
    generated, reference, everything = sides
    titles = " and ".join(metric.title for metric in metrics_of([measure]))
    if measure not in FAST_MEASURES:
        say(f"measuring {titles} of generated jets, of both controls and of the truth")
    sizes = len(generated), len(reference)
    found, *of_controls = (
        fidelity(reference, side, measures=[measure], seed=seed) for side in (generated, *controls)
    )
    floor = fidelity_floor(everything, measures=[measure], sizes=sizes, seed=seed)
    return {
        metric.name: _result(
            metric,
            found[metric.name],
            floor[metric.name],
            [control[metric.name].value for control in of_controls],
        )
        for metric in metrics_of([measure])
    }


def _result(metric: Metric, found: Estimate, floor: Estimate, controls: Sequence[float]) -> Result:
    shuffled, swapped = controls
    error = None if math.isnan(found.error) else found.error
    verdict = verdict_of(
        found.value,
        floor.value,
        max(floor.error, error or 0.0),
        {"shuffled": shuffled, "swapped": swapped},
        larger_is_better=metric.larger_is_better,
    )
    return Result(
        value=found.value,
        error=error,
        floor=floor.value,
        floor_spread=floor.error,
        shuffled=shuffled,
        swapped=swapped,
        unit=metric.unit,
        verdict=verdict,
    )
