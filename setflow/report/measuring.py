"""The numbers of a report: every metric, its error, its floor, its controls and its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    controls: Sequence[Measured],
    procedure: Procedure,
    training: SetBatch | None = None,
) -> Findings:
    """Measure generated events against a reference.

    Arguments:
        generated: the observables of the generated events.
        reference: those of the events of the reference that are compared.
        everything: those of all events of the reference.
        controls: those of the reference shuffled and swapped.
        procedure: what is measured, and how.
        training: the jets that the model was trained on, cut alike; None if they are not known.
    """
    missing = rare_metrics(generated, reference, everything)
    generated, reference, everything, *controls = (
        without_metrics(side, missing) for side in (generated, reference, everything, *controls)
    )
    sides = (generated, reference, everything)
    run = _w1_as_published if procedure.protocol == "jetnet" else _w1
    found, floor, of_controls = run(sides, controls, procedure)
    metrics = {
        metric.name: _result(
            metric,
            found[metric.name],
            Estimate(floor.mean[metric.name], floor.spread[metric.name]),
            [values[metric.name] for values in of_controls],
        )
        for metric in reference.metrics
    }
    jets = [side for side in sides if isinstance(side, Observables)]
    wrong = [side for side in controls if isinstance(side, Observables)]
    for measure in procedure.measures:
        reason = _reason_against(jets, least_jets(measure))
        if reason is None:
            try:
                metrics |= _beyond_w1(measure, jets, wrong, procedure)
            except ImportError as error:
                reason = str(error)
        if reason is not None:
            missing |= {metric.name: reason for metric in metrics_of([measure])}
    copies = None
    if training is not None:
        reason = _reason_against(jets, LEAST)
        if reason is None:
            try:
                result, copies = _memorisation(jets, wrong, training, procedure)
                metrics[MEMORISATION.name] = result
            except ValueError as error:  # half of the reference stands in the training
                reason = str(error)
        if reason is not None:
            missing[MEMORISATION.name] = reason
    return Findings(metrics, floor, missing, copies)


_W1 = tuple[dict[str, Estimate], Floor, list[dict[str, float]]]


def _w1(sides: Sequence[Measured], controls: Sequence[Measured], procedure: Procedure) -> _W1:
    """Return the W1 of whole samples, their floor and the W1 of the controls."""
    generated, reference, everything = sides
    values = distances(generated, reference)
    try:
        estimates = w1_estimates(reference, generated, seed=procedure.seed)
        errors = {name: estimate.error for name, estimate in estimates.items()}
    except ValueError:  # a draw of few events has no object, or no weight that were positive
        errors = {}
    generator = torch.Generator().manual_seed(procedure.seed)
    worths = generated.effective, reference.effective
    floor = truth_floor(everything, *worths, pairs=procedure.pairs, generator=generator)
    found = {name: Estimate(v, errors.get(name, math.nan)) for name, v in values.items()}
    return found, floor, [distances(control, reference) for control in controls]


def _w1_as_published(
    sides: Sequence[Measured], controls: Sequence[Measured], procedure: Procedure
) -> _W1:
    """Return what `_w1` does, by draws with replacement.

    Of a control that is 0 by construction two draws differ nevertheless; it stays 0.
    """
    generated, reference, everything = sides
    assert isinstance(everything, Observables)  # the protocol is one of jets
    protocol, seed, pairs = procedure.protocol, procedure.seed, procedure.pairs
    found, *wrong = (
        w1_estimates(reference, side, protocol, seed=seed) for side in (generated, *controls)
    )
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
    of_controls = []
    for control, drawn in zip(controls, wrong, strict=True):
        whole = distances(control, reference)
        of_controls.append(
            {
                name: 0.0 if is_zero(whole[name], floor.mean[name]) else estimate.value
                for name, estimate in drawn.items()
            }
        )
    return found, floor, of_controls


def _reason_against(sides: Sequence[Observables], least: int) -> str | None:
    """Return why jets cannot be measured by what needs so many of them, or None."""
    if any(side.weight is not None for side in sides):
        return "takes jets that count equally; draw jets in proportion to their weights first"
    fewest = min(map(len, sides))
    if fewest < least:
        return f"needs at least {least:,} jets on each side, and there are {fewest:,}"
    return None


def _beyond_w1(
    measure: str,
    sides: Sequence[Observables],
    controls: Sequence[Observables],
    procedure: Procedure,
) -> dict[str, Result]:
    """Return the metrics of a measure: of generated jets, those of the reference, and all of it."""
    generated, reference, everything = sides
    titles = " and ".join(metric.title for metric in metrics_of([measure]))
    if measure not in FAST_MEASURES:
        procedure.say(f"measuring {titles} of generated jets, of both controls and of the truth")
    seed, device, protocol = procedure.seed, procedure.device, procedure.protocol
    found, *of_controls = (
        fidelity(reference, side, protocol, measures=[measure], seed=seed, device=device)
        for side in (generated, *controls)
    )
    sizes = len(generated), len(reference)
    floor = fidelity_floor(
        everything, protocol, measures=[measure], sizes=sizes, seed=seed, device=device
    )
    return {
        metric.name: _result(
            metric,
            found[metric.name],
            floor[metric.name],
            [control[metric.name].value for control in of_controls],
        )
        for metric in metrics_of([measure])
    }


def _memorisation(
    sides: Sequence[Observables],
    controls: Sequence[Observables],
    training: SetBatch,
    procedure: Procedure,
) -> tuple[Result, Copies]:
    """Return how near generated jets are to the training, and how many stand in it.

    The floor is that of disjoint parts of the reference: 1, and how far one value scatters.

    Raises:
        ValueError: if half of the reference stands in the training.
    """
    generated, reference, everything = sides
    procedure.say(f"looking for the nearest of {len(training):,} jets of the training")
    blocks = (training[k : k + _BLOCK] for k in range(0, len(training), _BLOCK))
    efps = torch.cat([energy_flow_polynomials(b.x.double(), b.mask) for b in blocks])
    known, seed = Training(efps), procedure.seed
    near, far, *wrong = (known.distances(s.efps) for s in (generated, everything, *controls))
    compared = far[: len(reference)]
    found, *of_controls = (distance_ratio(side, compared, seed=seed) for side in (near, *wrong))
    (first, second), ratio = floor_parts(len(far), (len(near), len(compared)))
    rng, values = np.random.default_rng(seed), []
    for _ in range(procedure.pairs):
        order = rng.permutation(len(far))
        parts = far[order[:first]], far[order[first : first + second]]
        values.append(float(np.median(parts[0]) / np.median(parts[1])))
    floor = Estimate(float(np.mean(values)), float(np.std(values, ddof=1)) * math.sqrt(ratio))
    values_of = [control.value for control in of_controls]
    result = _result(MEMORISATION, found, floor, values_of, too_small=True)
    # a jet of one particle is (0, 0, 1), whoever made it
    counts = (
        int(((distance < _TOUCHING) & (side.multiplicity.cpu().numpy() > 1)).sum())
        for distance, side in ((near, generated), (compared, reference))
    )
    return result, Copies(len(training), *counts)


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
