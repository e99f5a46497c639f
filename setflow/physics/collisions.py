"""Whole events of a collider: what they are measured by, and controls that are wrong.

Notation. An object has pt [GeV], eta, phi [rad], mass [GeV] and a type
(`setflow.schema.COLLISIONS`); only jets have a mass. Of an event are taken

- counts: how many objects of each type, and jets with a b hadron, there are;
- HT: the sum of the pt of the jets;
- missing: the pt of the missing momentum;
- top and W: of the three jets, one of them with a b hadron, among the 8 hardest whose momenta sum
  to the largest pt: the mass of all three, and that of the two without a b hadron;
- transverse mass: sqrt(2 pt_l pt_miss (1 - cos(phi_l - phi_miss))), l the hardest lepton;
- charge sum: the sum of the charges of the leptons;
- delta phi: the size of phi_i - phi_j, wrapped, of all pairs of objects;
- delta R: sqrt((eta_i - eta_j)^2 + (phi_i - phi_j)^2) of pairs without missing momentum.

The choice of three jets looks at no mass, so that a peak does not come from the choice; without the
flag it is "M3" (CMS, "Measurement of the top-antitop production cross section in pp collisions at
sqrt(s) = 7 TeV using the kinematic properties of events with leptons and jets", arXiv:1106.0902).
An event that has none of what is asked for, such as a lepton, gives no value.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from setflow.physics.kinematics import delta_phi
from setflow.physics.metrics import Metric
from setflow.physics.sets import checked_objects, renumbered, scale_of
from setflow.schema import COLLISIONS, OBJECT_TYPES, Feature, kind_names, names
from setflow.sets.batch import SetBatch
from setflow.sets.weights import effective_number

__all__ = [
    "CollisionMeasure",
    "CollisionObservables",
    "is_collision",
    "shuffle_within_types",
    "swap_directions",
]

HARDEST = 8
"""So many of the hardest jets are looked at for a top quark."""

_BLOCK = 4096  # events
SHARE = 0.01
"""An observable that a smaller share of the events of the reference has is not compared."""

_MISSING, _JET = "missing_momentum", "jet"
_UNITS = {
    "ht": ("HT", "GeV"),
    "missing": ("missing momentum", "GeV"),
    "top_mass": ("mass of three jets", "GeV"),
    "w_mass": ("mass of two jets", "GeV"),
    "transverse_mass": ("transverse mass", "GeV"),
    "charge_sum": ("charge sum", ""),
    "delta_phi": ("delta phi of pairs", "rad"),
    "delta_r": ("delta R of pairs", ""),
    "jet_pt": ("jet pT", "GeV"),
    "jet_eta": ("jet eta", ""),
    "jet_mass": ("jet mass", "GeV"),
    "lepton_pt": ("lepton pT", "GeV"),
    "b_jets": ("number of b jets", "objects"),
}


def is_collision(features: Sequence[Feature]) -> bool:
    """Return whether objects have the features and types of whole events.

    >>> is_collision(COLLISIONS.objects), is_collision(setflow.schema.JETNET.objects)
    (True, False)
    """
    held = {feature.name: feature.kind for feature in features}
    same = all(held.get(entry.name) == entry.kind for entry in COLLISIONS.categories)
    return same and set(names(COLLISIONS.objects)) <= set(held)


@dataclass(frozen=True)
class CollisionObservables:
    """All observables of a sample of n whole events, in float64.

    Arguments:
        metrics: the metrics of these observables.
        columns: of each observable the values, and the event of each, both of one dimension.
        n: the number of events.
        weight: how much each event counts, with shape `(n,)`; None means equally much.
    """

    metrics: tuple[Metric, ...]
    columns: dict[str, tuple[Tensor, Tensor]]
    n: int
    weight: Tensor | None = None

    @property
    def effective(self) -> float:
        """The effective number of events, (sum w)^2 / sum w^2; n without weights."""
        return float(self.n) if self.weight is None else effective_number(self.weight)

    def __len__(self) -> int:
        return self.n

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the observables that are compared."""
        return tuple(part for metric in self.metrics for part in metric.parts)

    @property
    def optional(self) -> tuple[Metric, ...]:
        """The metrics of what not every event may have; see `setflow.physics.types`."""
        return self.metrics

    def without(self, left_out: Collection[str]) -> CollisionObservables:
        """Return these without some of the metrics."""
        return replace(self, metrics=tuple(m for m in self.metrics if m.name not in left_out))

    def column(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the values of one observable and the event of each, both of one dimension.

        Raises:
            ValueError: if there is no such observable.
        """
        if name not in self.columns:
            raise ValueError(
                f"there is no observable {name!r}, expected one of: {tuple(self.columns)}"
            )
        return self.columns[name]

    def select(self, events: Tensor | slice) -> CollisionObservables:
        """Return those of some events, given by distinct indices, shape `(k,)`, or a slice."""
        chosen, place = renumbered(events, self.n)
        columns = {}
        for name, (values, event) in self.columns.items():
            moved = place[event]
            columns[name] = (values[moved >= 0], moved[moved >= 0])
        weight = None if self.weight is None else self.weight[events]
        return replace(self, columns=columns, n=len(chosen), weight=weight)


class CollisionMeasure:
    """How whole events are measured; a call returns the observables of a sample.

    Arguments:
        features: what the columns of objects are, those of `setflow.schema.COLLISIONS` among them.
        reference: the events whose observables set what is compared, and the scales.

    Attributes:
        metrics: the metrics, in the order of the report.

    Raises:
        ValueError: if the features are others, or there is no event.

    >>> jets = torch.tensor([[[50.0, 0.0, 0.0, 5.0, 3, 0, 0], [40.0, 1.0, 3.0, 4.0, 3, 0, 1]]])
    >>> measured = CollisionMeasure(COLLISIONS.objects, SetBatch(jets))(SetBatch(jets))
    >>> measured.column("ht")[0].tolist(), measured.column("b_jets")[0].tolist()
    ([90.0], [1.0])
    """

    def __init__(self, features: Sequence[Feature], reference: SetBatch) -> None:
        if not is_collision(features):
            raise ValueError(
                f"objects have {', '.join(names(features))}, expected those of whole events: "
                f"{', '.join(f'{entry.name} ({entry.kind})' for entry in COLLISIONS.objects)}"
            )
        self.features = tuple(features)
        self._at = {name: column for column, name in enumerate(names(self.features))}
        self.metrics: tuple[Metric, ...] = ()
        found = self(reference)
        metrics = []
        for name, (values, event) in found.columns.items():
            if len(torch.unique(event)) < SHARE * len(found):
                continue
            title, unit = _UNITS.get(name, (name.replace("_", " "), "objects"))
            scale = scale_of(float(values.std())) if len(values) > 1 else 1.0
            metrics.append(Metric(f"w1_{name}", f"W1 {title}", (name,), unit, scale))
        self.metrics = tuple(metrics)

    def __call__(self, batch: SetBatch) -> CollisionObservables:
        """Return the observables of events.

        Arguments:
            batch: the events, with `x` of shape `(n, N, D)`.

        Raises:
            ValueError: if there is no event, or a real object is not finite.
        """
        x, mask, weight = checked_objects(batch)
        x, parts = torch.where(mask[..., None], x, 0), []
        for first in range(0, len(x), _BLOCK):
            block = slice(first, first + _BLOCK)
            found = _Events(x[block], mask[block], self._at).columns()
            parts.append({name: (values, event + first) for name, (values, event) in found.items()})
        columns = {
            name: (torch.cat([part[name][0] for part in parts]),
                   torch.cat([part[name][1] for part in parts]))
            for name in parts[0]
        }  # fmt: skip
        return CollisionObservables(self.metrics, columns, len(x), weight)


class _Events:
    """Whole events, by their columns, each with shape `(n, N)`."""

    def __init__(self, x: Tensor, mask: Tensor, at: dict[str, int]) -> None:
        self.mask = mask
        self.pt, self.eta, self.phi, self.mass, kind, charge, b = (
            x[..., at[name]] for name in names(COLLISIONS.objects)
        )
        self.of = {name: mask & (kind == code) for code, name in enumerate(OBJECT_TYPES)}
        self.lepton = self.of["electron"] | self.of["muon"]
        self.b = self.of[_JET] & (b == _code("b_hadron", "yes"))
        sign = {"minus": -1.0, "plus": 1.0}
        codes = {_code("charge", name): value for name, value in sign.items()}
        self.charge = sum((charge == code) * value for code, value in codes.items()) * self.lepton

    def columns(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the observables: the values, and the event of each."""
        every = torch.ones(len(self.mask), dtype=torch.bool)
        jets, missing = self.of[_JET], self.of[_MISSING]
        found = {f"n_{name}": (there.sum(1).double(), every) for name, there in self.of.items()}
        found["b_jets"] = (self.b.sum(1).double(), every)
        found["ht"] = ((self.pt * jets).sum(1), every)
        found["charge_sum"] = (self.charge.sum(1), every)
        for name, values, there in (
            ("missing", self.pt, missing),
            ("lepton_pt", self.pt, self.lepton),
            ("jet_pt", self.pt, jets),
            ("jet_eta", self.eta, jets),
            ("jet_mass", self.mass, jets),
        ):
            found[name] = (values, there)
        found["transverse_mass"] = self._transverse_mass()
        top, w, chosen = self._top()
        found |= {"top_mass": (top, chosen), "w_mass": (w, chosen)}
        i, j = torch.triu_indices(self.mask.shape[1], self.mask.shape[1], 1)
        phi = delta_phi(self.phi[:, i], self.phi[:, j]).abs()
        visible = self.mask & ~missing
        found["delta_phi"] = (phi, self.mask[:, i] & self.mask[:, j])
        distance = torch.hypot(self.eta[:, i] - self.eta[:, j], phi)
        found["delta_r"] = (distance, visible[:, i] & visible[:, j])
        return {
            name: (values[there], there.nonzero()[:, 0]) for name, (values, there) in found.items()
        }

    def _transverse_mass(self) -> tuple[Tensor, Tensor]:
        lepton, there = self._hardest(self.lepton)
        missing, some = self._hardest(self.of[_MISSING])
        angle = self._take(self.phi, lepton) - self._take(self.phi, missing)
        product = self._take(self.pt, lepton) * self._take(self.pt, missing)
        return (2 * product * (1 - angle.cos())).sqrt(), there & some

    def _hardest(self, of: Tensor) -> tuple[Tensor, Tensor]:
        """Return the place of the hardest object of some, and whether there is one, `(n,)` each."""
        return torch.where(of, self.pt, -1.0).argmax(1), of.any(1)

    @staticmethod
    def _take(values: Tensor, place: Tensor) -> Tensor:
        return values.gather(1, place[:, None])[:, 0]

    def _top(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the masses of three jets and of two of them, and whether there are such jets."""
        n, most = len(self.mask), min(HARDEST, self.mask.shape[1])
        if most < 3:
            none = torch.zeros(n, dtype=torch.float64)
            return none, none, none.bool()
        jets = self.of[_JET]
        order = torch.where(jets, self.pt, -1.0).topk(most, 1).indices
        p = torch.stack(
            [
                self.pt * self.phi.cos(),
                self.pt * self.phi.sin(),
                self.pt * self.eta.sinh(),
                ((self.pt * self.eta.cosh()).square() + self.mass.square()).sqrt(),
            ],
            -1,
        ).gather(1, order[..., None].expand(-1, -1, 4))
        real, b = jets.gather(1, order), self.b.gather(1, order)
        triples = torch.tensor(list(itertools.combinations(range(most), 3)))
        good = real[:, triples].all(-1) & (b[:, triples].sum(-1) == 1)
        total = p[:, triples].sum(-2)
        pt = torch.where(good, torch.hypot(total[..., 0], total[..., 1]), -1.0)
        best = pt.argmax(1)
        of_w = ~b[:, triples]
        pair = (p[:, triples] * of_w[..., None]).sum(-2)
        rows = torch.arange(n)
        return _mass(total[rows, best]), _mass(pair[rows, best]), good.any(1)


def _code(category: str, name: str) -> int:
    return kind_names(COLLISIONS.object(category)).index(name)


def _mass(p: Tensor) -> Tensor:
    """Return the mass of momenta (px, py, pz, E) in the last dimension."""
    return (p[..., 3].square() - p[..., :3].square().sum(-1)).clamp(min=0).sqrt()


def shuffle_within_types(
    batch: SetBatch, features: Sequence[Feature], generator: torch.Generator
) -> SetBatch:
    """Return events whose objects are shuffled between them, type by type: the first control.

    Objects of one type are permuted, whole, so that the counts of each type and the spectra of
    their features stay, and every correlation between the objects of an event goes.

    Arguments:
        batch: the events, with `x` of shape `(n, N, D)`.
        features: what the D columns are.
        generator: the source of randomness, on the CPU.
    """
    x = batch.x.detach().clone()
    for there in _by_type(batch, features):
        real = x[there]
        x[there] = real[torch.randperm(len(real), generator=generator).to(real.device)]
    return SetBatch(x, batch.mask, weight=batch.weight)


def swap_directions(
    batch: SetBatch, features: Sequence[Feature], generator: torch.Generator
) -> SetBatch:
    """Return events whose directions are shuffled between them, type by type: the second control.

    Each object keeps all but eta and phi, and takes those of another object of its type. This keeps
    the counts, all momenta and the spectra of eta and phi, and destroys the masses and distances of
    pairs.

    Arguments:
        batch: the events, with `x` of shape `(n, N, D)`.
        features: what the D columns are.
        generator: the source of randomness, on the CPU.
    """
    x, columns = batch.x.detach().clone(), [names(features).index(name) for name in ("eta", "phi")]
    for there in _by_type(batch, features):
        real = x[there]
        order = torch.randperm(len(real), generator=generator).to(real.device)
        real[:, columns] = real[order][:, columns]
        x[there] = real
    return SetBatch(x, batch.mask, weight=batch.weight)


def _by_type(batch: SetBatch, features: Sequence[Feature]) -> list[Tensor]:
    """Return which objects are of each type, with shape `(n, N)` each."""
    kind = batch.x[..., names(features).index("type")]
    return [batch.mask & (kind == code) for code in range(len(OBJECT_TYPES))]
