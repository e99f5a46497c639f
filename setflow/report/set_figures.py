"""Pictures of a comparison of sets that are no jets: spectra, and a few events."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from setflow.physics.metrics import Measured
from setflow.physics.sets import MULTIPLICITY, PAIR
from setflow.report.displays import draw_first_events
from setflow.report.figures import note_of, spectrum
from setflow.report.histograms import Quantity
from setflow.report.judging import Result
from setflow.report.style import STYLE, Array, as_numpy
from setflow.schema import Feature, Positive, Schema, axis_label
from setflow.sets.batch import SetBatch

__all__ = ["draw_sets", "example_events", "quantities_of"]

_WIDE = 30.0  # a positive feature that spans more than this ratio is drawn on a logarithmic axis
_TAIL = 1e-3
_AREA = 60.0  # of a dot, in points squared


def quantities_of(schema: Schema, reference: Measured) -> tuple[Quantity, ...]:
    """Return how the observables of sets are drawn.

    Arguments:
        schema: the features, numbers on a line.
        reference: the observables of the reference.
    """
    drawn = []
    for feature in schema.objects:
        values = as_numpy(reference.column(feature.name)[0])
        low, high = np.quantile(values, [_TAIL, 1 - _TAIL]) if len(values) else (0.0, 1.0)
        positive = isinstance(feature.kind, Positive) and feature.kind.low == 0
        least = 1e-6 * max(abs(low), abs(high)) or 1.0
        lowest = feature.bounds.low
        drawn.append(
            Quantity(
                feature.name,
                axis_label(feature),
                _symbol(feature),
                log_x=positive and high > _WIDE * low > 0,
                bound=lowest if np.isfinite(lowest) else None,
                least=least,
                events="events",
                entries="objects",
            )
        )
    drawn.append(
        Quantity(MULTIPLICITY, "Number of objects $N$", "N", integer=True, events="events")
    )
    if PAIR in reference.names:
        label = "Distance of two objects of an event, scaled features, $d$"
        drawn.append(Quantity(PAIR, label, "d", bound=0.0, events="events", entries="pairs"))
    return tuple(drawn)


def _symbol(feature: Feature) -> str:
    """Return the label of a feature in TeX without dollars."""
    label = feature.label
    if label.count("$") == 2 and label.startswith("$") and label.endswith("$"):
        return label.strip("$")
    plain = re.sub(r"[^\w .-]", "", label).replace("_", " ").replace(" ", r"\ ")
    return rf"(\mathrm{{{plain}}})" if r"\ " in plain else rf"\mathrm{{{plain}}}"


def example_events(
    schema: Schema, generated: SetBatch, reference: SetBatch, *, events: int = 3
) -> Figure:
    """Draw the first few events of either side that have objects, in the first two features.

    Where the objects are ordered by a positive feature, the area of a dot is proportional to it.

    Arguments:
        schema: the features, numbers on a line; at least two.
        generated: the generated events, with `x` of shape `(n, N, D)`.
        reference: those of the reference.
        events: how many of each; they are the first, and not chosen.
    """
    across, up = schema.objects[:2]
    limits = [_limits(as_numpy(reference.x[reference.mask][:, k])) for k in (0, 1)]
    by = None if schema.order_by is None else schema.object(schema.order_by)
    sized = by is not None and isinstance(by.kind, Positive) and by.kind.low >= 0
    column = schema.generated.index(schema.order_by) if sized and schema.order_by else 0
    mean = float(as_numpy(reference.x[reference.mask][:, column]).mean()) or 1.0

    def dots(batch: SetBatch, event: int, x: Array) -> tuple[dict[str, Any], str]:
        area = _AREA * np.clip(x[:, column] / mean, 0.05, 20) if sized else _AREA / 2
        return {"s": area, "alpha": 0.6}, ""

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * events + 1.2, 7.5), layout="constrained")
        if sized and by is not None:
            figure.suptitle(rf"Area of a dot $\propto$ {by.label}", fontsize=12)
        plane = ((axis_label(across), limits[0]), (axis_label(up), limits[1]))
        equal = bool(across.unit) and across.unit == up.unit
        draw_first_events(figure, (generated, reference), events, dots, plane, equal=equal)
    return figure


def _limits(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL]) if len(values) else (0.0, 1.0)
    margin = 0.12 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def draw_sets(
    schema: Schema,
    batches: tuple[SetBatch, SetBatch],
    measured: tuple[Measured, Measured],
    results: Mapping[str, Result],
    *,
    origin: str = "",
) -> dict[str, Figure]:
    """Return every picture of a comparison of sets by its name.

    Arguments:
        schema: the features, numbers on a line.
        batches: the generated events, and those of the reference.
        measured: the observables of both.
        results: the metrics between the two, by name.
        origin: what is compared, in a line above each spectrum.
    """
    drawn = {}
    for quantity in quantities_of(schema, measured[1]):
        note = note_of(quantity.name, measured[1].metrics, results)
        name = re.sub(r"[^\w.-]", "_", quantity.name)
        drawn[name] = spectrum(quantity, *measured, note=note, origin=origin)
    if len(schema.objects) > 1:
        drawn["example_events"] = example_events(schema, *batches)
    return drawn
