"""Sampling to a file: blocks of events go to HDF5 as they are made, and the file appears when it
is complete."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import Tensor

from setflow.data.hdf5 import read_events
from setflow.files import check_hdf5_name, check_target, file_sha256
from setflow.jobs.identity import described, identity_of
from setflow.jobs.sampled import SampledFile, layout_for
from setflow.model.model import SetFlow
from setflow.progress import counting_bar
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
    layout: int | None = None,
) -> Path:
    """Sample events into a file.

    Arguments:
        flow: the model.
        out: the HDF5 file to write, named .h5 or .hdf5; its folder must exist.
        events: the number of events; None takes as many as `like` holds.
        like: a file whose events give cardinality and context, in order; None draws the cardinality
            from the model's p(N), which a model with conditions does not allow.
        solver: the ODE solver; None takes `Midpoint(steps=50)`.
        seed: the seed of the sample.
        overwrite: replace a file that is there.
        progress: show a progress bar.
        layout: 1 writes JetNet's layout, which holds etarel, phirel and ptrel, and 2 that of events
            of any schema, which holds the contexts, too; None takes 1 if the model makes these
            features, and 2 otherwise.

    Returns:
        The path of the file. In JetNet's layout mass and pT stand in units of the jet pT, as the
        file says. Its attributes hold the model and the hash of its weights, the version of
        setflow, the seed, the solver, and for one of fixed steps how often it evaluates the field
        for an event. A sample is never lost: values that cannot be, such as a ptrel below 0, are
        written as they are.

    Warns:
        UserWarning: if there are such values; the attribute `unphysical` says how many.

    Raises:
        OSError: if the file exists and may not be replaced, or cannot be written.
        ValueError: if `out` is not named so, the model and the layout do not fit, `like` has too
            few events, or neither `events` nor `like` is given.
    """
    out = check_target(check_hdf5_name(out), overwrite=overwrite)
    layout = layout_for(flow, layout)
    flow.require_fitted()
    if events is not None and events < 1:
        raise ValueError(f"events must be at least 1, got {events}")
    lengths, context = (None, None) if like is None else _like(flow, like, events)
    if events is None:
        if lengths is None:
            raise ValueError("say how many events to sample, with events or with like")
        events = len(lengths)
    if flow.conditions and context is None:
        raise ValueError(
            f"the model is conditioned on {', '.join(flow.conditions)}; give a file with like "
            "(--like) whose events tell them"
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
        attributes["evaluations"] = len(solver.weights) * solver.steps  # of the field, each event
    if like is not None:
        path = find(JETS, like)
        attributes |= {"like": path.name, "like_sha256": file_sha256(path)}
    with (
        SampledFile(
            flow, out, layout=layout, objects=objects, overwrite=overwrite, attributes=attributes
        ) as file,
        counting_bar(disable=not progress) as bar,
    ):
        task = bar.add_task("sampling", total=events)
        for first in range(0, events, _BLOCK):
            block = slice(first, min(first + _BLOCK, events))
            size = block.stop - block.start
            c = None if context is None else context[block]
            batch = flow.sample(
                size,
                c,
                seed,
                lengths=None if lengths is None else lengths[block],
                first=first,
                solver=solver,
            )
            file.write(SetBatch(batch.x.cpu(), batch.mask.cpu(), c))
            bar.advance(task, size)
    if (warning := file.warning()) is not None:
        warnings.warn(warning, stacklevel=2)
    return out


def _like(flow: SetFlow, path: str | Path, events: int | None) -> tuple[Tensor, Tensor | None]:
    """Return the cardinalities, cut to what the model knows, and the context of a file's events."""
    largest = None if flow.cardinality is None else flow.cardinality.max_objects
    sample = read_events(
        path,
        flow.schema,
        stop=events,
        max_objects=largest,
        features=flow.features,
        conditions=flow.conditions,
    )
    if events is not None and len(sample) < events:
        raise ValueError(f"{path} holds {len(sample)} events, expected at least {events}")
    context = sample.context(flow.conditions) if flow.conditions else None
    return sample.objects.lengths, context
