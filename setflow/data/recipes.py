"""Data sets with a known truth: jets and whole events, simulated with Pythia 8 and FastJet.

A folder `datasets/<name>/` holds a `recipe.yaml`, which says everything that shapes what is made
(`setflow.data.recipe_keys`): the collision, the cuts, what is stored and how it is rounded. No cut
stands in this code.

Collisions come in blocks of a fixed size, each with a Pythia seed of its own, which follows from
the seed of the run and the number of the block. Blocks are made in any number of processes and used
in order, so the same seed gives the same file to the last bit whatever `jobs` is. They are kept
until the file is there, so the same call goes on where it was killed (`setflow.data.kept_blocks`).
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from setflow.background import end_with_parent
from setflow.data.event_simulation import make_event_block
from setflow.data.event_writing import EventWriter
from setflow.data.kept_blocks import Block, KeptBlocks
from setflow.data.recipe_keys import EventRecipe, JetRecipe, Recipe
from setflow.data.simulation import make_block
from setflow.data.writing import JetWriter
from setflow.progress import counting_bar
from setflow.schema import COLLISIONS
from setflow.sets.batch import SetBatch
from setflow.version import __version__

__all__ = ["Recipe", "make_dataset"]

PYTHIA_SEEDS = 900_000_000  # Pythia takes seeds from 1 to this
SEED_STRIDE = 556_230_589  # golden section of it: seeds of nearby runs land far apart
PACKAGES = ("pythia8mc", "fastjet")

Task = Callable[[Any, int, int, int], Block]


def make_dataset(
    folder: str | os.PathLike[str],
    *,
    events: int,
    out: str | os.PathLike[str],
    jobs: int = 1,
    seed: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Simulate jets or whole events by the recipe of a folder and write them to a file.

    With `jobs > 1` new processes import the calling script: keep the call in a script under
    `if __name__ == "__main__":`.

    Arguments:
        folder: the folder of the data set, with its `recipe.yaml`, or the name of a shipped one.
        events: how many jets or events to write; the last collision may give one of its jets only.
        out: the file to write.
        jobs: the number of processes; it changes the time taken, not one bit of the result.
        seed: from 0 to 899,999,999; None takes the recipe's.
        overwrite: replace `out` if it exists, and what a call of another plan has left of it.
        progress: show a progress bar on standard error.

    Returns:
        The path of the file.

    Raises:
        OSError: at once, if `out` exists and `overwrite` is False, cannot be written, or is being
            made by another process.
        ImportError: if Pythia or FastJet is not installed.
        RuntimeError: if Pythia does not start, or nothing of a block passes the cuts.
        ValueError: if the recipe or an argument is wrong, or a call that was killed has left
            blocks of another recipe, seed or number of events.
    """
    recipe = Recipe.load(folder)
    seed = recipe.seed if seed is None else seed
    if events < 1 or jobs < 1:
        raise ValueError(f"got events={events} and jobs={jobs}, expected at least one of each")
    if not 0 <= seed < PYTHIA_SEEDS:
        raise ValueError(f"seed is {seed}, expected 0 to {PYTHIA_SEEDS - 1}")
    attributes = {
        "recipe": recipe.name,
        "description": recipe.description,
        "seed": np.int64(seed),
    }
    versions = _versions(recipe)
    attributes |= versions
    plan = {"recipe": asdict(recipe), "seed": int(seed), "events": int(events), **versions}
    plan["setflow"] = __version__
    made = _KINDS[type(recipe)](
        recipe, out, overwrite=overwrite, attributes=attributes, compression=recipe.compression
    )
    bar = counting_bar(disable=not progress, console=Console(stderr=True))
    kept = KeptBlocks(Path(out), plan, overwrite=overwrite)
    with kept, bar, made.writer as writer:
        task = bar.add_task(f"{recipe.name}, {recipe.stores}", total=events)
        for block in _blocks(made, kept, seed, events, jobs):
            made.write(block, events - writer.n)
            bar.update(task, completed=writer.n)
        writer.tell({key: np.int64(n) for key, n in made.counts.items()})
    return Path(out)


class _Made(ABC):
    """A file that is made by a recipe.

    Arguments:
        recipe: what it is made by.
        task: what makes a block, called with the recipe, seed, number and how many are left.
        writer: what writes it.
        most: how many jets or events a block can hold.
    """

    writer: JetWriter | EventWriter

    def __init__(
        self, recipe: Recipe, task: Task, writer: JetWriter | EventWriter, most: int
    ) -> None:
        self.recipe, self.task, self.writer, self.most = recipe, task, writer, most
        self.counts: dict[str, int] = {}  # for the attributes of the file

    @abstractmethod
    def write(self, block: Block, left: int) -> None:
        """Write a block, or its beginning if it holds more than what is left to do."""


class _Jets(_Made):
    """A file of jets, in the layout of JetNet."""

    writer: JetWriter

    def __init__(self, recipe: JetRecipe, out: str | os.PathLike[str], **options: Any) -> None:
        writer = JetWriter(
            out, objects=recipe.objects, with_types=True, with_events=True, **options
        )
        super().__init__(recipe, make_block, writer, recipe.block * recipe.leading)

    def write(self, block: Block, left: int) -> None:
        part = {key: torch.from_numpy(value[:left]) for key, value in block.items()}
        self.writer.write(
            SetBatch(part["x"], part["types"] > 0), part["jets"], part["types"], part["events"]
        )


class _Events(_Made):
    """A file of whole events, one behind the other; it tells how many collisions were dropped."""

    writer: EventWriter

    def __init__(self, recipe: EventRecipe, out: str | os.PathLike[str], **options: Any) -> None:
        writer = EventWriter(out, COLLISIONS, **options)
        super().__init__(recipe, make_event_block, writer, recipe.block)
        self._limits = recipe.objects
        self.counts = dict.fromkeys(("collisions", "too_few_objects", "too_many_objects"), 0)

    def write(self, block: Block, left: int) -> None:
        lengths, events = block["lengths"][:left], block["events"][:left]
        mask = np.arange(self._limits[1]) < lengths[:, None]
        objects = SetBatch(torch.from_numpy(block["x"][:left]), torch.from_numpy(mask))
        self.writer.write(
            objects,
            torch.from_numpy(block["context"][:left]),
            event_number=torch.from_numpy(events),
        )
        found = block["found"]
        if len(block["events"]) >= left:  # the last block: what comes behind was not needed
            found = found[: int(events[-1]) % self.recipe.block + 1]
        few, many = self._limits
        for key, n in zip(
            self.counts, (len(found), (found < few).sum(), (found > many).sum()), strict=True
        ):
            self.counts[key] += int(n)


_KINDS: dict[type[Recipe], Callable[..., _Made]] = {JetRecipe: _Jets, EventRecipe: _Events}


def _versions(recipe: Recipe) -> dict[str, str]:
    """Return the versions of what simulates; warn if they are not those of the recipe."""
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
                f"installed: the {recipe.stores} follow the same law but are not the same",
                stacklevel=3,
            )
    return found


def _pythia_seed(seed: int, block: int) -> int:
    """Return the Pythia seed of a block; blocks of one run, and of nearby runs, never share one."""
    return 1 + (seed * SEED_STRIDE + block) % PYTHIA_SEEDS


def _blocks(made: _Made, kept: KeptBlocks, seed: int, events: int, jobs: int) -> Iterator[Block]:
    """Yield blocks in order until they hold what is asked for, and keep those that are new."""
    recipe, task = made.recipe, made.task
    done = index = 0
    if jobs == 1:
        while done < events:
            block = kept.read(index)
            if block is None:
                block = task(recipe, _pythia_seed(seed, index), index, events - done)
                kept.keep(index, block)
            done, index = done + len(block["events"]), index + 1
            yield block
        return
    waiting: deque[tuple[int, Block | Future[Block]]] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=end_with_parent) as pool:
        try:
            while done < events:
                while len(waiting) < 2 * jobs and len(waiting) * made.most < events - done:
                    number, held = _pythia_seed(seed, index), kept.read(index)
                    work = held or pool.submit(task, recipe, number, index, events - done)
                    waiting.append((index, work))
                    index += 1
                at, found = waiting.popleft()
                if isinstance(found, Future):
                    found = found.result()
                    kept.keep(at, found)
                done += len(found["events"])
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
