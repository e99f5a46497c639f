"""Pictures of the types of particles: shares, numbers of each in a jet, charges, momenta."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from setflow.physics.types import KAPPA, TypedObservables, column_of_type
from setflow.report.figures import note_of, spectrum
from setflow.report.histograms import Quantity
from setflow.report.judging import Result
from setflow.report.style import JET_PT, PTREL
from setflow.schema import PARTICLE_TYPES

__all__ = ["QUANTITIES", "draw_types"]

_TYPES = PARTICLE_TYPES[1:]  # the first one is padding


def _of_each(prefix: str, label: str, symbol: str, **how: bool | float) -> tuple[Quantity, ...]:
    """Return a spectrum for each type; `@` in label and symbol is the symbol of the type."""
    found = []
    for kind in _TYPES:
        name, sign = f"{prefix}_{column_of_type(kind.name)}", kind.label.strip("$")
        told = f"{label.replace('@', kind.label)} ({kind.name})"
        found.append(Quantity(name, told, symbol.replace("@", sign), **how))  # type: ignore[arg-type]
    return tuple(found)


QUANTITIES: tuple[Quantity, ...] = (
    Quantity("type", "Type of a particle", r"(\mathrm{type})", integer=True, log_y=True,
             ticks=tuple(kind.label for kind in _TYPES)),
    *_of_each("n", "Number of @ in a jet", "N({@})", integer=True),
    Quantity("charge", "Charge of a jet, the sum of its particles [$e$]", "Q", integer=True),
    Quantity("jet_charge",
             rf"Jet charge $Q_\kappa = \Sigma_i\, q_i\,(p_{{T,i}} / {JET_PT})^\kappa$ [$e$], "
             rf"$\kappa = {KAPPA:g}$", r"Q_\kappa"),
    *_of_each("ptrel", PTREL + " of @", r"p_T^\mathrm{rel}", log_x=True, log_y=True, end=1.0),
)  # fmt: skip
"""The spectra of types, in this order."""


def draw_types(
    measured: tuple[TypedObservables, TypedObservables],
    results: Mapping[str, Result],
    *,
    origin: str = "",
) -> dict[str, Figure]:
    """Return every picture of the types of particles by its name.

    A type that a side lacks has no spectrum of momenta, and one that both lack none at all.

    Arguments:
        measured: the observables of the generated jets and of those of the reference.
        results: the metrics between the two, by name.
        origin: what is compared, in a line above each spectrum.
    """
    drawn = {}
    for quantity in QUANTITIES:
        columns = [side.column(quantity.name)[0] for side in measured]
        if not all(map(len, columns)) or not any(bool(column.any()) for column in columns):
            continue
        note = note_of(quantity.name, measured[1].metrics, results)
        drawn[quantity.name] = spectrum(quantity, *measured, note=note, origin=origin)
    return drawn
