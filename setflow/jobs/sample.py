"""Sampling to a file: blocks of events go to HDF5 as they are made, and the file appears when it
is complete."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import Tensor

from setflow.files import check_hdf5_name, check_target
from setflow.jobs.contexts import Conditions, asked_for
from setflow.jobs.identity import described, identity_of
from setflow.jobs.sampled import SampledFile, layout_for
from setflow.model.encoding import OutsideTrainingWarning
from setflow.model.model import SetFlow
from setflow.progress import counting_bar
from setflow.sets.protocols import Solver
from setflow.solvers.fixed import FixedStepSolver, Midpoint

__all__ = ["sample_to_hdf5"]

_BLOCK = 2048  # events per block


def sample_to_hdf5(
    flow: SetFlow,
    out: str | Path,
    *,
    events: int | None = None,
    like: str | Path | None = None,
    context: Conditions | str | Path | None = None,
    oversample: int = 1,
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
        events: the number of jets; None takes as many as `like` or `context` tell.
        like: a file whose jets give cardinality and context, in order; None draws the cardinality
            from the model's p(N | c).
        context: what a conditional model is asked for without `like`: a mapping from the names of
            its conditions to a value for all jets, or to a mapping from values to numbers of jets,
            `{"class": {"top": 5000, "gluon": 5000}, "pt": 900}`; or a file whose jets give the
            context alone.
        oversample: how many jets to make for each row of the file: first all of row 0.
        solver: the ODE solver; None takes `Midpoint(steps=50)`.
        seed: the seed of the sample.
        overwrite: replace a file that is there.
        progress: show a progress bar.
        layout: 1 writes JetNet's layout, which holds etarel, phirel and ptrel, and 2 that of events
            of any schema; None takes 1 if the model makes these features, and 2 otherwise.

    Returns:
        The path of the file. It keeps the context that each jet was made for
        (`setflow.data.contexts`), so that it can be scored, or sampled like. In JetNet's layout
        mass and pT stand in units of the jet pT, as the file says. Its attributes hold
        the model and the hash of its weights, the version of setflow, the seed, the solver, and for
        one of fixed steps how often it evaluates the field for an event. A sample is never lost:
        values that cannot be, such as a ptrel below 0, are written as they are.

    Warns:
        UserWarning: if there are such values; the attribute `unphysical` says how many.
        OutsideTrainingWarning: if a context lies outside the range of the training.

    Raises:
        OSError: if the file exists and may not be replaced, or cannot be written.
        ValueError: if `out` is not named so, the model and the layout do not fit, a file has too
            few jets, or what is given does not say for which contexts how many jets are to be made.
    """
    out = check_target(check_hdf5_name(out), overwrite=overwrite)
    layout = layout_for(flow, layout)
    flow.require_fitted()
    asked = asked_for(flow, events=events, like=like, context=context, oversample=oversample)
    if asked.lengths is not None:
        objects = int(asked.lengths.max()) if asked.events else 0
    elif flow.cardinality is not None:
        objects = flow.cardinality.max_objects
    else:
        raise ValueError("the model has no cardinality model; give a file with like (--like)")
    solver = Midpoint(steps=50) if solver is None else solver
    attributes = {**identity_of(flow), "seed": seed, "solver": described(solver)}
    if isinstance(solver, FixedStepSolver):
        attributes["evaluations"] = len(solver.weights) * solver.steps  # of the field, each jet
    attributes |= asked.attributes
    if isinstance(asked.context, Tensor) and flow.context_encoder is not None:
        flow.context_encoder.warn_outside(asked.context)
    with (
        warnings.catch_warnings(),
        SampledFile(
            flow, out, layout=layout, objects=objects, overwrite=overwrite, attributes=attributes
        ) as file,
        counting_bar(disable=not progress) as bar,
    ):
        warnings.simplefilter("ignore", OutsideTrainingWarning)  # told once, of all jets
        task = bar.add_task("sampling", total=asked.events)
        for first in range(0, asked.events, _BLOCK):
            block = slice(first, min(first + _BLOCK, asked.events))
            size = block.stop - block.start
            batch = flow.sample(
                size,
                asked.context_of(block),
                seed,
                lengths=None if asked.lengths is None else asked.lengths[block],
                first=first,
                solver=solver,
            )
            file.write(batch.to("cpu"))
            bar.advance(task, size)
    if (warning := file.warning()) is not None:
        warnings.warn(warning, stacklevel=2)
    return out
