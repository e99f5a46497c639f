"""Data sets with a known truth: jets simulated with Pythia 8 and clustered with FastJet.

A folder `datasets/<name>/` holds a `recipe.yaml`, which says everything that shapes the jets: the
collision, the cuts, what is stored and how it is rounded. No cut stands in this code.

An event is a proton-proton collision. Its visible final particles within the acceptance are
clustered with the anti-kT algorithm (Cacciari, Salam, Soyez, "The anti-k_t jet clustering
algorithm", arXiv:0802.1189) in the E scheme; the leading jets by pT are kept if they pass the cuts.
Stored is, for each jet, the layout of `setflow.schema`: relative to the axis and the pT of the
full jet, hardest particle first.

Events come in blocks of a fixed size, each with a Pythia seed of its own, which follows from the
seed of the run and the number of the block. Blocks are made in any number of processes and used in
order, so the same seed gives the same jets to the last bit whatever `jobs` is.

Sjöstrand et al., "A comprehensive guide to the physics and usage of PYTHIA 8.3", arXiv:2203.11601.
Cacciari, Salam, Soyez, "FastJet user manual", arXiv:1111.6097.
"""

from __future__ import annotations

import difflib
import multiprocessing
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from rich.console import Console

from setflow.data.writing import JetWriter
from setflow.progress import counting_bar
from setflow.schema import PARTICLE_TYPES
from setflow.sets.batch import SetBatch

__all__ = ["Recipe", "make_dataset", "make_shipped", "round_mantissa"]

PYTHIA_SEEDS = 900_000_000  # Pythia takes seeds from 1 to this
SEED_STRIDE = 556_230_589  # golden section of it: seeds of nearby runs land far apart
EVENTS_AT_ONCE = 50
PACKAGES = ("pythia8mc", "fastjet")
CODES = {kind.name: kind.code for kind in PARTICLE_TYPES}


@dataclass(frozen=True)
class Recipe:
    """What a `recipe.yaml` says.

    Arguments:
        name: the name of the data set.
        description: what it holds, in one line.
        made_with: the versions, by package, with which it gives the same bits.
        energy: the centre-of-mass energy of the two protons, in GeV.
        processes: Pythia's names of the hard processes.
        pthat: the range of the transverse momentum of the hard process, in GeV.
        settings: further lines of Pythia settings.
        invisible: PDG codes, signs aside, of the final particles that no jet contains.
        particle_eta: particles are used with |eta| below this.
        radius: the anti-kT radius R.
        leading: so many jets of an event, by pT, are considered.
        jet_pt: jets are kept with a pT strictly within this range, in GeV.
        jet_eta: jets are kept with |eta| below this.
        objects: the number of slots: so many particles of a jet are stored, the hardest.
        mantissa_bits: particle features are rounded to so many explicit bits.
        compression: the gzip level of the file.
        block: the number of events that share a Pythia seed.
        seed: the seed of a run that names none.
        samples: shipped files by name, each with its number of `jets` and its `seed`.
    """

    name: str
    description: str
    made_with: dict[str, str]
    energy: float
    processes: tuple[str, ...]
    pthat: tuple[float, float]
    settings: tuple[str, ...]
    invisible: tuple[int, ...]
    particle_eta: float
    radius: float
    leading: int
    jet_pt: tuple[float, float]
    jet_eta: float
    objects: int
    mantissa_bits: int
    compression: int
    block: int
    seed: int
    samples: dict[str, dict[str, int]]

    def __post_init__(self) -> None:
        for name in ("pthat", "jet_pt"):
            low_high = getattr(self, name)
            if len(low_high) != 2 or not 0 <= low_high[0] < low_high[1]:
                raise ValueError(f"{name} is {low_high}, expected [low, high] in GeV")
        for name in ("energy", "particle_eta", "radius", "leading", "jet_eta", "objects", "block"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not self.processes:
            raise ValueError("processes is empty, expected at least one hard process of Pythia")
        if not 1 <= self.mantissa_bits <= 23:
            raise ValueError(f"mantissa_bits is {self.mantissa_bits}, expected 1 to 23 (float32)")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Recipe:
        """Read `<folder>/recipe.yaml`.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if a key is unknown or missing, or a value is not what it must be.
        """
        path = Path(folder) / "recipe.yaml"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; a data set is a folder with a recipe")
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
        if not isinstance(given, dict):
            raise ValueError(f"{path} holds {type(given).__name__}, expected keys and values")
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                raise ValueError(
                    f"{path}: unknown key '{key}'"
                    + (f", did you mean '{near[0]}'?" if near else f"; known are {known}")
                )
        given = {"samples": {}, "settings": [], **given}
        if missing := [key for key in known if key not in given]:
            raise ValueError(f"{path}: missing {missing}")
        try:
            return cls(**{key: _CONVERTERS[key](given[key]) for key in known})
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from error


def make_dataset(
    folder: str | os.PathLike[str],
    *,
    jets: int,
    out: str | os.PathLike[str],
    jobs: int = 1,
    seed: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Simulate jets by the recipe of a folder and write them to a file.

    With `jobs > 1` new processes import the calling script: keep the call in a script under
    `if __name__ == "__main__":`.

    Arguments:
        folder: the folder of the data set, with its `recipe.yaml`.
        jets: how many jets to write; the last event may give one of its jets only.
        out: the file to write.
        jobs: the number of processes; it changes the time taken, not one bit of the result.
        seed: from 0 to 899,999,999; None takes the recipe's.
        overwrite: replace `out` if it exists.
        progress: show a progress bar on standard error.

    Returns:
        The path of the file.

    Raises:
        OSError: at once, if `out` exists and `overwrite` is False, or cannot be written.
        ImportError: if Pythia or FastJet is not installed.
        RuntimeError: if Pythia does not start, or no jet of a block passes the cuts.
        ValueError: if the recipe or an argument is wrong.
    """
    recipe = Recipe.load(folder)
    seed = recipe.seed if seed is None else seed
    if jets < 1 or jobs < 1:
        raise ValueError(f"got jets={jets} and jobs={jobs}, expected at least one of each")
    if not 0 <= seed < PYTHIA_SEEDS:
        raise ValueError(f"seed is {seed}, expected 0 to {PYTHIA_SEEDS - 1}")
    attributes = {
        "recipe": recipe.name,
        "description": recipe.description,
        "seed": np.int64(seed),
    }
    writer = JetWriter(
        out,
        objects=recipe.objects,
        overwrite=overwrite,
        with_types=True,
        with_events=True,
        attributes=attributes | _versions(recipe),
        compression=recipe.compression,
    )
    bar = counting_bar(disable=not progress, console=Console(stderr=True))
    with bar, writer:
        task = bar.add_task(f"{recipe.name}, jets", total=jets)
        for block in _blocks(recipe, seed, jets, jobs):
            part = {key: torch.from_numpy(value[: jets - writer.n]) for key, value in block.items()}
            writer.write(
                SetBatch(part["x"], part["types"] > 0), part["jets"], part["types"], part["events"]
            )
            bar.update(task, completed=writer.n)
    return Path(out)


def make_shipped(
    folder: str | os.PathLike[str],
    *,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Make the files that a data set ships, named under `samples` in its recipe, in its folder.

    Arguments and errors are those of `make_dataset`.
    """
    samples = Recipe.load(folder).samples
    if not samples:
        raise ValueError(f"the recipe of {folder} names no samples; use make_dataset with a size")
    made = []
    for name, sample in samples.items():
        out = Path(folder) / name
        made.append(
            make_dataset(
                folder, out=out, jobs=jobs, overwrite=overwrite, progress=progress, **sample
            )
        )
    return made


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


def _versions(recipe: Recipe) -> dict[str, str]:
    """Return the versions of what makes the jets; warn if they are not those of the recipe."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ImportError(
                f"{package} is not installed; simulating jets needs `pip install 'setflow[pythia]'`"
            ) from None
        wanted = recipe.made_with.get(package, found[package])
        if found[package] != wanted:
            warnings.warn(
                f"recipe {recipe.name} was made with {package} {wanted}, {found[package]} is "
                "installed: the jets follow the same law but are not the same",
                stacklevel=3,
            )
    return found


def _pythia_seed(seed: int, block: int) -> int:
    """Return the Pythia seed of a block; blocks of one run, and of nearby runs, never share one."""
    return 1 + (seed * SEED_STRIDE + block) % PYTHIA_SEEDS


def _blocks(recipe: Recipe, seed: int, jets: int, jobs: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield blocks in order until they hold `jets` jets."""
    done = index = 0
    if jobs == 1:
        while done < jets:
            block = _make_block(recipe, _pythia_seed(seed, index), index, jets - done)
            done, index = done + len(block["jets"]), index + 1
            yield block
        return
    most = recipe.block * recipe.leading  # jets that a block can hold
    waiting: deque[Future[dict[str, NDArray[Any]]]] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=context) as pool:
        try:
            while done < jets:
                while len(waiting) < 2 * jobs and len(waiting) * most < jets - done:
                    number = _pythia_seed(seed, index)
                    waiting.append(pool.submit(_make_block, recipe, number, index, jets - done))
                    index += 1
                block = waiting.popleft().result()
                done += len(block["jets"])
                yield block
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _make_block(recipe: Recipe, number: int, index: int, enough: int) -> dict[str, NDArray[Any]]:
    """Simulate one block of events, or its beginning if that holds `enough` jets.

    Returns:
        `x` with shape `(n, objects, 3)`, `types` `(n, objects)`, `jets` `(n, 4)`, `events` `(n,)`.
    """
    pythia = _start_pythia(recipe, number)
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


def _start_pythia(recipe: Recipe, number: int) -> Any:
    import pythia8mc

    pythia = pythia8mc.Pythia("", False)
    lines = [
        "Print:quiet = on",
        f"Beams:eCM = {recipe.energy}",
        *(f"{process} = on" for process in recipe.processes),
        f"PhaseSpace:pTHatMin = {recipe.pthat[0]}",
        f"PhaseSpace:pTHatMax = {recipe.pthat[1]}",
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


def _visible_particles(pythia: Any, size: int, recipe: Recipe) -> dict[str, NDArray[Any]]:
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


def _cluster(
    particles: dict[str, NDArray[Any]], recipe: Recipe
) -> Iterator[tuple[int, tuple[float, float, float], NDArray[np.float64], NDArray[np.int8]]]:
    """Yield the jets that pass the cuts, event by event, the harder first.

    Yields:
        The number of the event, (pT, eta, mass) of the jet, and of its stored particles the
        features with shape `(k, 3)` and the types with shape `(k,)`.
    """
    import awkward as ak
    import fastjet
    from fastjet import _swig

    _swig.ClusterSequence.set_fastjet_banner_stream(None)
    sizes = np.bincount(particles["event"])
    momenta = {"px": "px", "py": "py", "pz": "pz", "E": "e"}
    vectors = ak.zip({to: ak.unflatten(particles[key], sizes) for to, key in momenta.items()})
    sequence = fastjet.ClusterSequence(
        vectors, fastjet.JetDefinition(fastjet.antikt_algorithm, recipe.radius)
    )
    jets = sequence.inclusive_jets(recipe.jet_pt[0])
    members = sequence.constituent_index(recipe.jet_pt[0])
    event = np.repeat(np.arange(len(sizes)), ak.to_numpy(ak.num(jets)))
    lengths = ak.to_numpy(ak.flatten(ak.num(members, axis=2)))
    # from the number of a particle in its event to its place in the flat arrays
    place = ak.to_numpy(ak.flatten(members, axis=None)) + np.repeat(
        (np.cumsum(sizes) - sizes)[event], lengths
    )
    parts = np.split(place, np.cumsum(lengths)[:-1])

    px, py, pz, e = (ak.to_numpy(ak.flatten(jets[key])) for key in momenta)
    jet_pt, jet_phi = np.hypot(px, py), np.arctan2(py, px)
    jet_eta = np.arcsinh(pz / jet_pt)
    mass = np.sqrt(np.maximum(e**2 - px**2 - py**2 - pz**2, 0.0))
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


def _pair(value: Any) -> tuple[float, ...]:
    return tuple(float(part) for part in value)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"got {value!r}, expected a list of texts")
    return tuple(value)


def _samples(value: Any) -> dict[str, dict[str, int]]:
    for name, sample in value.items():
        if set(sample) != {"jets", "seed"}:
            raise ValueError(f"sample '{name}' has {sorted(sample)}, expected jets and seed")
    return {str(name): {key: int(part) for key, part in s.items()} for name, s in value.items()}


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "name": str,
    "description": str,
    "made_with": lambda value: {str(name): str(version) for name, version in value.items()},
    "energy": float,
    "processes": _texts,
    "pthat": _pair,
    "settings": _texts,
    "invisible": lambda value: tuple(int(code) for code in value),
    "particle_eta": float,
    "radius": float,
    "leading": int,
    "jet_pt": _pair,
    "jet_eta": float,
    "objects": int,
    "mantissa_bits": int,
    "compression": int,
    "block": int,
    "seed": int,
    "samples": _samples,
}
