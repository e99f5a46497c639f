"""`SetFlow`: field, scaler and cardinality model as one object that samples, saves and loads.

Notation. The model gives p(N | c) and p(x_1 .. x_N | N, c). Scaled features z are the flow's data
at t = 0 and standard normal noise at t = 1, of angles, which are centred and not scaled, noise on a
circle that is as wide as they are; physical features are x = scaler.inverse(z). Field and
cardinality model get the scaled context. The noise of event k is a function of (seed, k, rank among
its real objects, feature) only, and its N one of (seed, k, c), so that neither batching nor
sharding nor padding changes an event.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from setflow.couplings import Coupling, coupled_noise
from setflow.data.scaling import Standardizer
from setflow.data.typed_scaling import TypedStandardizer
from setflow.distributions.cardinality import CardinalityModel, length_error
from setflow.distributions.composition import Composition
from setflow.distributions.normal import StandardNormal
from setflow.distributions.wrapped import WrappedNormal
from setflow.divergence.base import DivergenceEstimator
from setflow.fields.base import VectorField
from setflow.losses.means import reduce_events
from setflow.masking.log_prob import LogProbEstimate, score_events, tells_error
from setflow.masking.loss import loss_of_events
from setflow.model.angles import check_angles, check_directions, check_uniform
from setflow.model.density import LogDensity
from setflow.model.encoding import ContextEncoder, NamedContext
from setflow.model.finite import (
    context_error,
    first_not_finite,
    no_number,
    reason_of,
    refuse_diverged,
)
from setflow.model.generate import generate
from setflow.model.guidance import checked_share, context_left_out
from setflow.model.parts import (
    FOR_USE,
    NOT_FOR_USE,
    check_parts,
    distinct_names,
    require_statistics,
    schema_for,
)
from setflow.model.saved import SavedModel
from setflow.model.stages import (
    check_context_model,
    contexts_as_sets,
    derived_context,
    loss_of_contexts,
    no_density,
)
from setflow.paths.affine import LinearPath
from setflow.paths.base import ProbabilityPath
from setflow.paths.wrapped import WrappedPath
from setflow.random import EventSeeds
from setflow.schema import Schema
from setflow.sets.arrays import Array, check_generator, shown
from setflow.sets.batch import SetBatch, listed
from setflow.sets.events import Events
from setflow.sets.finite import refuse_not_finite
from setflow.sets.masks import current_transform, is_at_hand, is_readable
from setflow.sets.protocols import Solver, check_path, event_ndim_of, in_lines, in_short
from setflow.sets.shapes import as_floating
from setflow.solvers.adaptive import IntegrationError
from setflow.solvers.fixed import RK4
from setflow.timesteps import TimeSampling

__all__ = ["LogDensity", "SetFlow"]


class SetFlow(SavedModel):
    """A generative model of sets: how many objects, and what they are.

    The statistics of the scalers and of the cardinality model are given, or fitted to the training
    events by `fit_statistics`; a model that lacks them neither trains nor samples, scores or saves.

    Arguments:
        field: the velocity field on scaled features, for sets with shape `(N, len(features))`.
        path: the path between data and noise; None takes `LinearPath`. Angles go the shorter way
            round, and need a path with alpha + sigma = 1.
        scaler: the scaling of the features; None takes a `Standardizer` of the kinds that the
            schema says.
        cardinality: p(N), or p(N | c) of the scaled context; None means that lengths must be given
            when sampling.
        features: the names of the features of one object, in order; None takes all that the schema
            can generate.
        conditions: the names of the context features, in order; empty for no context. What the
            field gets of them is `context_columns`: an angle makes two columns, a category one for
            each name, and `condition_dim` of the field is the number of columns.
        context_scaler: the scaling of the conditions that are numbers on a line; None takes a
            `Standardizer` of the kinds that the schema says if there are some.
        schema: what the features are: a `setflow.schema.Schema`, its node of plain values, or
            `jetnet`. None takes what JetNet's layout says of the names that it knows, and all
            features as real numbers, or of the kinds of the scaler if one is given.
        context_model: a model that makes conditions of the whole event, such as pt and mass, given
            the others: a `SetFlow` of sets of one object, whose features are these conditions. A
            sample needs them no more; see `setflow.model.stages`.
        drop_context: the share of the events whose context a training leaves out, such as 0.1, so
            that samples can be guided; 0 for none.

    Attributes:
        schema: the schema, whatever it was made from.
        context_features: what the conditions are, in order, as the schema says.
        context_columns: the names of the columns that field and p(N | c) get of a context.
        angles: the positions of the features that are angles.
        base: the noise: standard normal, of angles wrapped normal or uniform.
        training_path: the path that the loss takes: `path`, and round the circle in angles.
        no_context: what the field gets for no context, learned, with shape
            `(len(context_columns),)`; None if none is dropped.

    Raises:
        ValueError: if the field does not take sets or takes a context per object or a context set,
            or the number of features or conditions differs; if `drop_context` does not lie in
            [0, 1), or there are no conditions.

    >>> flow = SetFlow(setflow.TransformerField(3, hidden=16, layers=1, heads=2),
    ...                cardinality=setflow.EmpiricalCardinality(30))
    >>> flow = flow.fit_statistics(setflow.SetBatch(torch.randn(100, 30, 3)))
    >>> flow.sample(4, seed=1, solver=setflow.Midpoint(steps=2)).x.shape
    torch.Size([4, 30, 3])
    """

    no_context: nn.Parameter | None

    def __init__(
        self,
        field: VectorField,
        *,
        path: ProbabilityPath | None = None,
        scaler: Standardizer | None = None,
        cardinality: CardinalityModel | None = None,
        features: Sequence[str] | None = None,
        conditions: Sequence[str] = (),
        context_scaler: Standardizer | None = None,
        schema: dict[str, Any] | Schema | str | None = None,
        drop_context: float = 0.0,
        context_model: SetFlow | None = None,
    ) -> None:
        super().__init__()
        event_ndim_of(field, at_least=2)
        features, self.conditions = distinct_names(features=features or (), conditions=conditions)
        self.schema, self.features, self.scaler = schema_for(
            schema, features or None, self.conditions, scaler,
            with_types=isinstance(cardinality, Composition),
        )  # fmt: skip
        self.types = self.scaler.encoder if isinstance(self.scaler, TypedStandardizer) else None
        self.field = field
        self.path = LinearPath() if path is None else path
        check_path(self.path)
        self.cardinality = cardinality
        self.context_features = tuple(map(self.schema.of_event, self.conditions))
        self._derived = derived_context(self.context_features)
        encoder = ContextEncoder(self.context_features)
        check_parts(
            {"field": field, "scaler": self.scaler, "context_scaler": context_scaler},
            cardinality,
            self.features,
            encoder,
            None if self.types is None else self.types.types,
        )
        self.context_encoder = encoder if self.conditions else None
        self.drop_context = checked_share(drop_context, self.conditions)
        self.register_parameter(
            "no_context", nn.Parameter(torch.zeros(len(encoder.columns))) if drop_context else None
        )
        self.context_columns = encoder.columns
        if context_model is not None:
            check_context_model(context_model, self.context_features)
        self.context_model = context_model
        kinds = [self.context_features[k].of_kind for k in encoder.scaled]
        if context_scaler is None and kinds:
            context_scaler = Standardizer(kinds=kinds)
        self.context_scaler = context_scaler
        if self.types is None:
            self.scaler.labels = tuple(f"feature '{name}'" for name in self.features)
        if context_scaler is not None:
            scaled = [self.conditions[k] for k in encoder.scaled]
            context_scaler.labels = tuple(f"condition '{name}'" for name in scaled)
        if cardinality is not None:
            cardinality.labels = tuple(f"condition '{name}'" for name in encoder.columns)
        if isinstance(cardinality, Composition):
            cardinality.number.labels = cardinality.labels
        width = len(self.features if self.types is None else self.types.types.numbers)
        self.angles = self.schema.angles(self.features)
        check_angles(field, self.angles)
        check_directions(self)
        self.base: StandardNormal | WrappedNormal = StandardNormal((width,))
        self.training_path = self.path
        if self.angles:
            self.base = WrappedNormal(self.scaler.widths, self.angles)
            self.training_path = WrappedPath(self.base, self.path)
        if self.scaler.given:
            check_uniform(self)

    def __repr__(self) -> str:
        """Say on one screen what the parts are; the layers are those of `flow.field`."""
        parts = ("features", "conditions", "path", "scaler", "context_scaler", "cardinality")
        return in_lines(self, *parts, field=in_short(self.field))

    @property
    def device(self) -> torch.device:
        """The device on which the model stands."""
        return self.scaler.mean.device

    def fit_statistics(self, batch: SetBatch, *, refit: bool = False) -> SetFlow:
        """Fit scaler, context scaler and cardinality model to a training sample; return self.

        What was given or fitted before is kept, so that a model that is trained further means the
        same by its features; the sample must fit it. Once p(N | c) is fitted it is trained.

        Arguments:
            batch: physical features, with context in the order of `conditions`; an event counts by
                its weight, in any unit, if there are weights.
            refit: fit all parts, also those that have statistics; a cardinality model that is
                trained starts anew from the frequencies of the sample.

        Raises:
            TypeError: if it is no `SetBatch`.
            ValueError: if the sample does not fit the model, or negative weights make a variance
                or probability that is not positive.
        """
        batch = listed(batch, "fit_statistics")
        weight = batch.weight
        all_parts = (self.scaler, self.context_scaler, self.cardinality)
        parts = [part for part in all_parts if part is not None]
        nothing = all(part.is_fitted for part in parts) and not all(part.given for part in parts)
        trained = self.scaler.is_fitted and not self.scaler.given
        if refit or not self.scaler.is_fitted:
            self.scaler.fit(batch.x, batch.mask, weight)
        else:
            self.scaler(batch.x, batch.mask)
        check_uniform(self)
        context = None
        if self.context_encoder is not None:
            c = self._context(batch.c, len(batch))
            scaled = self.context_scaler
            if scaled is not None and (refit or not scaled.is_fitted):
                scaled.fit(c[:, None, self.context_encoder.scaled], weight=weight)
            context = self.context_encoder(c, scaled)
            if self.context_model is not None:
                made = contexts_as_sets(self, c, weight)
                self.context_model.fit_statistics(made, refit=refit)
            if refit or not (trained or self.context_encoder.knows_range):
                self.context_encoder.learn_range(c)
        elif batch.c is not None:
            self._refuse_context(batch.c)
        if self.cardinality is not None:
            if refit or not self.cardinality.is_fitted:
                weighted = {} if weight is None else {"weight": weight}
                lengths = batch.lengths
                if self.types is not None:
                    lengths = self.types.counts_of(batch.x, batch.mask)
                self.cardinality.fit(lengths, context, **weighted)
            else:
                self._require_known_lengths(batch)
        if nothing and not refit:
            warnings.warn(
                "the statistics of this model were fitted before and are kept; give refit=True to "
                "fit them to these events",
                stacklevel=2,
            )
        return self

    def require_fitted(self) -> None:
        """Raise unless the statistics of scalers and cardinality model are there.

        They are looked at once; after that nothing on an accelerator is.

        Raises:
            ValueError: if they were neither given nor fitted.
        """
        require_statistics(
            scaler=self.scaler, context_scaler=self.context_scaler, cardinality=self.cardinality
        )
        if self.context_model is not None:
            self.context_model.require_fitted()

    def loss(
        self,
        batch: SetBatch,
        *,
        t: Tensor | None = None,
        times: TimeSampling | None = None,
        noise: Tensor | None = None,
        context_noise: Tensor | None = None,
        drop_context: float | Tensor = 0.0,
        coupling: Coupling | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the training loss of physical events, a scalar: the sum of `loss_terms`.

        Arguments:
            batch: physical features with shape `(B, N, D)`, or `(N, D)` for one event, with context
                if the model has conditions. With weights w the mean over the events is
                (1/B) sum w l: they are normalised once, over the training sample, to mean 1, and
                not again in each batch, whose mean would then be biased.
            t: times with shape `(B,)`; None draws them.
            times: the density of the times and their weight; None takes uniform times, no weight.
            noise: standard normal noise of the scaled features, with shape `(B, N, D)`; None draws
                it.
            context_noise: that of the scaled conditions which the context model makes, with shape
                `(B, K, len(context_model.features))`, K draws for each event; None draws 8.
            drop_context: the share of the events whose context the field does not get but
                `no_context`, or which, boolean with shape `(B,)`. p(N | c) always gets it.
            coupling: `event` pairs the noise of each event with its objects, in the scaled
                features, at least distance (`setflow.couplings`); None leaves them independent.
            generator: the random generator for what is not given.

        Raises:
            TypeError: as `loss_terms`.
            ValueError: as `loss_terms`; or, on a CPU, if the loss is not finite: it then names the
                event and the feature. On an accelerator nothing looks at the value.
        """
        terms = self.loss_terms(
            batch, t=t, times=times, noise=noise, context_noise=context_noise,
            drop_context=drop_context, coupling=coupling, generator=generator,
        )  # fmt: skip
        loss = torch.stack(list(terms.values())).sum()
        if is_at_hand(loss) and not bool(loss.isfinite()):
            culprit = first_not_finite(self.selected(batch), self.features, self.conditions)
            if culprit is None and noise is not None:
                events = Events.of(self.field, noise, batch.mask)
                refuse_not_finite("the loss", events, noise=events.x)
            raise ValueError(f"the loss is {loss.item():g}. {reason_of(culprit, self.field)}")
        return loss

    def loss_terms(
        self,
        batch: SetBatch,
        *,
        t: Tensor | None = None,
        times: TimeSampling | None = None,
        noise: Tensor | None = None,
        context_noise: Tensor | None = None,
        drop_context: float | Tensor = 0.0,
        coupling: Coupling | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms of the training loss by name, each a scalar; the arguments of `loss`.

        Returns:
            `flow`, the flow-matching loss; and, if the cardinality model has parameters,
            `cardinality`, the mean of -log p(N | c) over all events, empty ones too, in nats; and,
            with a context model, `context`, its flow-matching loss, with several draws of noise
            for each event, at times spread evenly from that of the event on. The terms share no
            parameter, so the gradient of each is what it would be alone. All are
            means of an event's term times its weight, if there are weights; see `loss`.

        Raises:
            TypeError: if `batch` is no `SetBatch`.
            ValueError: if the model has no statistics or the context does not fit; if an event has
                more objects than p(N) knows, `max_objects`, which on an accelerator is looked at
                only where p(N | c) is trained, as is whether the context is finite.
        """
        single = isinstance(batch, SetBatch) and batch.mask.ndim == 1
        batch = listed(batch, "loss")
        c = self.scaled_context(batch.c, len(batch))
        log_p = None
        if self.cardinality is not None and next(self.cardinality.parameters(), None) is not None:
            log_p = self._log_p_of_lengths(batch, c)
        elif self.cardinality is not None and batch.mask.shape[-1] > self.cardinality.max_objects:
            self._require_known_lengths(batch)
        x = batch.x if batch.x.is_floating_point() else as_floating(batch.x, self.field)
        z = self.scaler(x, batch.mask)
        z = z.to(next(self.field.parameters(), z).dtype)
        check_generator(generator)
        if noise is None:
            noise = torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=generator)
        elif single:
            noise = noise[None]
        if isinstance(drop_context, Tensor) or drop_context:
            c = context_left_out(self, c, drop_context, generator)
        present = None
        if self.types is not None:
            kinds = self.types.kinds(x, batch.mask)
            c, present = self.types.rows(kinds, c, z.dtype), self.types.present(kinds)
        events = Events.of(self.field, z, batch.mask, c=c, name="x_target", present=present)
        if batch.cpu_lengths is not None:
            events = replace(events, sizes=batch.cpu_lengths)
        noise = events.noise(noise.to(z), "noise")
        circles = None
        if isinstance(self.base, WrappedNormal):
            circles, noise = self.base, self.base.of_normal(noise)
        if coupling is not None:
            noise = coupled_noise(events, noise, coupling, circles)
        losses = loss_of_events(
            self.field, events, noise, t, path=self.training_path, times=times, reduction="none",
            generator=generator,
        )  # fmt: skip
        if batch.weight is not None:
            losses = batch.weight.to(losses.dtype) * losses
            log_p = None if log_p is None else batch.weight * log_p
        terms = {"flow": reduce_events(losses, "mean")}
        if log_p is not None:
            terms["cardinality"] = -reduce_events(log_p, "mean").to(losses.dtype)
        if self.context_model is not None:
            made = contexts_as_sets(self, self._context(batch.c, len(batch)), batch.weight)
            terms["context"] = loss_of_contexts(
                self.context_model, made, t, context_noise, generator
            )
        return terms

    def _log_p_of_lengths(self, batch: SetBatch, c: Tensor | None) -> Tensor:
        """Return log p(N | c) of events to train on, with shape `(B,)`."""
        cardinality, known, lengths = self.cardinality, batch.cpu_lengths, batch.lengths
        assert cardinality is not None
        if self.types is not None:
            lengths = self.types.counts_of(batch.x, batch.mask)
        if known is None or is_at_hand(batch.mask):
            # its checks wait for the device, which has nothing queued yet
            return cardinality.log_prob(lengths, c)
        if known.max(initial=0) > cardinality.max_objects:
            raise length_error(known.min(), known.max(), cardinality.max_objects)
        return cardinality.checked_log_prob(lengths, c)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        c: NamedContext | None = None,
        seed: int = 0,
        *,
        lengths: Array | None = None,
        first: int = 0,
        guidance: Array | float = 1.0,
        solver: Solver | None = None,
        batch_size: int | None = None,
    ) -> SetBatch:
        """Return events `first` to `first + n` of the sample that belongs to `seed`.

        Arguments:
            n: the number of events.
            c: physical context, with shape `(n, len(conditions))`, categories as their codes; one
                row for all events, with shape `(1, len(conditions))` or `(len(conditions),)`; or a
                mapping from the names of the conditions to numbers or names of categories, one for
                all events or one for each: `{"class": "top", "pt": 900}`. What the context model
                makes may be left out.
            seed: the seed of noise and cardinalities, from 0 to 2^64 - 1.
            lengths: the number of objects of each event, with shape `(n,)`, none larger than the
                cardinality model knows if there is one; None draws from p(N | c).
            first: the index of the first event.
            guidance: how strongly events follow their context, a number or one for each event with
                shape `(n,)`: 1 as the data do, more than 1 more than the data do, in twice the
                time. p(N | c) is not guided. See `setflow.fields.GuidedField`.
            solver: the ODE solver; None takes `Midpoint(steps=50)`.
            batch_size: how many events to integrate at a time; None takes 128 on a CPU, where they
                should fit its cache, and 2048 elsewhere. It changes no result.

        Returns:
            A `SetBatch` of physical features, padded to the largest cardinality that the model
            knows, or to the longest event if `lengths` are given.

        Warns:
            OutsideTrainingWarning: if a context that is given lies outside the range of the
                training.

        Raises:
            ValueError: if the model has no statistics, the context or the lengths do not fit, there
                is neither a cardinality model nor lengths, or a number is no whole one; if it is to
                be guided and was trained without leaving contexts out.
        """
        batch_size = self._batch_size(batch_size, n=n, first=first, seed=seed)
        if any(part.training and isinstance(part, NOT_FOR_USE) for part in self.modules()):
            raise ValueError(f"the model samples by its seed alone; {FOR_USE}")
        index = torch.arange(first, first + n, device=self.scaler.mean.device)
        return generate(
            self, index, c, seed, lengths=lengths, guidance=guidance, solver=solver,
            batch_size=batch_size,
        )  # fmt: skip

    def log_prob(
        self,
        batch: SetBatch,
        *,
        solver: Solver | None = None,
        estimator: DivergenceEstimator | None = None,
        seed: int = 0,
        first: int | Tensor = 0,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return the log-density of the unordered sets in nats, per physical unit of each feature.

        It is log p({x_1 .. x_N}, N | c), the sum of the terms of `log_prob_terms`, which has the
        same arguments, with shape `(B,)`, or `()` for one event, float64. A model without
        cardinality model gives it for given N.

        Raises:
            ValueError: as `log_prob_terms`; or, where that gives NaN, since the field overflows at
                values that are finite but absurd: it names the first such event.
        """
        total = self.log_prob_terms(
            batch, solver=solver, estimator=estimator, seed=seed, first=first, batch_size=batch_size
        ).total
        seen = current_transform() is None or is_readable(total)
        if seen and bool(total.isnan().any()):
            raise no_number(listed(batch, "log_prob"), total.reshape(-1), self.features)
        return total

    def log_prob_terms(
        self,
        batch: SetBatch,
        *,
        solver: Solver | None = None,
        estimator: DivergenceEstimator | None = None,
        seed: int = 0,
        first: int | Tensor = 0,
        batch_size: int | None = None,
    ) -> LogDensity:
        """Return the terms of the log-density of sets, by name.

        Where the scaler has a Box-Cox transform with lambda above 0, what the flow puts below the
        smallest training value is sampled onto that value: the density is that of the rest, and its
        integral falls short of 1 by that much.

        Arguments:
            batch: physical features with shape `(B, N, D)`, or `(N, D)` for one event, with context
                if the model has conditions.
            solver: the ODE solver; None takes `RK4(steps=50)`.
            estimator: of the divergence; None is exact.
            seed: the seed of the probes of a stochastic estimator, which are a function of (seed,
                event, rank among its real objects, feature) only.
            first: the index of the first event, or the indices of all with shape `(B,)`.
            batch_size: how many events to integrate at a time; None as in `sample`. It changes no
                result.

        Returns:
            The terms, each with shape `(B,)` and float64; NaN for an event at whose values, finite
            but absurd, the field's arithmetic overflows. They are differentiable; call it under
            `torch.no_grad()` where no gradient is needed.

        Raises:
            TypeError: if `batch` is no `SetBatch`.
            ValueError: if the model has no statistics; features, context or the numbers of objects
                do not fit or are not finite; or as `masked_log_prob`.
            IntegrationError: if an adaptive solver does not reach its tolerance; it names the rows
                that failed first.
        """
        single = isinstance(batch, SetBatch) and batch.mask.ndim == 1
        batch = listed(batch, "log_prob")
        n = len(batch)
        numbers = {} if isinstance(first, Tensor) else {"first": first}
        batch_size = self._batch_size(batch_size, seed=seed, **numbers)
        if batch.mask.ndim != 2 or batch.x.shape[2:] != (len(self.features),):
            raise ValueError(
                f"the batch has x of shape {tuple(batch.x.shape)}, expected (B, N, "
                f"{len(self.features)}) with the features {', '.join(self.features)}; "
                "setflow.data.read_events(path, features=flow.features) reads these"
            )
        if any(part.training and isinstance(part, NOT_FOR_USE) for part in self.modules()):
            raise ValueError(f"a density must be the same at each call; {FOR_USE}")
        if self.context_model is not None:
            if batch.c is None:
                raise ValueError(f"{no_density(self)}; give the context, and it is that given it")
            warnings.warn(f"{no_density(self)}; log p is that given the context", stacklevel=3)
        elif self._derived is not None:
            warnings.warn(f"{self._derived}; log p is that given the context", stacklevel=3)
        c = self.scaled_context(batch.c, n)
        seen = current_transform() is None or is_readable(batch.x * batch.mask[..., None])
        there = batch.x if self.types is None else self.selected(batch).x
        bad = (~there.isfinite() & batch.mask[..., None]).flatten(1).any(-1)
        if seen and bool(bad.any()):
            culprit = first_not_finite(SetBatch(there, batch.mask), self.features, ())
            raise ValueError(
                f"{int(bad.sum())} events hold NaN or infinite values in real objects, the first "
                f"is event {int(bad.nonzero()[0])}, where {culprit and culprit.what}; leave them "
                "out"
            )
        x = batch.x if batch.x.is_floating_point() else as_floating(batch.x, self.field)
        z = self.scaler(x, batch.mask)
        z = z.to(torch.promote_types(z.dtype, next(self.field.parameters(), z).dtype))
        lengths = batch.lengths
        if c is not None and seen and not bool(c[lengths > 0].isfinite().all()):
            bad = ~c.isfinite() & (lengths > 0)[:, None]
            raise context_error(bad, self.context_columns, "leave it out")
        index = _event_index(first, n).to(z.device)
        scaling = self.scaler.log_det(batch.x.double(), batch.mask)
        present = kinds = None
        if self.types is not None:
            kinds = self.types.kinds(batch.x, batch.mask)
            present, lengths = self.types.present(kinds), self.types.counts(kinds, batch.mask)
        ordering = torch.lgamma(lengths.double() + 1)
        ordering = ordering if kinds is None else ordering.sum(-1)
        cardinality = torch.zeros_like(ordering)
        if self.cardinality is not None:
            cardinality = self.cardinality.log_prob(lengths, c)
        if self.types is not None and kinds is not None:
            c = self.types.rows(kinds, c, z.dtype)
        solver = RK4(steps=50) if solver is None else solver
        parts: list[LogProbEstimate] = []
        for start in range(0, n, batch_size):
            rows = slice(start, start + batch_size)
            context = None if c is None else c[rows].to(z)
            has = None if present is None else present[rows]
            events = Events.of(self.field, z[rows], batch.mask[rows], c=context, present=has)
            try:
                parts.append(
                    score_events(
                        self.field, self.base, solver, events, t0=1.0, t1=0.0, estimator=estimator,
                        seeds=EventSeeds(seed, index[rows]), with_error=tells_error(estimator),
                    )
                )  # fmt: skip
            except IntegrationError as error:
                failed = [(start + int(event[0]),) for event in error.events]
                raise error.renamed(failed) from error
        objects, standard_error = (
            torch.cat(values) if parts else z.new_zeros(0, dtype=torch.float64)
            for values in (
                [part.log_prob for part in parts],
                [part.standard_error for part in parts],
            )
        )
        total = objects + scaling + ordering + cardinality
        if seen and bool(total.isnan().any()):
            refuse_diverged(self)
        terms = (total, objects, scaling, ordering, cardinality, standard_error)
        return LogDensity(*(term[0] if single else term for term in terms))

    def selected(self, batch: SetBatch) -> SetBatch:
        """Return physical events with 0 for features that their objects do not have."""
        if self.types is None:
            return batch
        x = self.types.without_absent(batch.x, self.types.kinds(batch.x, batch.mask, look=False))
        return SetBatch(x, batch.mask, batch.c, batch.weight)

    def _batch_size(self, asked: int | None, **numbers: int) -> int:
        """Return how many events to integrate at a time, when other numbers are checked, too."""
        for name, value in {**numbers, "batch_size": 1 if asked is None else asked}.items():
            least = 1 if name == "batch_size" else 0
            try:
                fits = least <= operator.index(value) < 2**64
            except TypeError:  # of a tensor of several numbers, too
                fits = False
            if not fits:
                raise ValueError(
                    f"{name} must be a whole number of at least {least}, got {shown(value)}"
                    + (", and below 2**64" if name == "seed" else "")
                )
        if asked is None:
            return 128 if self.scaler.mean.device.type == "cpu" else 2048
        return asked

    def _context(self, c: Tensor | None, n: int) -> Tensor:
        shape = (n, len(self.conditions))
        if c is None or tuple(c.shape) != shape:
            got = "none" if c is None else f"shape {tuple(c.shape)}"
            one = c is not None and len(self.conditions) == 1 and tuple(c.shape) == (n,)
            by_name = ", ".join(f"{name!r}: ..." for name in self.conditions)
            by_name = f"; a SetBatch holds it as c=, and by name there is sample(n, {{{by_name}}})"
            raise ValueError(
                f"the model is conditioned on {', '.join(self.conditions)}: expected a context c "
                f"with shape {shape}, got {got}"
                + ("; one number per event is c[..., None]" if one else "")
                + (by_name if c is None else "")
            )
        return c if c.is_floating_point() else as_floating(c, self.field)

    def _require_known_lengths(self, batch: SetBatch) -> None:
        """Refuse events with more objects than p(N) knows; on a CPU, where a look costs nothing."""
        if self.cardinality is None or not is_at_hand(batch.mask) or not is_readable(batch.mask):
            return
        longest, known = int(batch.lengths.max()) if len(batch) else 0, self.cardinality.max_objects
        if longest > known:
            raise ValueError(
                f"events have up to {longest} objects, and the cardinality model knows up to "
                f"{known}, max_objects; cut the events to {known} objects, or build the model with "
                f"max_objects={longest}"
            )

    def _refuse_context(self, c: Tensor) -> None:
        raise ValueError(
            f"the model takes no context, got c with shape {tuple(c.shape)}; leave it out"
        )

    def scaled_context(self, c: Tensor | None, n: int) -> Tensor | None:
        """Return the context of `n` events as field and cardinality model get it.

        It has a column for each of `context_columns`.

        All that uses the model comes here first, so its statistics are asked for here.

        Raises:
            ValueError: if the context does not fit, or the model has no statistics.
        """
        parts = (self.scaler, self.context_scaler, self.cardinality)
        if not all(part is None or part.known for part in parts):
            self.require_fitted()
        if self.context_encoder is None:
            if c is not None:
                self._refuse_context(c)
            return None
        encoded: Tensor = self.context_encoder(self._context(c, n), self.context_scaler)
        return encoded


def _event_index(first: int | Tensor, n: int) -> Tensor:
    """Return the indices of `n` events, given that of the first or all of them."""
    if not isinstance(first, Tensor):
        return torch.arange(operator.index(first), operator.index(first) + n)
    if tuple(first.shape) != (n,) or first.is_floating_point() or first.dtype == torch.bool:
        raise ValueError(
            f"first has shape {tuple(first.shape)} and dtype {first.dtype}, expected an integer, "
            f"or {(n,)} integers: the index of each event"
        )
    return first
