"""Simulate jets: collisions with Pythia 8, clustered with FastJet, as a recipe says.

An event is a proton-proton collision. Its visible final particles within the acceptance are
clustered with the anti-kT algorithm (Cacciari, Salam, Soyez, "The anti-k_t jet clustering
algorithm", arXiv:0802.1189) in the E scheme; the leading jets by pT are kept if they pass the cuts.
Stored is, for each jet, the layout of `setflow.schema`: relative to the axis and the pT of the
full jet, hardest particle first.

Sjöstrand et al., "A comprehensive guide to the physics and usage of PYTHIA 8.3", arXiv:2203.11601.
Cacciari, Salam, Soyez, "FastJet user manual", arXiv:1111.6097.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setflow.data.recipe_keys import JetRecipe, Recipe
from setflow.schema import PARTICLE_TYPES

__all__ = ["EVENTS_AT_ONCE", "Jets", "cluster", "make_block", "round_mantissa", "start_pythia"]

EVENTS_AT_ONCE = 50
CODES = {kind.name: kind.code for kind in PARTICLE_TYPES}


def round_mantissa(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Round float32 values to so many explicit bits of mantissa, ties to even.

    The relative error is at most 2^-(bits + 1). Rounded values compress better: what a simulation
    says beyond that precision is of no use to anyone.

    >>> round_mantissa(np.array([1.0, 1.1], np.float32), bits=12).tolist()
    [1.0, 1.10009765625]
    """
    drop = 23 - bits
    if drop == 0:
        return values.copy()
    pattern = values.view(np.uint32)
    odd = (pattern >> np.uint32(drop)) & np.uint32(1)
    rounded = (pattern + (np.uint32((1 << (drop - 1)) - 1) + odd)) >> np.uint32(drop)
    return (rounded << np.uint32(drop)).view(np.float32)


def make_block(recipe: JetRecipe, number: int, index: int, enough: int) -> dict[str, NDArray[Any]]:
    """Simulate one block of collisions, or its beginning if that holds `enough` jets.

    Returns:
        `x` with shape `(n, objects, 3)`, `types` `(n, objects)`, `jets` `(n, 4)`, `events` `(n,)`.
    """
    pythia = start_pythia(recipe, number)
    found: list[tuple[Any, ...]] = []
    for first in range(0, recipe.block, EVENTS_AT_ONCE):
        size = min(EVENTS_AT_ONCE, recipe.block - first)
        particles = _visible_particles(pythia, size, recipe)
        for event, *jet in _cluster(particles, recipe):
            found.append((index * recipe.block + first + event, *jet))
        if len(found) >= enough:
            break
    if not found:
        raise RuntimeError(
            f"none of {recipe.block} events gave a jet that passes the cuts of recipe "
            f"{recipe.name}; let pthat and jet_pt overlap, or raise block"
        )
    x = np.zeros((len(found), recipe.objects, 3), np.float32)
    types = np.zeros((len(found), recipe.objects), np.int8)
    jets = np.zeros((len(found), 4), np.float32)
    for k, (_, jet, features, kinds) in enumerate(found):
        x[k, : len(features)], types[k, : len(kinds)] = features, kinds
        jets[k] = (*jet, len(kinds))
    events = np.array([event for event, *_ in found], np.int64)
    x = round_mantissa(x, recipe.mantissa_bits)
    return {"x": x, "types": types, "jets": jets, "events": events}


def start_pythia(recipe: Recipe, number: int) -> Any:
    """Return Pythia, ready for the collisions of a recipe, with a seed.

    Raises:
        RuntimeError: if it does not start.
        ValueError: if it does not know a setting.
    """
    import pythia8mc

    pythia = pythia8mc.Pythia("", False)
    lines = [
        "Print:quiet = on",
        f"Beams:eCM = {recipe.energy}",
        *(f"{process} = on" for process in recipe.processes),
        *recipe.phase_space(),
        *recipe.settings,
        "Random:setSeed = on",
        f"Random:seed = {number}",
    ]
    for line in lines:
        if not pythia.readString(line):
            raise ValueError(f"Pythia does not know '{line}' of recipe {recipe.name}")
    if not pythia.init():
        raise RuntimeError(f"Pythia could not start with recipe {recipe.name}")
    return pythia


def _visible_particles(pythia: Any, size: int, recipe: JetRecipe) -> dict[str, NDArray[Any]]:
    """Simulate `size` events and return their visible final particles within the acceptance.

    Returns:
        Flat arrays over the particles: `event` (from 0), `px`, `py`, `pz`, `e` in GeV, `eta`, and
        `type`, a code of `PARTICLE_TYPES`.
    """
    import awkward as ak

    events = pythia.nextBatch(size).prt
    number = np.repeat(np.arange(len(events)), ak.to_numpy(ak.num(events)))
    flat = ak.flatten(events)
    pdg, final = ak.to_numpy(flat.id), ak.to_numpy(flat.status) > 0
    px, py, pz, e = (ak.to_numpy(flat.p[key]) for key in ("px", "py", "pz", "e"))
    pt = np.hypot(px, py)
    with np.errstate(divide="ignore", invalid="ignore"):
        eta = np.arcsinh(pz / pt)
    keep = final & ~np.isin(np.abs(pdg), recipe.invisible) & (np.abs(eta) < recipe.particle_eta)
    species, place = np.unique(pdg[keep], return_inverse=True)
    codes = np.array([_type_of(int(k), pythia.particleData) for k in species], np.int8)
    flat_arrays = {"event": number, "px": px, "py": py, "pz": pz, "e": e, "eta": eta}
    return {key: values[keep] for key, values in flat_arrays.items()} | {"type": codes[place]}


def _type_of(pdg: int, table: Any) -> int:
    """Return the code of a PDG code."""
    charge = int(table.chargeType(pdg))
    sign = "+" if charge > 0 else "-"
    light = {11: "electron", 13: "muon"}.get(abs(pdg))
    if light is not None:
        return CODES[f"{light} {sign}"]
    if pdg == 22:
        return CODES["photon"]
    return CODES[f"charged hadron {sign}" if charge else "neutral hadron"]


class Jets(NamedTuple):
    """Jets of some collisions, as arrays over the jets.

    Arguments:
        event: the number of the collision, from 0.
        pt: the transverse momentum, in GeV.
        eta: the pseudorapidity.
        phi: the azimuth, in radians.
        mass: the invariant mass, in GeV.
        parts: of each jet, the places of its particles.
    """

    event: NDArray[np.int64]
    pt: NDArray[np.float64]
    eta: NDArray[np.float64]
    phi: NDArray[np.float64]
    mass: NDArray[np.float64]
    parts: list[NDArray[np.int64]]


def cluster(particles: dict[str, NDArray[Any]], radius: float, pt_min: float) -> Jets:
    """Return the anti-kT jets of collisions.

    Arguments:
        particles: arrays over the particles: `event`, the number of the collision, from 0 and
            rising, and `px`, `py`, `pz`, `e` in GeV.
        radius: the radius R.
        pt_min: jets with less pT, in GeV, are left out.
    """
    import awkward as ak
    import fastjet
    from fastjet import _swig

    _swig.ClusterSequence.set_fastjet_banner_stream(None)
    sizes = np.bincount(particles["event"])
    momenta = {"px": "px", "py": "py", "pz": "pz", "E": "e"}
    vectors = ak.zip({to: ak.unflatten(particles[key], sizes) for to, key in momenta.items()})
    sequence = fastjet.ClusterSequence(
        vectors, fastjet.JetDefinition(fastjet.antikt_algorithm, radius)
    )
    jets = sequence.inclusive_jets(pt_min)
    members = sequence.constituent_index(pt_min)
    event = np.repeat(np.arange(len(sizes)), ak.to_numpy(ak.num(jets)))
    lengths = ak.to_numpy(ak.flatten(ak.num(members, axis=2)))
    # from the number of a particle in its event to its place in the flat arrays
    place = ak.to_numpy(ak.flatten(members, axis=None)) + np.repeat(
        (np.cumsum(sizes) - sizes)[event], lengths
    )
    parts = np.split(place, np.cumsum(lengths)[:-1])
    px, py, pz, e = (ak.to_numpy(ak.flatten(jets[key])) for key in momenta)
    pt = np.hypot(px, py)
    mass = np.sqrt(np.maximum(e**2 - px**2 - py**2 - pz**2, 0.0))
    return Jets(event, pt, np.arcsinh(pz / pt), np.arctan2(py, px), mass, parts)


def _cluster(
    particles: dict[str, NDArray[Any]], recipe: JetRecipe
) -> Iterator[tuple[int, tuple[float, float, float], NDArray[np.float64], NDArray[np.int8]]]:
    """Yield the jets that pass the cuts, event by event, the harder first.

    Yields:
        The number of the event, (pT, eta, mass) of the jet, and of its stored particles the
        features with shape `(k, 3)` and the types with shape `(k,)`.
    """
    event, jet_pt, jet_eta, jet_phi, mass, parts = cluster(
        particles, recipe.radius, recipe.jet_pt[0]
    )
    low, high = recipe.jet_pt
    good = (low < jet_pt) & (jet_pt < high) & (np.abs(jet_eta) < recipe.jet_eta)

    by_pt = np.lexsort((-jet_pt, event))
    rank = np.arange(len(event)) - np.searchsorted(event, event)  # of by_pt, within the event
    pt = np.hypot(particles["px"], particles["py"])
    phi = np.arctan2(particles["py"], particles["px"])
    for j in by_pt[rank < recipe.leading]:
        if not good[j]:
            continue
        inside = parts[j][np.argsort(-pt[parts[j]], kind="stable")][: recipe.objects]
        etarel = particles["eta"][inside] - jet_eta[j]
        phirel = np.mod(phi[inside] - jet_phi[j] + np.pi, 2 * np.pi) - np.pi
        features = np.stack([etarel, phirel, pt[inside] / jet_pt[j]], axis=1)
        yield int(event[j]), (jet_pt[j], jet_eta[j], mass[j]), features, particles["type"][inside]
