"""Simulate whole events: leptons, photons, jets and missing momentum, as a recipe says.

An event is a proton-proton collision, taken apart in this order:

leptons   final electrons and muons of a W boson or a tau, none of whose ancestors is a hadron,
          bare, within the cuts
photons   final photons, none of whose ancestors is a hadron, within the cuts, with less than a
          share of their pT in the other visible particles of a cone around them
jets      anti-kT jets (Cacciari, Salam, Soyez, arXiv:0802.1189) of all other visible particles,
          within the cuts; flagged where a b hadron, scaled to no momentum, is clustered into them
          (Cacciari, Salam, "Pileup subtraction using jet areas", arXiv:0707.1378)
missing   the transverse momentum of all neutrinos together, if it reaches a threshold

A collision with too few or too many objects is dropped and counted. Ancestors are followed through
Pythia's event record (arXiv:2203.11601); the protons themselves are none.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setflow.data.recipe_keys import EventRecipe
from setflow.data.simulation import EVENTS_AT_ONCE, cluster, round_mantissa, start_pythia
from setflow.schema import COLLISIONS, OBJECT_TYPES, TOP_PAIR_CHANNELS, names

__all__ = ["Record", "channels_of", "make_event_block", "objects_of", "pair_mass"]

ELECTRON, MUON, TAU, PHOTON, W, TOP = 11, 13, 15, 22, 24, 6
GHOST = 1e-20  # what the momentum of a b hadron is scaled by before it is clustered
CODES = {name: code for code, name in enumerate(OBJECT_TYPES)}
AT = {name: column for column, name in enumerate(names(COLLISIONS.objects))}


@dataclass(frozen=True)
class Record:
    """What Pythia tells of some collisions, as arrays over all particles, those in between too.

    Arguments:
        event: the number of the collision, from 0 and rising.
        pdg: the code of the Particle Data Group.
        status: Pythia's status: above 0 if the particle is final, -12 for the protons.
        mothers: the places of its two mothers in these arrays, with shape `(2, n)`; where there is
            one mother alone, or none, another that tells nothing, such as the first of the record.
        p: px, py, pz and the energy, in GeV, with shape `(4, n)`.
    """

    event: NDArray[np.int64]
    pdg: NDArray[np.int64]
    status: NDArray[np.int64]
    mothers: NDArray[np.int64]
    p: NDArray[np.float64]

    @property
    def pt(self) -> NDArray[np.float64]:
        """The transverse momenta, in GeV."""
        pt: NDArray[np.float64] = np.hypot(self.p[0], self.p[1])
        return pt

    @property
    def eta(self) -> NDArray[np.float64]:
        """The pseudorapidities."""
        with np.errstate(divide="ignore", invalid="ignore"):
            eta: NDArray[np.float64] = np.arcsinh(self.p[2] / self.pt)
        return eta

    @property
    def phi(self) -> NDArray[np.float64]:
        """The azimuths, in radians."""
        phi: NDArray[np.float64] = np.arctan2(self.p[1], self.p[0])
        return phi

    @property
    def final(self) -> NDArray[np.bool_]:
        """Which particles are final."""
        return self.status > 0


def make_event_block(
    recipe: EventRecipe, number: int, index: int, enough: int
) -> dict[str, NDArray[Any]]:
    """Simulate one block of collisions, or its beginning if that holds `enough` events.

    Returns:
        `x` with shape `(n, most, 7)`, the features of `setflow.schema.COLLISIONS`; `lengths`,
        `events`, the numbers of the collisions, with shape `(n,)`; `context` `(n, 3)`; and of each
        simulated collision, kept or dropped, the number of its objects, `found` `(m,)`, and the
        code of its channel, `channels` `(m,)`.
    """
    pythia = start_pythia(recipe, number)
    most = recipe.objects[1]
    kept: list[NDArray[np.float64]] = []
    rows: list[tuple[float, float, float]] = []
    events, found, channels = list[int](), list[int](), list[int]()
    for first in range(0, recipe.block, EVENTS_AT_ONCE):
        record = _record(pythia, min(EVENTS_AT_ONCE, recipe.block - first))
        objects = objects_of(record, recipe)
        codes, m_tt = channels_of(record), pair_mass(record)
        for k, event in enumerate(objects):
            found.append(len(event))
            channels.append(int(codes[k]))
            if recipe.objects[0] <= len(event) <= most:
                jets = event[event[:, AT["type"]] == CODES["jet"], AT["pt"]]
                rows.append((codes[k], m_tt[k], jets.sum()))
                kept.append(np.pad(event, ((0, most - len(event)), (0, 0))))
                events.append(index * recipe.block + first + k)
        if len(events) >= enough:
            break
    if not events:
        raise RuntimeError(
            f"none of {recipe.block} collisions has {recipe.objects[0]} to {most} objects by "
            f"recipe {recipe.name}; loosen its cuts, or raise block"
        )
    lengths = np.array(found, np.int64)
    inside = (lengths >= recipe.objects[0]) & (lengths <= most)
    return {
        "x": round_mantissa(np.array(kept, np.float32), recipe.mantissa_bits),
        "lengths": lengths[inside],
        "events": np.array(events, np.int64),
        "context": round_mantissa(np.array(rows, np.float32), recipe.mantissa_bits),
        "found": lengths,
        "channels": np.array(channels, np.int64),
    }


def _record(pythia: Any, size: int) -> Record:
    """Simulate `size` collisions."""
    import awkward as ak

    events = pythia.nextBatch(size).prt
    sizes = ak.to_numpy(ak.num(events))
    number, flat = np.repeat(np.arange(len(sizes)), sizes), ak.flatten(events)
    first = (np.cumsum(sizes) - sizes)[number]
    mothers = [first + ak.to_numpy(flat[key]) for key in ("mother1", "mother2")]
    return Record(
        number,
        ak.to_numpy(flat.id).astype(np.int64),
        ak.to_numpy(flat.status).astype(np.int64),
        np.stack(mothers),
        np.stack([ak.to_numpy(flat.p[key]) for key in ("px", "py", "pz", "e")]),
    )


# --- what particles are and come from ---


def is_hadron(pdg: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which codes are those of hadrons.

    >>> is_hadron(np.array([-211, 130, 521, 2212, 2203, 22, 15])).tolist()
    [True, True, True, True, False, False, False]
    """
    code = np.abs(pdg)
    quarks = (code % 10 > 0) & (code // 10 % 10 > 0) & (code // 100 % 10 > 0)
    hadron: NDArray[np.bool_] = (code > 100) & (code < 1_000_000) & quarks
    hadron |= (code == 130) | (code == 310)
    return hadron


def has_b(pdg: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which codes are those of hadrons with a b quark.

    >>> has_b(np.array([511, -5122, 553, 411, 5])).tolist()
    [True, True, True, False, False]
    """
    code = np.abs(pdg)
    of_b: NDArray[np.bool_] = (code // 100 % 10 == 5) | (code // 1000 % 10 == 5)
    return is_hadron(pdg) & of_b


def _from_hadron(record: Record) -> NDArray[np.bool_]:
    """Return which particles are hadrons or have one among their ancestors, the protons aside."""
    found: NDArray[np.bool_] = is_hadron(record.pdg) & (record.status != -12)
    while True:
        wider = found | found[record.mothers].any(0)
        if np.array_equal(wider, found):
            return found
        found = wider


def _origin(record: Record, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the code, without sign, of the ancestor that a particle came from as another one."""
    code, mothers = np.abs(record.pdg), record.mothers[0]
    above = mothers[places]
    while (same := code[above] == code[places]).any():
        above = np.where(same, mothers[above], above)
    origin: NDArray[np.int64] = code[above]
    return origin


def channels_of(record: Record) -> NDArray[np.int64]:
    """Return the code of the decay channel of each collision, with shape `(m,)`.

    A W boson that decays to leptons is known by the charged one among its daughters.
    """
    code = np.abs(record.pdg)
    of_w = code[record.mothers[0]] == W
    n = int(record.event.max(initial=-1)) + 1
    counts = [
        np.bincount(record.event[of_w & (code == lepton)], minlength=n)
        for lepton in (ELECTRON, MUON, TAU)
    ]
    leptons = np.sum(counts, axis=0)
    single = np.argmax(counts, axis=0) + TOP_PAIR_CHANNELS.index("electron_jets")
    both, none = (TOP_PAIR_CHANNELS.index(name) for name in ("dileptonic", "all_hadronic"))
    return np.where(leptons == 0, none, np.where(leptons == 1, single, both))


def pair_mass(record: Record) -> NDArray[np.float64]:
    """Return the mass of the two top quarks of each collision, in GeV, with shape `(m,)`.

    They are those that decay: the last of their copies in the record.
    """
    last = _last_of(record, np.abs(record.pdg) == TOP)
    n = int(record.event.max(initial=-1)) + 1
    px, py, pz, e = (np.bincount(record.event[last], part[last], minlength=n) for part in record.p)
    mass: NDArray[np.float64] = np.sqrt(np.maximum(e**2 - px**2 - py**2 - pz**2, 0.0))
    return mass


def _last_of(record: Record, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the chosen particles are the mother of none of them."""
    mothers = np.zeros(len(chosen), np.bool_)
    mothers[record.mothers[0][chosen]] = True
    return chosen & ~mothers


# --- objects ---


def objects_of(record: Record, recipe: EventRecipe) -> list[NDArray[np.float64]]:
    """Return the objects of each collision, by type and then by pT, with shape `(N, 7)` each."""
    visible = record.final & ~np.isin(np.abs(record.pdg), recipe.invisible)
    visible &= np.abs(record.eta) < recipe.particle_eta
    of_hadrons = _from_hadron(record)
    leptons = _leptons(record, recipe, of_hadrons)
    photons = _photons(record, recipe, of_hadrons, visible)
    visible[leptons] = visible[photons] = False
    parts = [
        _rows(record, leptons, np.where(np.abs(record.pdg[leptons]) == MUON, "muon", "electron")),
        _rows(record, photons, np.full(len(photons), "photon")),
        _jets(record, recipe, visible),
        _missing(record, recipe),
    ]
    event = np.concatenate([number for number, _ in parts])
    rows = np.concatenate([values for _, values in parts])
    order = np.lexsort((-rows[:, AT["pt"]], rows[:, AT["type"]], event))
    ends = np.searchsorted(event[order], np.arange(record.event.max(initial=-1) + 2))
    return [rows[order][a:b] for a, b in itertools.pairwise(ends)]


_Rows = tuple[NDArray[np.int64], NDArray[np.float64]]  # the collision of each object, its features


def _rows(record: Record, places: NDArray[np.int64], types: NDArray[np.str_]) -> _Rows:
    """Return particles as objects."""
    pdg = record.pdg[places]
    charged = np.isin(np.abs(pdg), (ELECTRON, MUON))
    columns = {
        "pt": record.pt[places],
        "eta": record.eta[places],
        "phi": record.phi[places],
        "type": np.array([CODES[name] for name in types.tolist()]),
        "charge": np.where(charged, np.where(pdg > 0, 1, 2), 0),  # an electron has code 11
    }
    return record.event[places], _table(columns)


def _table(columns: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return features by name as rows, with 0 for all others."""
    rows = np.zeros((len(columns["pt"]), len(AT)))
    for name, values in columns.items():
        rows[:, AT[name]] = values
    return rows


def _leptons(
    record: Record, recipe: EventRecipe, of_hadrons: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the places of electrons and muons."""
    good = record.final & np.isin(np.abs(record.pdg), (ELECTRON, MUON)) & ~of_hadrons
    good &= (record.pt > recipe.lepton_pt) & (np.abs(record.eta) < recipe.lepton_eta)
    places = np.flatnonzero(good)
    return places[np.isin(_origin(record, places), (W, TAU))]


def _photons(
    record: Record,
    recipe: EventRecipe,
    of_hadrons: NDArray[np.bool_],
    visible: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return the places of photons."""
    pt, eta, phi = record.pt, record.eta, record.phi
    good = record.final & (record.pdg == PHOTON) & ~of_hadrons
    good &= (pt > recipe.photon_pt) & (np.abs(eta) < recipe.photon_eta)
    isolated = []
    for place in np.flatnonzero(good).tolist():
        others = np.flatnonzero(visible & (record.event == record.event[place]))
        others = others[others != place]
        dphi = np.mod(phi[others] - phi[place] + np.pi, 2 * np.pi) - np.pi
        near = np.hypot(eta[others] - eta[place], dphi) < recipe.photon_cone
        if pt[others[near]].sum() < recipe.photon_isolation * pt[place]:
            isolated.append(place)
    return np.array(isolated, np.int64)


def _jets(record: Record, recipe: EventRecipe, visible: NDArray[np.bool_]) -> _Rows:
    """Return the jets of visible particles."""
    last = _last_of(record, has_b(record.pdg))
    ghosts = np.flatnonzero(last & (record.pt > recipe.b_hadron_pt))
    places = np.concatenate([np.flatnonzero(visible), ghosts])
    is_ghost = np.arange(len(places)) >= len(places) - len(ghosts)
    if not len(places):
        return np.zeros(0, np.int64), np.zeros((0, len(AT)))
    order = np.argsort(record.event[places], kind="stable")
    places, is_ghost = places[order], is_ghost[order]
    momenta = record.p[:, places] * np.where(is_ghost, GHOST, 1.0)
    particles = dict(zip(("px", "py", "pz", "e"), momenta, strict=True))
    jets = cluster({"event": record.event[places], **particles}, recipe.radius, recipe.jet_pt)
    columns = {
        "pt": jets.pt,
        "eta": jets.eta,
        "phi": jets.phi,
        "mass": np.maximum(jets.mass, recipe.jet_mass),
        "type": np.full(len(jets.pt), CODES["jet"]),
        "b_hadron": np.array([is_ghost[part].any() for part in jets.parts[: len(jets.pt)]]),
    }
    good = (jets.pt > recipe.jet_pt) & (np.abs(jets.eta) < recipe.jet_eta)
    return jets.event[good], _table(columns)[good]


def _missing(record: Record, recipe: EventRecipe) -> _Rows:
    """Return the missing momentum of the collisions that have some."""
    unseen = record.final & np.isin(np.abs(record.pdg), recipe.invisible)
    n = int(record.event.max(initial=-1)) + 1
    px, py = (np.bincount(record.event[unseen], part[unseen], minlength=n) for part in record.p[:2])
    pt, kind = np.hypot(px, py), np.full(n, CODES["missing_momentum"])
    there = pt >= recipe.missing_pt
    rows = _table({"pt": pt, "phi": np.arctan2(py, px), "type": kind})
    return np.flatnonzero(there), rows[there]
