"""Types of particles by the codes of the Particle Data Group."""

from __future__ import annotations

from setflow.schema import PARTICLE_TYPES

__all__ = ["PDG_TYPES"]

_CHARGED = (211, 321, 2212, 3222, -3112, -3312, -3334, 411, 431, 521)
_NEUTRAL = (111, 130, 310, 311, 421, 511, 531, 2112, 3122, 3212, 3322)
_NAMES = {kind.name: kind.code for kind in PARTICLE_TYPES}


def _pdg_types() -> dict[int, int]:
    hadrons = {name: code for name, code in _NAMES.items() if "hadron" in name}
    neutral = hadrons["neutral hadron"]
    (plus,) = (kind.code for kind in PARTICLE_TYPES if kind.name in hadrons and kind.charge > 0)
    (minus,) = (kind.code for kind in PARTICLE_TYPES if kind.name in hadrons and kind.charge < 0)
    found = {22: _NAMES["photon"]}
    found |= dict.fromkeys((s * code for code in _NEUTRAL for s in (1, -1)), neutral)
    found |= dict.fromkeys(_CHARGED, plus) | dict.fromkeys((-code for code in _CHARGED), minus)
    leptons = {11: "electron", 13: "muon"}
    for code, name in leptons.items():
        found |= {code: _NAMES[f"{name} -"], -code: _NAMES[f"{name} +"]}
    return found


PDG_TYPES = _pdg_types()
"""The codes of `PARTICLE_TYPES` by those of the Particle Data Group, of what lives long enough."""
