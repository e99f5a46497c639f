"""Data sets with a known truth: jets simulated with Pythia 8 and clustered with FastJet.

A folder `datasets/<name>/` holds a `recipe.yaml`, which says everything that shapes the jets: the
collision, the cuts, what is stored and how it is rounded. No cut stands in this code.

Events come in blocks of a fixed size, each with a Pythia seed of its own, which follows from the
seed of the run and the number of the block. Blocks are made in any number of processes and used in
order, so the same seed gives the same jets to the last bit whatever `jobs` is.
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

from setflow.data.simulation import make_block
from setflow.data.writing import JetWriter
from setflow.files import require_single_keys
from setflow.progress import counting_bar
from setflow.sets.batch import SetBatch
from setflow.shipped import RECIPES, find, known

__all__ = ["Recipe", "make_dataset", "make_shipped"]

PYTHIA_SEEDS = 900_000_000  # Pythia takes seeds from 1 to this
SEED_STRIDE = 556_230_589  # golden section of it: seeds of nearby runs land far apart
PACKAGES = ("pythia8mc", "fastjet")


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
            text = path.read_text(encoding="utf-8")
            require_single_keys(text)
            given = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML that can be read: {error}") from error
        if not isinstance(given, dict):
            raise ValueError(f"{path} holds {type(given).__name__}, expected keys and values")
        keys = [field.name for field in fields(cls)]
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
        try:
            return cls(**{key: _CONVERTERS[key](given[key]) for key in keys})
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
        folder: the folder of the data set, with its `recipe.yaml`, or the name of a shipped one.
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
            block = make_block(recipe, _pythia_seed(seed, index), index, jets - done)
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
                    waiting.append(pool.submit(make_block, recipe, number, index, jets - done))
                    index += 1
                block = waiting.popleft().result()
                done += len(block["jets"])
                yield block
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


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
