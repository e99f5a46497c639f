"""Everything that is measured between generated and true jets, by name, and its floor.

    real, generated = Sample.of(x, mask), Sample.of(y, y_mask)
    found = fidelity(real, generated)                      # name -> value and error
    floor = fidelity_floor(real)                           # the same between parts of the truth
    control = fidelity(real, Sample.of(*shuffle_particles(x, mask, generator)))

A value means nothing without its floor, and says what it can see only beside the controls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from setflow.physics.classifier import transformer_auc, trees_auc
from setflow.physics.frechet import fpd
from setflow.physics.kernel import kpd
from setflow.physics.protocols import Estimate, check_protocol
from setflow.physics.samples import Sample, require_equal_jets, w1_estimates
from setflow.physics.transport import coverage_and_mmd

__all__ = ["FAST_MEASURES", "MEASURES", "fidelity", "fidelity_floor"]

_Measure = Callable[[Sample, Sample, str, int], dict[str, Estimate]]

_MEASURES: dict[str, _Measure] = {
    "w1": lambda real, generated, protocol, seed: w1_estimates(
        real, generated, protocol, seed=seed
    ),
    "fpd": lambda real, generated, protocol, seed: {
        "fpd": fpd(real.efps, generated.efps, protocol, seed=seed)
    },
    "kpd": lambda real, generated, protocol, seed: {
        "kpd": kpd(real.efps, generated.efps, protocol, seed=seed)
    },
    "trees": lambda real, generated, _, seed: {"auc_trees": trees_auc(real, generated, seed=seed)},
    "emd": lambda real, generated, protocol, seed: coverage_and_mmd(
        real, generated, protocol, seed=seed
    ),
    "transformer": lambda real, generated, _, seed: {
        "auc_transformer": transformer_auc(
            real, generated, seeds=(seed, seed + 1), device=real.x.device
        )
    },
}

MEASURES = tuple(_MEASURES)
"""What can be measured: `"w1"` (all of `W1_METRICS`), `"fpd"`, `"kpd"`, `"trees"` (the AUC of
boosted trees, `"auc_trees"`), `"emd"` (`"coverage"` and `"mmd"`) and `"transformer"` (its AUC,
`"auc_transformer"`)."""

FAST_MEASURES = ("w1", "fpd", "kpd", "trees")
"""What takes seconds for thousands of jets; the others take minutes to an hour."""


def fidelity(
    real: Sample,
    generated: Sample,
    protocol: str = "whole",
    *,
    measures: Sequence[str] = FAST_MEASURES,
    seed: int = 42,
) -> dict[str, Estimate]:
    """Measure how generated jets differ from true ones, each number with an error, by name.

    Arguments:
        real: the reference.
        generated: what is compared with it.
        protocol: `"whole"`, or `"jetnet"` for numbers that compare with published ones; see
            `setflow.physics.protocols`. The classifiers have no published one and take `"whole"`.
        measures: which of `MEASURES`; the transformer trains on the device of the jets.
        seed: the seed of draws, splits and trainings.

    Raises:
        ImportError: if a package of the extra `metrics` is missing.
        ValueError: if there is no such protocol or measure, there are too few jets for one, or
            jets have weights and something else than `"w1"` is asked for.

    >>> generator = torch.Generator().manual_seed(0)
    >>> a, b = (Sample.of(torch.rand(300, 8, 3, generator=generator)) for _ in range(2))
    >>> list(fidelity(a, b, measures=["fpd", "kpd"]))
    ['fpd', 'kpd']
    """
    check_protocol(protocol)
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        raise ValueError(f"there is no measure {unknown[0]!r}, expected of: {', '.join(MEASURES)}")
    if set(measures) - {"w1"}:
        require_equal_jets(real, generated)
    found = {}
    for name in MEASURES:
        if name in measures:
            found.update(_MEASURES[name](real, generated, protocol, seed))
    return found


def fidelity_floor(
    reference: Sample,
    protocol: str = "whole",
    *,
    measures: Sequence[str] = FAST_MEASURES,
    sizes: tuple[int, int] | None = None,
    pairs: int = 5,
    seed: int = 42,
) -> dict[str, Estimate]:
    """Measure what two samples of one truth differ by, with the scatter of one value as the error.

    Arguments:
        reference: jets of the truth.
        protocol: that of `fidelity`.
        measures: those of `fidelity`.
        sizes: the numbers of jets of the two parts, those of the comparison that the floor is for;
            None takes halves.
        pairs: how many pairs of disjoint parts to draw.
        seed: the seed of the draws, splits and trainings.

    Raises:
        ValueError: if there are fewer jets than both parts need, or fewer than 2 pairs.
    """
    n = len(reference)
    first, second = (n // 2, n - n // 2) if sizes is None else sizes
    if min(first, second) < 1 or first + second > n or pairs < 2:
        raise ValueError(
            f"got {n} jets, parts of {first} and {second}, and pairs={pairs}, expected at least 2 "
            "pairs of parts that are disjoint; take more jets of the truth or smaller parts"
        )
    rng = np.random.default_rng(seed)
    values: dict[str, list[float]] = {}
    for pair in range(pairs):
        order = torch.from_numpy(rng.permutation(n)).to(reference.x.device)
        parts = reference.select(order[:first]), reference.select(order[first : first + second])
        found = fidelity(*parts, protocol, measures=measures, seed=seed + pair)
        for name, estimate in found.items():
            values.setdefault(name, []).append(estimate.value)
    return {
        name: Estimate(float(np.mean(draws)), float(np.std(draws, ddof=1)))
        for name, draws in values.items()
    }
