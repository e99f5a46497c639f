"""Sampling to a file: blocks of events go to HDF5 while the next ones are made, in pieces that
outlive a kill (`setflow.jobs.pieces`), and the file appears when it is complete.

Event k depends on the seed and k alone, so the same call gives the same events in however many
goes, and parts of a run (`setflow.parts`) are those of the whole. To the last bit they are so
on like devices with as many threads; elsewhere numbers differ by rounding, some 1e-7.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from setflow.data.manifest import Run
from setflow.files import as_path, check_hdf5_name
from setflow.jobs.contexts import Asked, Conditions, asked_for, strengths_of
from setflow.jobs.identity import described, identity_of
from setflow.jobs.pieces import Pieces
from setflow.jobs.sampled import SampledFile, layout_for, unphysical_warning
from setflow.model.encoding import OutsideTrainingWarning
from setflow.model.model import SetFlow
from setflow.parts import Part
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
    guidance: float | Mapping[str, float] = 1.0,
    solver: Solver | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    layout: int | None = None,
    part: Part | None = None,
) -> Path:
    """Sample events into a file; a call that was interrupted is continued by the same call.

    Arguments:
        flow: the model.
        out: the HDF5 file to write, named .h5 or .hdf5, or with another name a folder of files of
            65,536 events each; the folder it is to stand in must exist. While it is made, what is
            done stands in a folder beside it, `<out>.part`.
        events: the number of jets; None takes as many as `like` or `context` tell.
        like: a file whose jets give cardinality and context, in order; None draws the cardinality
            from the model's p(N | c).
        context: what a conditional model is asked for without `like`: a mapping from the names of
            its conditions to a value for all jets, or to a mapping from values to numbers of jets,
            `{"class": {"top": 5000, "gluon": 5000}, "pt": 900}`; or a file whose jets give the
            context alone.
        oversample: how many jets to make for each row of the file: first all of row 0.
        guidance: how strongly jets follow their context (`SetFlow.sample`), or by name how strongly
            those of each category do; 1 for those that are not named.
        solver: the ODE solver; None takes `Midpoint(steps=50)`.
        seed: the seed of the sample.
        overwrite: replace a file that is there, and begin anew where a call with other arguments
            was interrupted.
        progress: show a progress bar.
        layout: 1 writes JetNet's layout, which holds etarel, phirel and ptrel, and 2 that of events
            of any schema; None takes 1 if the model makes these features, and 2 otherwise.
        part: make one part of the events, in a file of its own, `jets-03-of-10.h5` beside
            `jets.h5`; `setflow.data.merging.merge` puts the parts together.

    Returns:
        The path of the file; one that is there already, made by the same call, is left as it is. It
        keeps the context that each jet was made for
        (`setflow.data.contexts`), so that it can be scored, or sampled like. In JetNet's layout
        mass and pT stand in units of the jet pT, as the file says. Its attributes hold
        the model and the hash of its weights, the version of setflow, the seed, the solver, and for
        one of fixed steps how often it evaluates the field for an event. A sample is never lost:
        values that cannot be, such as a ptrel below 0, are written as they are.

    Warns:
        UserWarning: if there are such values; the attribute `unphysical` says how many.
        OutsideTrainingWarning: if a context lies outside the range of the training.

    Raises:
        OSError: if the file exists and may not be replaced, cannot be written, or is being written
            by another process; the events that are written by then are kept for the next call.
        ValueError: if `out` is not named so, the model and the layout do not fit, a file has too
            few jets, or what is given does not say for which contexts how many jets are to be made.
    """
    layout = layout_for(flow, layout)
    flow.require_fitted()
    asked = asked_for(flow, events=events, like=like, context=context, oversample=oversample)
    rows = range(asked.events)
    out = as_path(out)
    if out.suffix:  # else it is a folder
        check_hdf5_name(out)
    if part is not None:
        rows, out = part.rows(asked.events, _BLOCK), part.path(out)
    objects = _slots(flow, asked)
    solver = Midpoint(steps=50) if solver is None else solver
    attributes = {**identity_of(flow), "seed": seed, "solver": described(solver)}
    strengths = strengths_of(flow, asked, guidance)
    if isinstance(solver, FixedStepSolver):
        once = len(solver.weights) * solver.steps  # evaluations of the field, each jet
        attributes["evaluations"] = once if strengths is None else 2 * once
    if strengths is not None:
        named = guidance.items() if isinstance(guidance, Mapping) else ()
        told = ",".join(f"{name}:{strength:g}" for name, strength in named)
        attributes["guidance"] = told or f"{guidance:g}"
    attributes |= asked.attributes

    def write(path: Path, first: int) -> SampledFile:
        run = Run(first, asked.events)
        return SampledFile(
            flow, path, layout=layout, objects=objects, run=run, attributes=attributes
        )

    plan = {**attributes, "events": asked.events, "layout_version": layout}
    pieces = Pieces(out, plan, rows, write, overwrite=overwrite)
    if pieces.finished():
        return out
    if isinstance(asked.context, Tensor) and flow.context_encoder is not None:
        flow.context_encoder.warn_outside(asked.context[rows.start : rows.stop])
    with (
        warnings.catch_warnings(),
        pieces,
        counting_bar(disable=not progress) as bar,
    ):
        warnings.simplefilter("ignore", OutsideTrainingWarning)  # told once, of all jets
        task = bar.add_task("sampling", total=len(rows), completed=pieces.done)
        for block in pieces.missing(_BLOCK):
            there = slice(block.start, block.stop)
            batch = flow.sample(
                len(block),
                asked.context_of(there),
                seed,
                lengths=None if asked.lengths is None else asked.lengths[there],
                first=block.start,
                guidance=1.0 if strengths is None else strengths[there],
                solver=solver,
            )
            pieces.append(block, batch.to("cpu"))
            bar.advance(task, len(block))
    if (warning := unphysical_warning(flow, out)) is not None:
        warnings.warn(warning, stacklevel=2)
    return out


def _slots(flow: SetFlow, asked: Asked) -> int:
    """Return how many objects the longest event may have.

    Raises:
        ValueError: if nothing tells.
    """
    if asked.lengths is not None:
        return int(asked.lengths.max()) if asked.events else 0
    if flow.cardinality is not None:
        return flow.cardinality.max_objects
    raise ValueError("the model has no cardinality model; give a file with like (--like)")
