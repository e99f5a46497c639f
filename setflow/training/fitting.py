"""`setflow.fit`: a trained model of events in memory, in one call."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader

from setflow.distributions.cardinality import (
    CardinalityModel,
    ConditionalCardinality,
    EmpiricalCardinality,
)
from setflow.fields.base import VectorField
from setflow.fields.transformer import TransformerField
from setflow.model.encoding import context_columns
from setflow.model.model import SetFlow
from setflow.random import derive
from setflow.schema import Feature, Schema, names, schema_of
from setflow.sets.batch import SetBatch, listed
from setflow.training.checkpoints import BestModel
from setflow.training.data import PlacedBatch, event_loader, held_out, normalised
from setflow.training.module import FlowMatchingModule
from setflow.training.optimizers import Muon
from setflow.training.progress import StepProgress

__all__ = ["fit"]

# those of models/demo, which a test compares
_HIDDEN, _LAYERS, _HEADS = 64, 4, 2
_OPTIMIZER = {"lr": 5e-3, "weight_decay": 1e-4}
_WARMUP, _BATCH, _HELD_OUT, _CLIP, _AVERAGE = 0.05, 128, 0.05, 1.0, 0.99
_VALIDATIONS = 2  # in a training

GivenSchema = Schema | Mapping[str, Any] | str | None


def fit(
    data: SetBatch,
    *,
    schema: GivenSchema = None,
    conditions: Sequence[str] = (),
    field: VectorField | None = None,
    validation: SetBatch | None = None,
    steps: int = 3000,
    seed: int = 0,
    progress: bool = True,
) -> SetFlow:
    """Train a model of sets as `models/demo` is trained, and return it with its best weights.

    It is what `setflow fit` does, without a folder: a transformer, Muon, a moving average of the
    weights, and the weights at which the loss of held out events is smallest. It needs the extra
    `train`. `SetFlow.save` keeps the model.

    Arguments:
        data: the events, their features in the order of the objects of the schema; with the
            conditions as context `c`, and weights if they have some.
        schema: what the features are: a `setflow.schema.Schema`, its node, or `jetnet`. None names
            them x1, x2, ... and takes them as real numbers. Angles and categories are left out.
        conditions: the names of the columns of the context; those that the schema does not list are
            real numbers.
        field: the velocity field; None takes a `TransformerField`.
        validation: held out events; None sets a twentieth of the events aside.
        steps: the number of steps, of 128 events each.
        seed: the seed of the first weights, the events held out and their order.
        progress: show a progress bar.

    Raises:
        ImportError: if Lightning is not installed.
        TypeError: if the data are no `SetBatch`.
        ValueError: if `steps` is not positive, data and schema do not fit, or the loss is not
            finite.

    >>> rings = setflow.SetBatch(torch.randn(200, 5, 2))
    >>> field = setflow.TransformerField(2, hidden=16, layers=1)
    >>> flow = setflow.fit(rings, field=field, steps=2, progress=False)
    >>> flow.sample(3, seed=1).x.shape
    torch.Size([3, 5, 2])
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    data = listed(data, "setflow.fit")
    known = _schema(schema, data, conditions)
    data = _generated(data, known)
    if validation is None:
        held = held_out(torch.arange(len(data)), _HELD_OUT, seed)
        data, validation = data[~held], data[held]
    else:
        validation = _generated(listed(validation, "setflow.fit(validation=...)"), known)
    for what, events in (("training", data), ("validation", validation)):
        if not len(events):
            raise ValueError(f"there is no event for the {what}, give more data")
    data, validation = normalised(data, validation)
    longest = max(int(events.lengths.max()) for events in (data, validation))
    with torch.random.fork_rng():  # neither first weights nor loaders change another draw
        torch.manual_seed(derive(seed, "first weights"))
        flow = _model(known, conditions, field, longest).fit_statistics(data)
        train = event_loader(data, _BATCH, seed=seed, shuffle=True)
        held_out_events = event_loader(validation, _BATCH, seed=seed, shuffle=False)
        flow = _trained(flow, train, held_out_events, steps, progress=progress)
    return flow.to(data.x.device).eval()


def _trained(
    flow: SetFlow,
    train: DataLoader[PlacedBatch],
    validation: DataLoader[PlacedBatch],
    steps: int,
    *,
    progress: bool,
) -> SetFlow:
    """Return the model with its best weights after so many steps."""
    module = FlowMatchingModule(flow, lambda weights: Muon(weights, **_OPTIMIZER), _WARMUP)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        best = BestModel(folder)
        trainer = Trainer(
            max_steps=steps,
            max_epochs=-1,
            check_val_every_n_epoch=None,
            val_check_interval=-(-steps // _VALIDATIONS),
            gradient_clip_val=_CLIP,
            num_sanity_val_steps=0,
            callbacks=[
                EMAWeightAveraging(decay=_AVERAGE),
                best,
                *([StepProgress()] if progress else []),
            ],
            enable_progress_bar=progress,
            enable_model_summary=False,
            logger=False,
            default_root_dir=folder,
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            devices=1,
        )
        trainer.fit(module, train, validation)
        return best.best(module)[0] if best.best_model_path else module.flow


def _schema(given: GivenSchema, data: SetBatch, conditions: Sequence[str]) -> Schema:
    """Return the schema of the data, the conditions among its features of an event."""
    if data.x.ndim != 3:
        raise ValueError(
            f"the data have x of shape {tuple(data.x.shape)}, expected (n, N, D): one batch "
            "dimension and one of features"
        )
    width = data.x.shape[-1]
    schema = Schema([Feature(f"x{k + 1}") for k in range(width)]) if given is None else None
    schema = schema_of(given) if schema is None and given is not None else schema
    assert schema is not None
    if width != len(schema.objects):
        raise ValueError(
            f"the data have {width} features, and the schema {len(schema.objects)}: "
            f"{', '.join(names(schema.objects))}; give as many, in this order"
        )
    columns = 0 if data.c is None else data.c.shape[-1]
    if columns != len(conditions):
        raise ValueError(
            f"the data have a context of {columns} columns, and conditions names "
            f"{len(conditions)}: {', '.join(conditions) or 'none'}; name each, in order"
        )
    listed_there = names(schema.event)
    more = [Feature(name) for name in conditions if name not in listed_there]
    return replace(schema, event=(*schema.event, *more))


def _generated(data: SetBatch, schema: Schema) -> SetBatch:
    """Return events with those features alone that a model can generate."""
    left_out = schema.left_out
    if not left_out:
        return data
    kinds = ", ".join(f"{name} ({schema.object(name).kind})" for name in left_out)
    warnings.warn(f"left out, since a model does not generate them: {kinds}", stacklevel=3)
    listed_there = names(schema.objects)
    x = data.x[..., [listed_there.index(name) for name in schema.generated]]
    return SetBatch(x, data.mask, data.c, data.weight)


def _model(
    schema: Schema, conditions: Sequence[str], field: VectorField | None, longest: int
) -> SetFlow:
    width = len(context_columns([schema.of_event(name) for name in conditions]))
    if field is None:
        field = TransformerField(
            len(schema.generated),
            condition_dim=width,
            hidden=_HIDDEN,
            layers=_LAYERS,
            heads=_HEADS,
        )
    number: CardinalityModel = EmpiricalCardinality(longest)
    if width:
        number = ConditionalCardinality(longest, width)
    return SetFlow(field, schema=schema, conditions=conditions, cardinality=number)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Lightning says of itself away from the user."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (
                "(?s).*LeafSpec.*is deprecated",
                ".*does not have many workers",
                "The number of training batches .* is smaller than the logging interval",
            ):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
