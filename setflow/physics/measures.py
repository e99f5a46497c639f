"""Everything that is measured between generated and true jets, by name, and its floor.

    real, generated = observables(x, mask), observables(y, y_mask)
    found = fidelity(real, generated)                      # name -> value and error
    floor = fidelity_floor(real)                           # the same between parts of the truth
    control = fidelity(real, observables(*shuffle_particles(x, mask, generator)))

A value means nothing without its floor, and says what it can see only beside the controls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from setflow.physics.classifier import transformer_auc, trees_auc
from setflow.physics.frechet import fpd
from setflow.physics.kernel import kpd
from setflow.physics.memorisation import MEMORISATION
from setflow.physics.metrics import w1_estimates
from setflow.physics.protocols import Estimate, check_protocol
from setflow.physics.samples import METRICS, Metric, Observables, require_equal_jets
from setflow.physics.transport import coverage_and_mmd

__all__ = [
    "FAST_MEASURES",
    "MEASURES",
    "fidelity",
    "fidelity_floor",
    "floor_parts",
    "least_jets",
    "metrics_of",
    "title_of",
]


_Device = str | torch.device


@dataclass(frozen=True)
class _Measure:
    """A way to compare two samples of jets.

    Arguments:
        metrics: the metrics that it gives.
        run: returns them, of the real and the generated jets, the protocol, a seed and the device
            to train on.
        least: with fewer jets on a side the values are mostly chance.
        pairs: how many pairs of parts of the truth its floor takes.
        truth: what is expected between samples of one truth, with few jets as with many; None where
            the mean itself falls with their number.
        power: the power of 1 / n that the distance from there falls with.
        particles: whether it looks at particles, and not at observables of jets alone.
    """

    metrics: tuple[Metric, ...]
    run: Callable[[Observables, Observables, str, int, _Device], dict[str, Estimate]]
    least: int
    pairs: int
    truth: float | None
    power: float
    particles: bool = False


_MEASURES = {
    "w1": _Measure(
        METRICS,
        lambda real, generated, protocol, seed, _: w1_estimates(
            real, generated, protocol, seed=seed
        ),
        least=1,
        pairs=5,
        truth=None,
        power=0.5,
        particles=True,
    ),
    "fpd": _Measure(
        (Metric("fpd", "FPD", (), ""),),
        lambda real, generated, protocol, seed, _: {
            "fpd": fpd(real.efps, generated.efps, protocol, seed=seed)
        },
        least=1000,
        pairs=5,
        truth=0.0,
        power=1.0,
    ),
    "kpd": _Measure(
        (Metric("kpd", "KPD", (), "", 1e-5),),
        lambda real, generated, protocol, seed, _: {
            "kpd": kpd(real.efps, generated.efps, protocol, seed=seed)
        },
        least=1000,
        pairs=5,
        truth=0.0,
        power=1.0,
    ),
    "trees": _Measure(
        (Metric("auc_trees", "AUC trees", (), "", 1.0),),
        lambda real, generated, _, seed, __: {"auc_trees": trees_auc(real, generated, seed=seed)},
        least=1000,
        pairs=2,
        truth=0.5,
        power=0.5,
    ),
    "emd": _Measure(
        (
            Metric("coverage", "coverage", (), "", 1.0, larger_is_better=True),
            Metric("mmd", "MMD", (), "jet pT"),
        ),
        lambda real, generated, protocol, seed, _: coverage_and_mmd(
            real, generated, protocol, seed=seed
        ),
        least=400,
        pairs=2,
        truth=None,
        power=0.0,  # batches are of 100 jets, however many there are
        particles=True,
    ),
    "transformer": _Measure(
        (Metric("auc_transformer", "AUC transformer", (), "", 1.0),),
        lambda real, generated, _, seed, device: {
            "auc_transformer": transformer_auc(
                real, generated, seeds=(seed, seed + 1), device=device
            )
        },
        least=1000,
        pairs=2,
        truth=0.5,
        power=0.5,
        particles=True,
    ),
}

MEASURES = tuple(_MEASURES)
"""What can be measured: `"w1"` (all of `METRICS`), `"fpd"`, `"kpd"`, `"trees"` (the AUC of
boosted trees, `"auc_trees"`), `"emd"` (`"coverage"` and `"mmd"`) and `"transformer"` (its AUC,
`"auc_transformer"`)."""

FAST_MEASURES = ("w1", "fpd", "kpd", "trees")
"""What takes seconds for thousands of jets; the others take minutes to an hour."""


def _known(measures: Sequence[str]) -> list[str]:
    """Return the names of measures in their order.

    Raises:
        ValueError: if there is no such measure.
    """
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        raise ValueError(f"there is no measure {unknown[0]!r}, expected of: {', '.join(MEASURES)}")
    return [name for name in MEASURES if name in measures]


def metrics_of(measures: Sequence[str]) -> tuple[Metric, ...]:
    """Return the metrics that measures give, in the order of a report.

    Raises:
        ValueError: if there is no such measure.

    >>> [metric.name for metric in metrics_of(["trees", "fpd"])]
    ['fpd', 'auc_trees']
    """
    return tuple(metric for name in _known(measures) for metric in _MEASURES[name].metrics)


def title_of(metric: str) -> str:
    """Return what people call a metric, of jets, of their types or of other sets.

    >>> title_of("w1m"), title_of("w1_n_photon")
    ('W1M jet mass', 'W1 n photon')
    """
    titles = {known.name: known.title for known in (*metrics_of(MEASURES), MEMORISATION)}
    return titles.get(metric) or metric.replace("w1_", "W1 ").replace("_", " ")


def least_jets(measure: str) -> int:
    """Return how many jets on each side a measure needs, so that it says more than chance.

    >>> least_jets("fpd")
    1000
    """
    return _MEASURES[measure].least


def fidelity(
    real: Observables,
    generated: Observables,
    protocol: str = "whole",
    *,
    measures: Sequence[str] = FAST_MEASURES,
    seed: int = 42,
    device: _Device | None = None,
) -> dict[str, Estimate]:
    """Measure how generated jets differ from true ones, each number with an error, by name.

    Arguments:
        real: the reference.
        generated: what is compared with it.
        protocol: `"whole"`, or `"jetnet"` for numbers that compare with published ones; see
            `setflow.physics.protocols`. The classifiers have no published one and take `"whole"`.
        measures: which of `MEASURES`.
        seed: the seed of draws, splits and trainings.
        device: where the transformer trains; None takes the device of the jets.

    Raises:
        ImportError: if a package of the extra `metrics` is missing.
        ValueError: if there is no such protocol or measure, there are too few jets for one, or
            jets have weights and something else than `"w1"` is asked for.

    >>> generator = torch.Generator().manual_seed(0)
    >>> from setflow.physics.metrics import observables
    >>> a, b = (observables(torch.rand(300, 8, 3, generator=generator)) for _ in range(2))
    >>> list(fidelity(a, b, measures=["fpd", "kpd"]))
    ['fpd', 'kpd']
    """
    check_protocol(protocol)
    chosen = _known(measures)
    if set(chosen) - {"w1"}:
        require_equal_jets(real, generated)
    found = {}
    for name in chosen:
        on = real.x.device if device is None else device
        found.update(_MEASURES[name].run(real, generated, protocol, seed, on))
    return found


def floor_parts(jets: int, sizes: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """Return the sizes of two disjoint parts of the truth, and how much more they scatter.

    Arguments:
        jets: the number of jets of the truth.
        sizes: the numbers of jets that are wanted; halves are taken where there are too few.

    The second number is the square of what a W1 of the parts is multiplied by to be one at the
    sizes that are wanted; 1 where they have these.

    >>> floor_parts(100, (30, 70)), floor_parts(100, (100, 100))
    (((30, 70), 1.0), ((50, 50), 0.5))
    """
    first, second = sizes
    if first + second <= jets:
        return sizes, 1.0
    half = jets // 2
    return (half, half), (1 / first + 1 / second) / (2 / half)


def fidelity_floor(
    reference: Observables,
    protocol: str = "whole",
    *,
    measures: Sequence[str] = FAST_MEASURES,
    sizes: tuple[int, int] | None = None,
    pairs: int | None = None,
    seed: int = 42,
    device: _Device | None = None,
) -> dict[str, Estimate]:
    """Measure what two samples of one truth differ by, with the scatter of one value as the error.

    Arguments:
        reference: jets of the truth.
        protocol: that of `fidelity`.
        measures: those of `fidelity`.
        sizes: the numbers of jets of the two parts, those of the comparison that the floor is for;
            None takes halves.
        pairs: how many pairs of disjoint parts to draw; None takes 5, of the slow ones 2.
        seed: the seed of the draws, splits and trainings.
        device: that of `fidelity`.

    Where the reference has fewer jets than both parts need, halves are taken and the result is
    brought to the sizes by the law of each measure: a W1 falls with the root of the number of jets,
    an AUC comes to 0.5 and scatters likewise, FPD and KPD scatter around 0 with its inverse, and
    coverage and MMD know no number but that of their batches. The error is the larger one of the
    scatter over the pairs, which are few and share their jets, and of the mean error that the
    values have themselves.

    Raises:
        ValueError: if there are fewer than 2 jets, a size is below 1, or fewer than 2 pairs.
    """
    n = len(reference)
    first, second = sizes = (n // 2, n - n // 2) if sizes is None else sizes
    if min(first, second, n // 2) < 1 or (pairs is not None and pairs < 2):
        raise ValueError(
            f"got {n} jets, parts of {first} and {second}, and pairs={pairs}, expected at least 1 "
            "jet in each part and 2 pairs"
        )
    (first, second), ratio = floor_parts(n, sizes)
    floor = {}
    for name in _known(measures):
        measure, of_truth = _MEASURES[name], reference
        if not measure.particles:
            of_truth = replace(reference, x=reference.x[:, :0], mask=reference.mask[:, :0])
        rng = np.random.default_rng(seed)
        draws: list[dict[str, Estimate]] = []
        for pair in range(pairs or measure.pairs):
            order = torch.from_numpy(rng.permutation(n)).to(reference.x.device)
            one, other = order[:first], order[first : first + second]
            chosen = of_truth.select(one), of_truth.select(other)
            draws.append(
                fidelity(*chosen, protocol, measures=[name], seed=seed + pair, device=device)
            )
        for metric in draws[0]:
            values = [draw[metric].value for draw in draws]
            own = float(np.mean([draw[metric].error for draw in draws]))
            spread = max(float(np.std(values, ddof=1)), own)
            centre = 0.0 if measure.truth is None else measure.truth
            mean = centre + (float(np.mean(values)) - centre) * ratio**measure.power
            floor[metric] = Estimate(mean, spread * ratio ** (measure.power or 0.5))
    return floor
