"""Sampling to a file: blocks of events go to HDF5 as they are made, and the file appears when it
is complete."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from setflow.data.hdf5 import read_jets
from setflow.data.header import read_header
from setflow.data.jets import PARTICLE_NAMES
from setflow.data.valid import counted
from setflow.data.writing import JetWriter
from setflow.files import check_hdf5_name, check_target, file_sha256
from setflow.jobs.identity import described, identity_of
from setflow.model.model import SetFlow
from setflow.physics.kinematics import jet_features
from setflow.progress import counting_bar
from setflow.schema import RELATIVE_JET_UNITS
from setflow.sets.batch import SetBatch
from setflow.sets.protocols import Solver
from setflow.shipped import JETS, find
from setflow.solvers.fixed import FixedStepSolver, Midpoint

__all__ = ["sample_to_hdf5"]

_BLOCK = 2048  # events per block


def sample_to_hdf5(
    flow: SetFlow,
    out: str | Path,
    *,
    events: int | None = None,
    like: str | Path | None = None,
    solver: Solver | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Sample jets into a file of the JetNet layout.

    Arguments:
        flow: the model; its features must be those of the layout, in any order.
        out: the HDF5 file to write, named .h5 or .hdf5; its folder must exist.
        events: the number of jets; None takes as many as `like` holds.
        like: a file whose jets give cardinality and context, in order; None draws the cardinality
            from the model's p(N), which a model with conditions does not allow.
        solver: the ODE solver; None takes `Midpoint(steps=50)`.
        seed: the seed of the sample.
        overwrite: replace a file that is there.
        progress: show a progress bar.

    Returns:
        The path of the file. Mass and pT stand in units of the jet pT, as the file says. Its
        attributes hold the model and the hash of its weights, the version of setflow, the seed,
        the solver, and for one of fixed steps how often it evaluates the field for a jet. A sample
        is never lost: values that cannot be, such as a ptrel below 0, are written as they are.

    Warns:
        UserWarning: if there are such values; the attribute `unphysical` says how many.

    Raises:
        OSError: if the file exists and may not be replaced, or cannot be written.
        ValueError: if `out` is not named so, the model and the layout do not fit, `like` has too
            few jets, or neither `events` nor `like` is given.
    """
    out = check_target(check_hdf5_name(out), overwrite=overwrite)
    if sorted(flow.features) != sorted(PARTICLE_NAMES):
        raise ValueError(
            f"the model makes {', '.join(flow.features)}; a file of the JetNet layout holds "
            f"{', '.join(PARTICLE_NAMES)}: use SetFlow.sample in Python"
        )
    columns = [flow.features.index(name) for name in PARTICLE_NAMES]
    flow.require_fitted()
    if events is not None and events < 1:
        raise ValueError(f"events must be at least 1, got {events}")
    lengths, context = (None, None) if like is None else _like(flow, like, events)
    if events is None:
        if lengths is None:
            raise ValueError("say how many jets to sample, with events or with like")
        events = len(lengths)
    if flow.conditions and context is None:
        raise ValueError(
            f"the model is conditioned on {', '.join(flow.conditions)}; give a file with like "
            "(--like) whose jets tell them"
        )
    if lengths is not None:
        objects = int(lengths.max()) if len(lengths) else 0
    elif flow.cardinality is not None:
        objects = flow.cardinality.max_objects
    else:
        raise ValueError("the model has no cardinality model; give a file with like (--like)")
    solver = Midpoint(steps=50) if solver is None else solver
    attributes = {**identity_of(flow), "seed": seed, "solver": described(solver)}
    if isinstance(solver, FixedStepSolver):
        attributes["evaluations"] = len(solver.weights) * solver.steps  # of the field, each jet
    if like is not None:
        path = find(JETS, like)
        attributes |= {"like": path.name, "like_sha256": file_sha256(path)}
    with (
        JetWriter(
            out,
            objects=objects,
            overwrite=overwrite,
            jet_units=RELATIVE_JET_UNITS,
            attributes=attributes,
            keep_unphysical=True,
        ) as writer,
        counting_bar(disable=not progress) as bar,
    ):
        task = bar.add_task("sampling", total=events)
        for first in range(0, events, _BLOCK):
            block = slice(first, min(first + _BLOCK, events))
            size = block.stop - block.start
            batch = flow.sample(
                size,
                None if context is None else context[block],
                seed,
                lengths=None if lengths is None else lengths[block],
                first=first,
                solver=solver,
            )
            batch = _padded(batch.to("cpu"), columns, objects)
            writer.write(batch, jet_features(batch.x, batch.mask))
            bar.advance(task, size)
    if writer.unphysical:
        warnings.warn(_unphysical(out, writer.unphysical), stacklevel=2)
    return out


def _like(flow: SetFlow, path: str | Path, events: int | None) -> tuple[Tensor, Tensor | None]:
    """Return the cardinalities, cut to what the model knows, and the context of a file's jets."""
    largest = None if flow.cardinality is None else flow.cardinality.max_objects
    held = read_header(find(JETS, path)).n
    if events is not None and held < events:
        raise ValueError(
            f"{path} holds {held} jets, and {events} are to be sampled like them; ask for at most "
            f"{held} (--events {held}), leave the number out to sample one for each, or give a "
            "larger file"
        )
    sample = read_jets(path, stop=events, max_objects=largest, conditions=flow.conditions)
    context = sample.context(flow.conditions) if flow.conditions else None
    return sample.particles.lengths, context


def _unphysical(out: Path, counts: Mapping[str, int]) -> str:
    return (
        f"the model made particles that cannot be: {counted(counts)}. They stand in {out} as they "
        "are; setflow evaluate counts them, and setflow score leaves out their jets"
    )


def _padded(batch: SetBatch, columns: Sequence[int], objects: int) -> SetBatch:
    """Return events with these columns of their features and so many slots."""
    missing = objects - batch.x.shape[1]
    x = torch.nn.functional.pad(batch.x[..., columns], (0, 0, 0, missing))
    return SetBatch(x, torch.nn.functional.pad(batch.mask, (0, missing)))
