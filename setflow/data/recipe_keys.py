"""What a `recipe.yaml` says: the keys of all recipes, of those of jets, and of whole events."""

from __future__ import annotations

import difflib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import yaml

from setflow.files import read_bounded, require_single_keys
from setflow.shipped import RECIPES, find, known

__all__ = ["EventRecipe", "JetRecipe", "Recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """What every recipe says; `load` returns that of jets or of events.

    Arguments:
        name: the name of the data set.
        description: what it holds, in one line.
        made_with: the versions, by package, with which it gives the same bits.
        energy: the centre-of-mass energy of the two protons, in GeV.
        processes: Pythia's names of the hard processes.
        settings: further lines of Pythia settings.
        invisible: PDG codes, signs aside, of the final particles that nothing sees: neutrinos.
        particle_eta: particles are used with |eta| below this.
        radius: the anti-kT radius R.
        mantissa_bits: features of objects are rounded to so many explicit bits.
        compression: the gzip level of the file.
        block: the number of collisions that share a Pythia seed.
        seed: the seed of a run that names none.
        samples: shipped files by name, each with its number of `events` and its `seed`.
    """

    stores: ClassVar[str]
    above_zero: ClassVar[tuple[str, ...]] = ("energy", "particle_eta", "radius", "block")

    name: str
    description: str
    made_with: dict[str, str]
    energy: float
    processes: tuple[str, ...]
    settings: tuple[str, ...] = ()
    invisible: tuple[int, ...]
    particle_eta: float
    radius: float
    mantissa_bits: int
    compression: int
    block: int
    seed: int
    samples: dict[str, dict[str, int]]

    def __post_init__(self) -> None:
        for name in self.above_zero:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not self.processes:
            raise ValueError("processes is empty, expected at least one hard process of Pythia")
        if not 1 <= self.mantissa_bits <= 23:
            raise ValueError(f"mantissa_bits is {self.mantissa_bits}, expected 1 to 23 (float32)")

    def phase_space(self) -> list[str]:
        """Return the lines of Pythia settings that cut on the hard process."""
        return []

    @abstractmethod
    def selection(self) -> str:
        """Return what is kept, in words."""

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Recipe:
        """Read `<folder>/recipe.yaml`, or that of a shipped recipe by its name.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if a key is unknown or missing, or a value is not what it must be.
        """
        path = find(RECIPES, folder) / "recipe.yaml"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; a data set is a folder with a recipe; "
                f"{known(RECIPES, folder)}"
            )
        try:
            text = read_bounded(path).decode()
            require_single_keys(text)
            given = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML that can be read: {error}") from error
        if not isinstance(given, dict):
            raise ValueError(f"{path} holds {type(given).__name__}, expected keys and values")
        kinds = {cls.stores: cls for cls in (JetRecipe, EventRecipe)}
        stores = given.pop("stores", JetRecipe.stores)
        if stores not in kinds:
            raise ValueError(f"{path}: stores is {stores!r}, expected {' or '.join(kinds)}")
        return _recipe(kinds[stores], given, str(path))


@dataclass(frozen=True, kw_only=True)
class JetRecipe(Recipe):
    """What a recipe of jets says.

    Arguments:
        pthat: the range of the transverse momentum of the hard process, in GeV.
        leading: so many jets of a collision, by pT, are considered.
        jet_pt: jets are kept with a pT strictly within this range, in GeV.
        jet_eta: jets are kept with |eta| below this.
        objects: the number of slots: so many particles of a jet are stored, the hardest.
    """

    stores = "jets"
    above_zero = (*Recipe.above_zero, "leading", "jet_eta", "objects")

    pthat: tuple[float, float]
    leading: int
    jet_pt: tuple[float, float]
    jet_eta: float
    objects: int

    def __post_init__(self) -> None:
        for name in ("pthat", "jet_pt"):
            low_high = getattr(self, name)
            if len(low_high) != 2 or not 0 <= low_high[0] < low_high[1]:
                raise ValueError(f"{name} is {low_high}, expected [low, high] in GeV")
        super().__post_init__()

    def phase_space(self) -> list[str]:
        low, high = self.pthat
        return [f"PhaseSpace:pTHatMin = {low}", f"PhaseSpace:pTHatMax = {high}"]

    def selection(self) -> str:
        return (
            f"pT {self.jet_pt[0]:g} to {self.jet_pt[1]:g} GeV, |eta| below {self.jet_eta:g}, "
            f"radius {self.radius:g}, at most {self.objects} particles"
        )


@dataclass(frozen=True, kw_only=True)
class EventRecipe(Recipe):
    """What a recipe of whole events says; momenta in GeV.

    Arguments:
        lepton_pt: electrons and muons are objects with a pT above this.
        lepton_eta: and with |eta| below this.
        photon_pt: photons are objects with a pT above this.
        photon_eta: and with |eta| below this.
        photon_cone: the radius around a photon in which other particles are summed.
        photon_isolation: the share of its pT that they stay below.
        jet_pt: jets are objects with a pT above this.
        jet_eta: and with |eta| below this.
        jet_mass: a jet of less mass, such as that of one photon, is stored with this one.
        b_hadron_pt: a jet has the flag by b hadrons with a pT above this.
        missing_pt: the missing transverse momentum is an object from this on.
        objects: events have at least and at most so many objects; others are dropped.
    """

    stores = "events"
    above_zero = (
        *Recipe.above_zero,
        *("lepton_pt", "lepton_eta", "photon_pt", "photon_eta", "photon_cone", "photon_isolation"),
        *("jet_pt", "jet_eta", "jet_mass", "b_hadron_pt", "missing_pt"),
    )

    lepton_pt: float
    lepton_eta: float
    photon_pt: float
    photon_eta: float
    photon_cone: float
    photon_isolation: float
    jet_pt: float
    jet_eta: float
    jet_mass: float
    b_hadron_pt: float
    missing_pt: float
    objects: tuple[int, int]

    def __post_init__(self) -> None:
        if len(self.objects) != 2 or not 0 < self.objects[0] <= self.objects[1]:
            raise ValueError(
                f"objects is {self.objects}, expected the smallest and largest number of an event"
            )
        super().__post_init__()

    def selection(self) -> str:
        return (
            f"{self.objects[0]} to {self.objects[1]} objects: leptons with pT above "
            f"{self.lepton_pt:g} GeV, photons above {self.photon_pt:g} GeV, jets of radius "
            f"{self.radius:g} above {self.jet_pt:g} GeV, missing momentum from "
            f"{self.missing_pt:g} GeV"
        )


def _recipe(kind: type[JetRecipe | EventRecipe], given: dict[str, Any], path: str) -> Recipe:
    """Return the recipe of keys and values."""
    keys = [field.name for field in fields(kind)]
    for key in given:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            raise ValueError(
                f"{path}: unknown key '{key}'"
                + (f", did you mean '{near[0]}'?" if near else f"; known are {keys}")
            )
    given = {"samples": {}, "settings": [], **given}
    if missing := [key for key in keys if key not in given]:
        raise ValueError(f"{path}: missing {missing}")
    types = {field.name: str(field.type) for field in fields(kind)}
    try:
        return kind(**{key: _CONVERTERS[types[key]](given[key]) for key in keys})
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"got {value!r}, expected a list of texts")
    return tuple(value)


def _samples(value: Any) -> dict[str, dict[str, int]]:
    for name, sample in value.items():
        if set(sample) != {"events", "seed"}:
            raise ValueError(f"sample '{name}' has {sorted(sample)}, expected events and seed")
    return {str(name): {key: int(part) for key, part in s.items()} for name, s in value.items()}


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "tuple[str, ...]": _texts,
    "tuple[int, ...]": lambda value: tuple(int(part) for part in value),
    "tuple[int, int]": lambda value: tuple(int(part) for part in value),
    "tuple[float, float]": lambda value: tuple(float(part) for part in value),
    "dict[str, str]": lambda value: {str(name): str(version) for name, version in value.items()},
    "dict[str, dict[str, int]]": _samples,
}
"""What makes a value of YAML one of the type that a key is declared with."""
