"""`SetFlow`: field, scaler and cardinality model as one object that samples, saves and loads.

Notation. The model gives p(N | c) and p(x_1 .. x_N | N, c). Scaled features z are the flow's data
at t = 0 and standard normal noise at t = 1; physical features are x = scaler.inverse(z). Field and
cardinality model get the scaled context. The noise of event k is a function of (seed, k, rank among
its real objects, feature) only, and its N one of (seed, k, c), so that neither batching nor
sharding nor padding changes an event.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from setflow.data.scaling import Standardizer
from setflow.distributions.cardinality import CardinalityModel
from setflow.distributions.normal import StandardNormal
from setflow.divergence.base import DivergenceEstimator
from setflow.fields.base import VectorField
from setflow.losses.means import reduce_events
from setflow.masking.log_prob import score_events, tells_error
from setflow.masking.loss import masked_fm_loss
from setflow.masking.sample import masked_sample
from setflow.model.folder import (
    CONFIG,
    arguments_of,
    describe_model,
    read_folder,
    short_card,
    write_folder,
)
from setflow.paths.affine import LinearPath
from setflow.paths.base import ProbabilityPath
from setflow.random import EventSeeds, counter_normal, counter_uniform
from setflow.sets.batch import SetBatch
from setflow.sets.events import Events
from setflow.sets.masks import current_transform, is_readable
from setflow.sets.protocols import Solver, event_ndim_of
from setflow.sets.shapes import as_floating
from setflow.solvers.adaptive import IntegrationError
from setflow.solvers.fixed import RK4, Midpoint
from setflow.timesteps import TimeSampling

__all__ = ["LogDensity", "SetFlow"]


class LogDensity(NamedTuple):
    """The log-density of sets, term by term, in nats, each with shape `(B,)` and float64.

    Attributes:
        total: log p({x_1 .. x_N}, N | c) of the unordered set, per physical unit of each feature of
            each object: the sum of the four terms that follow.
        objects: log p(z_1 .. z_N | N, c), the density of the ordered tuple of scaled features.
        scaling: log|det dz/dx|, of the scaling of the features and of their transforms.
        ordering: log N!, since a set may be written down in so many orders.
        cardinality: log p(N | c); 0 if the model has no cardinality model, and the density is then
            one for given N.
        standard_error: what the probes of a stochastic divergence leave uncertain in `objects`; 0
            for an exact one, NaN if the estimator cannot tell (a single probe).
    """

    total: Tensor
    objects: Tensor
    scaling: Tensor
    ordering: Tensor
    cardinality: Tensor
    standard_error: Tensor


class SetFlow(nn.Module):
    """A generative model of sets: how many objects, and what they are.

    Arguments:
        field: the velocity field on scaled features, for sets with shape `(N, len(features))`.
        path: the path between data and noise; None takes `LinearPath`.
        scaler: the scaling of the features; None takes a `Standardizer`.
        cardinality: p(N), or p(N | c) of the scaled context; None means that lengths must be given
            when sampling.
        features: the names of the features of one object, in order.
        conditions: the names of the context features, in order; empty for no context.
        context_scaler: the scaling of the context; None takes a `Standardizer` if there is one.

    Raises:
        ValueError: if the field does not take sets or takes a context per object or a context set,
            or the number of features or conditions differs.

    >>> flow = SetFlow(setflow.TransformerField(3, hidden=16, layers=1, heads=2),
    ...                cardinality=setflow.EmpiricalCardinality(30))
    >>> flow.sample(4, seed=1, solver=setflow.Midpoint(steps=2)).x.shape
    torch.Size([4, 30, 3])
    """

    def __init__(
        self,
        field: VectorField,
        *,
        path: ProbabilityPath | None = None,
        scaler: Standardizer | None = None,
        cardinality: CardinalityModel | None = None,
        features: Sequence[str] = ("etarel", "phirel", "ptrel"),
        conditions: Sequence[str] = (),
        context_scaler: Standardizer | None = None,
    ) -> None:
        super().__init__()
        event_ndim_of(field, at_least=2)
        self.features = tuple(features)
        self.conditions = tuple(conditions)
        self.field = field
        self.path = LinearPath() if path is None else path
        self.scaler = Standardizer(len(self.features)) if scaler is None else scaler
        self.cardinality = cardinality
        for name, part, count in (
            ("field", field, len(self.features)),
            ("scaler", self.scaler, len(self.features)),
            ("context_scaler", context_scaler, len(self.conditions)),
        ):
            dim = getattr(part, "dim", count)  # a field of one's own need not tell
            if dim != count:
                raise ValueError(
                    f"{name} has dim={dim}, but there are {count} names: features "
                    f"{', '.join(self.features)}; conditions {', '.join(self.conditions) or 'none'}"
                )
        for option in ("object_condition_dim", "set_condition_dim"):
            if getattr(field, option, 0):
                raise ValueError(
                    f"field has {option}={getattr(field, option)}, but a SetFlow has one context "
                    "row per event; give such contexts to the verbs, setflow.masked_fm_loss and "
                    "setflow.masked_sample"
                )
        asked = 0 if cardinality is None else cardinality.condition_dim
        if asked not in (0, len(self.conditions)):
            raise ValueError(
                f"cardinality has condition_dim={asked}, but there are {len(self.conditions)} "
                f"conditions: {', '.join(self.conditions) or 'none'}; give as many, or take "
                "setflow.EmpiricalCardinality, which needs none"
            )
        if context_scaler is None and self.conditions:
            context_scaler = Standardizer(len(self.conditions))
        self.context_scaler = context_scaler
        self._base = StandardNormal((len(self.features),))

    @property
    def device(self) -> torch.device:
        """The device on which the model stands."""
        return self.scaler.mean.device

    def fit_statistics(self, batch: SetBatch) -> SetFlow:
        """Fit scaler, context scaler and cardinality model to a training sample; return self.

        A cardinality model that is trained starts anew from the frequencies of the sample.

        Arguments:
            batch: physical features, with context in the order of `conditions`.

        Raises:
            ValueError: if the sample does not fit the model.
        """
        self.scaler.fit(batch.x, batch.mask)
        if self.context_scaler is not None:
            self.context_scaler.fit(self._context(batch.c, len(batch))[:, None])
        if self.cardinality is not None:
            self.cardinality.fit(batch.lengths, self._scaled_context(batch.c, len(batch)))
        return self

    def loss(
        self,
        batch: SetBatch,
        *,
        t: Tensor | None = None,
        times: TimeSampling | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the training loss of physical events, a scalar: the sum of `loss_terms`.

        Arguments:
            batch: physical features with shape `(B, N, D)`, with context if the model has
                conditions.
            t: times with shape `(B,)`; None draws them.
            times: the density of the times and their weight; None takes uniform times, no weight.
            noise: standard normal noise of the scaled features, with shape `(B, N, D)`; None draws
                it.
            generator: the random generator for noise and times that are not given.

        Raises:
            ValueError: as `loss_terms`.
        """
        terms = self.loss_terms(batch, t=t, times=times, noise=noise, generator=generator)
        return torch.stack(list(terms.values())).sum()

    def loss_terms(
        self,
        batch: SetBatch,
        *,
        t: Tensor | None = None,
        times: TimeSampling | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms of the training loss by name, each a scalar; the arguments of `loss`.

        Returns:
            `flow`, the flow-matching loss; and, if the cardinality model has parameters,
            `cardinality`, the mean of -log p(N | c) over all events, empty ones too, in nats. The
            terms share no parameter, so the gradient of each is what it would be alone.

        Raises:
            ValueError: if the context does not fit, or, where p(N | c) is trained, is not finite or
                an event has more than `max_objects` objects.
        """
        c = self._scaled_context(batch.c, len(batch))
        log_p = None
        if self.cardinality is not None and next(self.cardinality.parameters(), None) is not None:
            # first: its checks wait for the device, which has nothing queued yet
            log_p = self.cardinality.log_prob(batch.lengths, c)
        x = batch.x if batch.x.is_floating_point() else as_floating(batch.x, self.field)
        z = self.scaler(x, batch.mask)
        z = z.to(next(self.field.parameters(), z).dtype)
        if noise is None:
            noise = torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=generator)
        flow = masked_fm_loss(
            self.field, z, noise.to(z), batch.mask, t, c, path=self.path, times=times,
            generator=generator,
        )  # fmt: skip
        if log_p is None:
            return {"flow": flow}
        return {"flow": flow, "cardinality": -reduce_events(log_p, "mean").to(flow.dtype)}

    @torch.no_grad()
    def sample(
        self,
        n: int,
        c: Tensor | None = None,
        seed: int = 0,
        *,
        lengths: Tensor | None = None,
        first: int = 0,
        solver: Solver | None = None,
        batch_size: int | None = None,
    ) -> SetBatch:
        """Return events `first` to `first + n` of the sample that belongs to `seed`.

        Arguments:
            n: the number of events.
            c: physical context, with shape `(n, len(conditions))`.
            seed: the seed of noise and cardinalities.
            lengths: the number of objects of each event, with shape `(n,)`; None draws from
                p(N | c).
            first: the index of the first event.
            solver: the ODE solver; None takes `Midpoint(steps=50)`.
            batch_size: how many events to integrate at a time; None takes 128 on a CPU, where they
                should fit its cache, and 2048 elsewhere. It changes no result.

        Returns:
            A `SetBatch` of physical features, padded to the largest cardinality that the model
            knows, or to the longest event if `lengths` are given.

        Raises:
            ValueError: if the context or the lengths do not fit, or there is no cardinality model.
        """
        if n < 0 or first < 0:
            raise ValueError(f"n and first must not be negative, got n={n}, first={first}")
        batch_size = self._batch_size(batch_size)
        device, dtype = self.device, next(self.field.parameters(), self.scaler.mean).dtype
        index = torch.arange(first, first + n, device=device)
        c = None if c is None else c.to(device)
        context = self._scaled_context(c, n)
        context = None if context is None else context.to(dtype)
        if lengths is None:
            if self.cardinality is None:
                raise ValueError(
                    "the model has no cardinality model; give lengths=, or build it with "
                    "cardinality=setflow.EmpiricalCardinality(max_objects)"
                )
            slots = self.cardinality.max_objects
            lengths = self.cardinality.sample(counter_uniform(seed, index), context)
        else:
            lengths = torch.as_tensor(lengths, device=device)
            if tuple(lengths.shape) != (n,) or lengths.is_floating_point():
                raise ValueError(
                    f"lengths has shape {tuple(lengths.shape)} and dtype {lengths.dtype}, expected "
                    f"{(n,)} integers: the number of objects of each event"
                )
            if n and int(lengths.min()) < 0:
                raise ValueError(f"lengths must not be negative, got {int(lengths.min())}")
            slots = int(lengths.max()) if n else 0
        mask = torch.arange(slots, device=device) < lengths[:, None]
        x = torch.zeros(n, slots, len(self.features), dtype=dtype, device=device)
        solver = Midpoint(steps=50) if solver is None else solver
        for start in range(0, n, batch_size):
            rows = slice(start, start + batch_size)
            noise = counter_normal(seed, index[rows], mask[rows], (len(self.features),)).to(dtype)
            row_context = None if context is None else context[rows]
            z = masked_sample(
                self.field, self._base, solver, mask[rows], c=row_context, x_source=noise
            )
            x[rows] = self.scaler.inverse(z, mask[rows])
        return SetBatch(x, mask, c)

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
        same arguments, with shape `(B,)`, float64. A model without cardinality model gives it for
        given N.
        """
        return self.log_prob_terms(
            batch, solver=solver, estimator=estimator, seed=seed, first=first, batch_size=batch_size
        ).total

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
            batch: physical features with shape `(B, N, D)`, with context if the model has
                conditions.
            solver: the ODE solver; None takes `RK4(steps=50)`.
            estimator: of the divergence; None is exact.
            seed: the seed of the probes of a stochastic estimator, which are a function of (seed,
                event, rank among its real objects, feature) only.
            first: the index of the first event, or the indices of all with shape `(B,)`.
            batch_size: how many events to integrate at a time; None as in `sample`. It changes no
                result.

        Returns:
            The terms, each with shape `(B,)` and float64. They are differentiable; call it under
            `torch.no_grad()` where no gradient is needed.

        Raises:
            ValueError: if features, context or the numbers of objects do not fit or are not finite,
                or as `masked_log_prob`.
            IntegrationError: if an adaptive solver does not reach its tolerance; it names the rows
                that failed first.
        """
        n = len(batch)
        if batch.mask.ndim != 2 or batch.x.shape[2:] != (len(self.features),):
            raise ValueError(
                f"the batch has x of shape {tuple(batch.x.shape)}, expected (B, N, "
                f"{len(self.features)}) with the features {', '.join(self.features)}"
            )
        seen = current_transform() is None or is_readable(batch.x * batch.mask[..., None])
        bad = (~batch.x.isfinite() & batch.mask[..., None]).flatten(1).any(-1)
        if seen and bool(bad.any()):
            raise ValueError(
                f"{int(bad.sum())} events hold NaN or infinite values in real objects, the first "
                f"is event {int(bad.nonzero()[0])}; leave them out"
            )
        x = batch.x if batch.x.is_floating_point() else as_floating(batch.x, self.field)
        z = self.scaler(x, batch.mask)
        z = z.to(torch.promote_types(z.dtype, next(self.field.parameters(), z).dtype))
        c = self._scaled_context(batch.c, n)
        lengths = batch.lengths
        if c is not None and seen and not bool(c[lengths > 0].isfinite().all()):
            row = int((~c.isfinite().all(-1) & (lengths > 0)).nonzero()[0])
            raise ValueError(f"the context of event {row} is not finite; leave it out")
        index = _event_index(first, n).to(z.device)
        scaling = self.scaler.log_det(batch.x.double(), batch.mask)
        ordering = torch.lgamma(lengths.double() + 1)
        cardinality = torch.zeros_like(ordering)
        if self.cardinality is not None:
            cardinality = self.cardinality.log_prob(lengths, c)
        solver = RK4(steps=50) if solver is None else solver
        batch_size, parts = self._batch_size(batch_size), []
        for start in range(0, n, batch_size):
            rows = slice(start, start + batch_size)
            context = None if c is None else c[rows].to(z)
            events = Events.of(self.field, z[rows], batch.mask[rows], c=context)
            try:
                parts.append(
                    score_events(
                        self.field, self._base, solver, events, t0=1.0, t1=0.0, estimator=estimator,
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
        return LogDensity(total, objects, scaling, ordering, cardinality, standard_error)

    def _batch_size(self, asked: int | None) -> int:
        if asked is None:
            return 128 if self.device.type == "cpu" else 2048
        if asked < 1:
            raise ValueError(f"batch_size must be at least 1, got {asked}")
        return asked

    # --- files ---

    def describe(self) -> dict[str, Any]:
        """Return the node from which `from_node` builds this object, without its weights."""
        return describe_model(self)

    @classmethod
    def from_node(cls, node: Any, *, where: str = "model.flow") -> SetFlow:
        """Build a model from its node; classes come from the library's own table.

        Raises:
            ValueError: if the node names another class or an argument that does not exist.
        """
        arguments = arguments_of(node, where)
        try:
            return cls(**arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        config: Mapping[str, Any] | None = None,
        card: str | None = None,
    ) -> Path:
        """Write the model as a folder, which appears when it is complete.

        Arguments:
            folder: where.
            overwrite: replace a model folder that is there.
            config: further nodes for `config.yaml`, such as the training configuration; its node
                `model.flow` is written anew.
            card: the text of the card; None writes a short one.

        Returns:
            The path of the folder.

        Raises:
            FileExistsError: if it exists and may not be replaced.
            TypeError: if a part of the model has no name in the library's table.
        """
        folder = Path(folder)
        nodes = dict(config or {})
        nodes["model"] = {**dict(nodes.get("model") or {}), "flow": self.describe()}
        card = short_card(self, folder.name) if card is None else card
        write_folder(folder, nodes, self.state_dict(), card, overwrite=overwrite)
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> SetFlow:
        """Read a model folder, verified against its manifest; the model is in evaluation mode.

        Raises:
            FileNotFoundError: if the folder or one of its files is not there.
            ValueError: if a hash does not match, or the files do not describe a model.
        """
        stored = read_folder(Path(folder))
        flow = cls.from_node(stored.node, where=stored.where)
        try:
            flow.load_state_dict(stored.weights, assign=True)  # in the stored dtype
        except RuntimeError as error:
            raise ValueError(
                f"{folder} does not hold the weights that its {CONFIG} describes: {error}"
            ) from error
        return flow.to(device).eval()

    def _context(self, c: Tensor | None, n: int) -> Tensor:
        shape = (n, len(self.conditions))
        if c is None or tuple(c.shape) != shape:
            got = "none" if c is None else f"shape {tuple(c.shape)}"
            raise ValueError(
                f"the model is conditioned on {', '.join(self.conditions)}: expected a context c "
                f"with shape {shape}, got {got}"
            )
        return c

    def _scaled_context(self, c: Tensor | None, n: int) -> Tensor | None:
        if self.context_scaler is None:
            if c is not None:
                raise ValueError(
                    f"the model takes no context, got c with shape {tuple(c.shape)}; leave it out"
                )
            return None
        given = self._context(c, n)
        given = given if given.is_floating_point() else as_floating(given, self.field)
        scaled: Tensor = self.context_scaler(given[:, None])
        return scaled[:, 0]


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
