"""What is measured of objects with types: how many of each, charges, and momenta type by type.

Notation. A particle of a jet has ptrel z, a type (`setflow.schema.PARTICLE_TYPES`) and the charge q
of that type, in units of e. Of a jet are taken

- counts: how many particles of each type it has;
- charge: the sum of all q;
- jet charge: Q_k = sum of q z^k over the particles, k = 0.5, of Field and Feynman, "A
  parametrization of the properties of quark jets" (Nucl. Phys. B 136, 1, 1978), with z relative to
  the pT of the jet as in Krohn, Schwartz, Lin and Waalewijn, "Jet charge at the LHC" (Phys. Rev.
  Lett. 110, 212001, 2013, arXiv:1209.2421);
- ptrel of the particles of each type.

Particles are those that are compared, the hardest where jets are cut. The metrics stand beside all
those of jets without types, which they leave as they are. Whole events have measures of their own
(`setflow.physics.collisions`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from setflow.physics.kinematics import by_falling_pt, in_order
from setflow.physics.metrics import Measured, Metric
from setflow.physics.samples import Observables, observables
from setflow.schema import PARTICLE_TYPES, TYPED_JETNET, Feature, names
from setflow.sets.batch import SetBatch

__all__ = [
    "EXPLAINED",
    "KAPPA",
    "LEAST",
    "TITLES",
    "JetTypes",
    "TypedObservables",
    "are_typed_jets",
    "column_of_type",
    "rare_metrics",
    "without_metrics",
]

KAPPA = 0.5
"""The power of ptrel in the jet charge."""

LEAST = 10
"""An observable that fewer events of a side have, in some part of it, is not compared."""

CHARGE, JET_CHARGE = "charge", "jet_charge"
_TYPES = PARTICLE_TYPES[1:]  # the first one is padding
_CHARGES = torch.tensor([float(kind.charge) for kind in _TYPES], dtype=torch.float64)


def column_of_type(name: str) -> str:
    """Return how a type of particles is called in names of observables.

    >>> column_of_type("charged hadron +"), column_of_type("photon")
    ('charged_hadron_plus', 'photon')
    """
    return name.replace("+", "plus").replace("-", "minus").replace(" ", "_")


_COUNTS = {f"n_{column_of_type(kind.name)}": code for code, kind in enumerate(_TYPES)}
_PTRELS = {f"ptrel_{column_of_type(kind.name)}": code for code, kind in enumerate(_TYPES)}
TITLES = {"type": "Types of particles", CHARGE: "Charge of jets", JET_CHARGE: "Jet charge"} | {
    f"{prefix}_{column_of_type(kind.name)}": f"{told} of particles: {kind.name}"
    for prefix, told in (("n", "Number"), ("ptrel", "pT"))
    for kind in _TYPES
}
"""What the observables of types are called."""

EXPLAINED = (
    "n: how many particles of a type a jet has (hadron 0: neutral hadrons); charge: the sum of the "
    "charges of its particles; jet charge: the sum of charge times "
    f"(pT / jet pT)^{KAPPA:g} (arXiv:1209.2421)",
    "types stay with their particles where these are shuffled, and with their directions where "
    "momenta are swapped",
)
"""What the metrics of types are, and the controls, a sentence for each."""


def are_typed_jets(features: Sequence[Feature]) -> bool:
    """Return whether objects are the particles of jets, with their types.

    >>> are_typed_jets(TYPED_JETNET.objects), are_typed_jets(setflow.schema.JETNET.objects)
    (True, False)
    """
    held = {feature.name: feature.kind for feature in features}
    kind = TYPED_JETNET.objects[-1]
    return set(held) == set(names(TYPED_JETNET.objects)) and held[kind.name] == kind.kind


@dataclass(frozen=True)
class TypedObservables(Observables):
    """All observables of a sample of n jets whose P particles have types.

    Arguments:
        kinds: the types of all particles, from 0, jet by jet and hardest first, int8, `(P,)`.
        of_types: the metrics of types.
    """

    kinds: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int8))
    of_types: tuple[Metric, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the observables that metrics ask for."""
        return (*super().names, *(part for metric in self.of_types for part in metric.parts))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of these observables."""
        return (*super().metrics, *self.of_types)

    @property
    def optional(self) -> tuple[Metric, ...]:
        """The metrics of what not every jet has: momenta of particles of one type."""
        return tuple(metric for metric in self.of_types if metric.parts[0] in _PTRELS)

    def without(self, left_out: Collection[str]) -> TypedObservables:
        """Return these without some of the metrics of types."""
        return replace(self, of_types=tuple(m for m in self.of_types if m.name not in left_out))

    def column(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the values of one observable and the jet of each; see `Observables.column`.

        `"type"` are the types of all particles, from 0.
        """
        known = name in _COUNTS or name in _PTRELS or name in (CHARGE, JET_CHARGE, "type")
        if not known:
            return super().column(name)
        ptrel, jet = super().column("ptrel")
        kinds = self.kinds.to(jet.device)
        if name == "type":
            return kinds.double(), jet
        if name in _PTRELS:
            of_type = kinds == _PTRELS[name]
            return ptrel[of_type], jet[of_type]
        jets = torch.arange(len(self), device=jet.device)
        if name in _COUNTS:
            of_type = kinds == _COUNTS[name]
            return torch.bincount(jet[of_type], minlength=len(self)).double(), jets
        charge = _CHARGES.to(jet.device)[kinds.long()]
        if name == JET_CHARGE:
            charge = charge * ptrel.double().clamp(min=0) ** KAPPA
        return charge.new_zeros(len(self)).index_add_(0, jet, charge), jets

    def select(self, jets: Tensor | slice) -> TypedObservables:
        """Return those of some jets, given by distinct indices, shape `(k,)`, or a slice."""
        chosen = super().select(jets)
        rows = torch.arange(len(self))[jets.cpu() if isinstance(jets, Tensor) else jets]
        count = self.multiplicity.cpu().long()
        first, size = (count.cumsum(0) - count)[rows], count[rows]
        shift = (first - (size.cumsum(0) - size)).repeat_interleave(size)
        held = {entry.name: getattr(chosen, entry.name) for entry in fields(Observables)}
        kinds = self.kinds[shift + torch.arange(len(shift))]
        return TypedObservables(**held, kinds=kinds, of_types=self.of_types)


class JetTypes:
    """How jets whose particles have types are measured; a call returns the observables of a sample.

    Arguments:
        reference: jets (etarel, phirel, ptrel, type) that tell which types are compared, and the
            scales, with `x` of shape `(n, N, 4)`.

    Attributes:
        metrics: the metrics of types, in the order of the report.

    >>> jets = torch.tensor([[[0.0, 0.0, 0.25, 1.0], [0.1, 0.0, 0.16, 2.0], [0.1, 0.0, 0.04, 1.0]]])
    >>> found = JetTypes(SetBatch(jets))(SetBatch(jets))
    >>> found.column("charge")[0].tolist(), found.column("n_charged_hadron_plus")[0].tolist()
    ([1.0], [2.0])
    >>> found.column("jet_charge")[0].item()  # 0.5 - 0.4 + 0.2
    0.3000...
    """

    def __init__(self, reference: SetBatch) -> None:
        self.metrics: tuple[Metric, ...] = ()
        of_type = reference.x[..., 3, None].cpu() == torch.arange(len(_TYPES))
        counts = (of_type & reference.mask.cpu()[..., None]).sum(1).double()
        found = []
        for name, code in _COUNTS.items():
            if counts[:, code].any():
                title = f"W1 n {_shortly(_TYPES[code].name)}"
                found.append(Metric(f"w1_{name}", title, (name,), "particles", 1.0))
        if (counts * _CHARGES).any():
            found.append(Metric("w1_charge", "W1 charge", (CHARGE,), "e", 1.0))
            found.append(Metric("w1_jet_charge", "W1 jet charge", (JET_CHARGE,), "e"))
        for name, code in _PTRELS.items():
            if counts[:, code].any():
                title = f"W1 pT {_shortly(_TYPES[code].name)}"
                found.append(Metric(f"w1_{name}", title, (name,), "jet pT"))
        self.metrics = tuple(found)

    def __call__(self, batch: SetBatch) -> TypedObservables:
        """Return the observables of jets.

        Arguments:
            batch: the jets, with `x` of shape `(n, N, 4)`, hardest particles first.

        Raises:
            ValueError: as `setflow.physics.metrics.observables`.
        """
        x, mask = batch.x.detach(), batch.mask
        if not in_order(x[..., 2], mask):
            x, mask = by_falling_pt(x, mask)
        jets = observables(x[..., :3], mask, batch.weight)
        kinds = x[..., 3][mask].cpu()
        if not torch.isin(kinds, torch.arange(len(_TYPES))).all():
            raise ValueError(
                f"types of particles reach from {kinds.min():g} to {kinds.max():g}, expected 0 to "
                f"{len(_TYPES) - 1}: {', '.join(kind.name for kind in _TYPES)}"
            )
        held = {entry.name: getattr(jets, entry.name) for entry in fields(jets)}
        return TypedObservables(**held, kinds=kinds.to(torch.int8), of_types=self.metrics)


def _shortly(name: str) -> str:
    """Return what a type is called in a narrow column: charged hadron + is hadron +.

    >>> _shortly("charged hadron +"), _shortly("neutral hadron"), _shortly("muon -")
    ('hadron +', 'hadron 0', 'muon -')
    """
    return name.removeprefix("charged ").replace("neutral hadron", "hadron 0")


# --- what too few events have ---


@runtime_checkable
class _Optional(Protocol):
    """Observables of which some metrics may be left out, those of what not every event has."""

    @property
    def optional(self) -> tuple[Metric, ...]: ...

    def without(self, left_out: Collection[str], /) -> Measured: ...


def rare_metrics(generated: Measured, reference: Measured, everything: Measured) -> dict[str, str]:
    """Return the metrics whose observable too few events have, and what speaks against each.

    A part of the reference of which no jet has a muon has no distance to another one.

    Arguments:
        generated: the observables of the generated events.
        reference: those of the events of the reference that are compared.
        everything: those of all events of the reference, of which the floor draws parts.
    """
    sides, found = (generated, reference, everything), {}
    smallest = min(len(generated), len(reference), len(everything) // 2)
    for metric in reference.optional if isinstance(reference, _Optional) else ():
        (name,) = metric.parts
        share = min(len(torch.unique(side.column(name)[1])) / len(side) for side in sides)
        if share * smallest < LEAST and share < 1:
            what = "jets" if isinstance(reference, Observables) else "events"
            found[metric.name] = (
                f"fewer than {LEAST} {what} of a side, or of a part of the reference, have what it "
                f"looks at; compare more {what}"
            )
    return found


def without_metrics(side: Measured, left_out: Collection[str]) -> Measured:
    """Return observables without some of their metrics, of those that may be left out."""
    if not left_out or not isinstance(side, _Optional):
        return side
    return side.without(left_out)
