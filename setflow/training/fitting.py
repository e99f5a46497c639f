"""`setflow.fit`: a trained model of events in memory, in one call."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from setflow.data.sample import EventSample
from setflow.data.valid import OF_EVENTS, Defects, check_finite, check_physical, refuse, turn_angles
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
from setflow.schema import Feature, GivenSchema, Schema, left_out_of, names, schema_of, words_of
from setflow.sets.batch import SetBatch, listed
from setflow.sets.masks import zero_padding
from setflow.sets.shapes import whole_number
from setflow.training.averaging import MovingAverage
from setflow.training.checkpoints import BestModel
from setflow.training.data import event_loader, held_out, normalised
from setflow.training.module import FlowMatchingModule
from setflow.training.optimizers import Muon
from setflow.training.processes import PlacedBatch
from setflow.training.progress import StepProgress

__all__ = ["fit"]

# those of models/demo, which a test compares
_HIDDEN, _LAYERS, _HEADS = 64, 4, 2
_OPTIMIZER = {"lr": 5e-3, "weight_decay": 1e-4}
_WARMUP, _BATCH, _HELD_OUT, _CLIP, _AVERAGE = 0.05, 128, 0.05, 1.0, 0.99
_VALIDATIONS = 2  # in a training


def fit(
    data: SetBatch | EventSample,
    *,
    schema: GivenSchema = None,
    conditions: Sequence[str] = (),
    field: VectorField | None = None,
    validation: SetBatch | EventSample | None = None,
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
            conditions as context `c`, and weights if they have some. Or a sample that
            `setflow.data.read_events` or `read_jets` has read, which brings its schema, and whose
            event features are looked up by the names of the conditions.
        schema: what the features are: a `setflow.schema.Schema`, its node, or `jetnet`. None takes
            that of a sample, and of a `SetBatch` names them x1, x2, ... and takes them as real
            numbers. Categories are left out.
        conditions: the names of the columns of the context. Where the schema lists no features of
            the event, they are real numbers.
        field: the velocity field; None takes a `TransformerField`.
        validation: held out events, of the same kind; None sets a twentieth of the events aside,
            those of a sample with the same event number together.
        steps: the number of steps, of 128 events each.
        seed: the seed of the first weights, the events held out and their order.
        progress: show a progress bar.

    Raises:
        ImportError: if Lightning is not installed.
        TypeError: if the data are neither a `SetBatch` nor a sample.
        ValueError: if `steps` is no whole number from 1, or `seed` none from 0, the field has
            nothing to train, data and schema do not fit, a feature is one that some types of
            objects lack, a value is none that its feature can have, a condition is unknown, or the
            loss is not finite.

    >>> rings = setflow.SetBatch(torch.randn(200, 5, 2))
    >>> field = setflow.TransformerField(2, hidden=16, layers=1)
    >>> flow = setflow.fit(rings, field=field, steps=2, progress=False)
    >>> flow.sample(3, seed=1).x.shape
    torch.Size([3, 5, 2])
    """
    steps, seed = whole_number(steps, "steps", 1), whole_number(seed, "seed")
    if field is not None and not any(weight.requires_grad for weight in field.parameters()):
        raise ValueError(
            f"the field is a {type(field).__name__} with no parameter to train; give one with "
            "weights, or make the model with SetFlow(field).fit_statistics(data)"
        )
    if isinstance(conditions, str):
        raise ValueError(
            f"conditions are {conditions!r}, expected a list of names, [{conditions!r}]"
        )
    if isinstance(data, EventSample):
        if schema is not None:
            raise ValueError("the events bring their schema; leave schema out")
        schema = _of_sample(data, conditions)
    events, numbers = _events(data, conditions, schema, "setflow.fit")
    known = _schema(schema, events, conditions)
    _require_everywhere(known)
    events = _generated(events, known, "the data")
    if (told := left_out_of(known)) is not None:
        warnings.warn(told, stacklevel=2)
    if validation is None:
        held = held_out(numbers, _HELD_OUT, seed)
        train_events, val_events = events[~held], events[held]
    else:
        given, _ = _events(validation, conditions, schema, "setflow.fit(validation=...)")
        train_events, val_events = events, _generated(given, known, "the validation")
    for what, side in (("training", train_events), ("validation", val_events)):
        if not len(side):
            raise ValueError(
                f"of {len(events)} events none is left for the {what}; give more, of which a "
                f"twentieth is held out, or some as validation="
            )
    if not train_events.mask.any():
        raise ValueError("no event of the training has an object; check the mask, which is 1 there")
    sides = normalised(train_events, val_events, words_of(known.generated))
    longest = max(int(side.lengths.max()) for side in sides)
    with torch.random.fork_rng():  # neither first weights nor loaders change another draw
        torch.manual_seed(derive(seed, "first weights"))
        flow = _model(known, conditions, field, longest).fit_statistics(sides[0])
        train = event_loader(sides[0], _BATCH, seed=seed, shuffle=True)
        held_out_events = event_loader(sides[1], _BATCH, seed=seed, shuffle=False)
        flow = _trained(flow, train, held_out_events, steps, progress=progress)
    return flow.to(events.x.device).eval()


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
                MovingAverage(decay=_AVERAGE),
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


def _of_sample(sample: EventSample, conditions: Sequence[str]) -> Schema:
    """Return the schema of a sample, of its event features the conditions alone."""
    event = [sample.schema.of_event(name) for name in conditions]
    return replace(sample.schema, event=tuple(event))


def _events(
    data: SetBatch | EventSample, conditions: Sequence[str], schema: GivenSchema, what: str
) -> tuple[SetBatch, Tensor]:
    """Return events as a batch, and numbers that are the same for those of one collision.

    Raises:
        TypeError: if they are neither a batch nor a sample.
        ValueError: if a sample does not have the features of the schema, in its units.
    """
    if not isinstance(data, EventSample):
        batch = listed(data, what)
        return batch, torch.arange(len(batch))
    wanted = [] if schema is None else schema_of(schema).objects
    for feature in wanted:
        if data.schema.object(feature.name).unit != feature.unit:
            raise ValueError(
                f"{what}: {feature.name} is in units of "
                f"'{data.schema.object(feature.name).unit}', expected '{feature.unit}'; read both "
                "with one schema"
            )
    batch, places = data.objects, [data.features.index(feature.name) for feature in wanted]
    x = batch.x if places == list(range(batch.x.shape[-1])) else batch.x[..., places]
    c = data.context(conditions) if conditions else None
    numbers = data.event_number
    numbers = torch.arange(len(batch)) if numbers is None else numbers.view(torch.int64)
    return SetBatch(x, batch.mask, c, batch.weight), numbers


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
    if schema.event:
        for name in conditions:
            schema.of_event(name)  # raises if there is none
        return schema
    return replace(schema, event=tuple(Feature(name) for name in conditions))


def _require_everywhere(schema: Schema) -> None:
    """Refuse features that some types of objects lack, for the types are left out.

    Raises:
        ValueError: if there are some.
    """
    made = [schema.object(name) for name in schema.generated]
    lacking = [entry.name for entry in made if entry.absent]
    if lacking:
        rest = [entry.name for entry in made if not entry.absent]
        raise ValueError(
            f"some types of objects lack {' and '.join(lacking)}, and setflow.fit makes no types; "
            f"give the events without, with the features {', '.join(rest) or 'that all have'}, or "
            "train by `setflow fit` a model with a law of types, as --config ttbar-events has"
        )


def _generated(data: SetBatch, schema: Schema, what: str) -> SetBatch:
    """Return events with those features alone that a model can generate.

    Raises:
        ValueError: if a value of a real object is none that its feature can have.
    """
    defects: Defects = {}
    mask = data.mask.cpu().numpy()
    values = zero_padding(data.x, data.mask).detach().double().cpu().numpy()
    turn_angles(values, schema.objects)
    check_finite(values, mask, schema.objects, defects, OF_EVENTS)
    check_physical(values, mask, schema.objects, defects, OF_EVENTS)
    if defects:
        refuse(defects, what, 0)
    if not schema.left_out:
        return data
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
            angles=schema.angles(),
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
