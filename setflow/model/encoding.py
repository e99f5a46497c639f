"""How the context of a model reaches its field and its p(N | c), and where the training knows it.

Notation. A physical context c has one column for each condition, with shape `(n, C)`: a number, an
angle in radians, or the code of a category, its position among the names. The field gets columns of
order one: numbers scaled, an angle as its cosine and sine, a category as one column for each name,
1 for that of the event and 0 for all others, so that the first linear layer of a field learns a
vector for each name.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from setflow.data.object_types import codes_in_words
from setflow.data.scaling import Standardizer
from setflow.schema import Angle, Category, Feature, names
from setflow.sets.angles import LARGEST
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import current_transform, is_at_hand, is_readable
from setflow.spelling import nearest

__all__ = ["ContextEncoder", "NamedContext", "OutsideTrainingWarning", "context_columns"]

FEW, NEAR = 100, 10
"""What at most one event in `FEW` does, by less than the `NEAR`th part of the range, is chance."""

NamedContext = Array | Mapping[str, Any]  # rows in the order of the conditions, or by their names


class OutsideTrainingWarning(UserWarning):
    """A context lies where no training event has been, so that the model extrapolates."""


def context_columns(features: Sequence[Feature]) -> tuple[str, ...]:
    """Return the names of the columns that a field gets of a context, in their order.

    >>> context_columns([Feature("pt"), Feature("class", kind="category(top, gluon)")])
    ('pt', 'class=top', 'class=gluon')
    """
    columns: list[str] = []
    for feature in features:
        kind, name = feature.kind, feature.name
        if isinstance(kind, Category):
            columns += [f"{name}={entry}" for entry in kind.names]
        else:
            columns += [f"cos({name})", f"sin({name})"] if isinstance(kind, Angle) else [name]
    return tuple(columns)


class ContextEncoder(nn.Module):
    """Turns physical contexts into those of a field, and keeps the range of the training.

    Arguments:
        features: the conditions, in order, with their kinds.

    Attributes:
        columns: the names of the columns that the field gets.
        low: the smallest value of each condition in training, with shape `(C,)`; NaN if it
            is unknown, as model folders of former versions do not tell it.
        high: the largest.

    >>> encoder = ContextEncoder([Feature("class", kind="category(top, gluon)")])
    >>> encoder(encoder.rows({"class": ["gluon", "top"]}, 2), None)
    tensor([[0., 1.],
            [1., 0.]])
    """

    low: Tensor
    high: Tensor

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        self.features = tuple(features)
        self.conditions = names(self.features)
        self.columns = context_columns(self.features)
        self.scaled = [k for k, feature in enumerate(features) if feature.of_kind.on_a_line]
        for name in ("low", "high"):
            unknown = torch.full((len(self.features),), torch.nan, dtype=torch.float64)
            self.register_buffer(name, unknown)

    def extra_repr(self) -> str:
        return ", ".join(self.columns)

    def forward(self, c: Tensor, scaler: Standardizer | None) -> Tensor:
        """Return the context as a field gets it, with shape `(n, len(columns))`.

        Arguments:
            c: the physical context, floating, with shape `(n, C)`.
            scaler: that of the conditions which are numbers on a line; None if there are none.

        Returns:
            The columns. What is no code of a category gives NaN.

        Raises:
            ValueError: on a CPU, if it is none, if an angle lies beyond two turns, or if the scaler
                does not take a value.
        """
        numbers = []
        if scaler is not None:
            every = len(self.scaled) == len(self.features)
            # no list as an index: it would go to the device in each step
            given = c if every else torch.stack([c[:, k] for k in self.scaled], -1)
            scaled: Tensor = scaler(given[:, None])[:, 0]
            if every:
                return scaled
            numbers = list(scaled.unbind(-1))
        columns: list[Tensor] = []
        for k, feature in enumerate(self.features):
            column = c[:, k]
            if isinstance(feature.kind, Category):
                codes = torch.arange(len(feature.kind.names), device=c.device)
                chosen = column[:, None] == codes
                known = chosen.any(-1)
                self._require(column, known, k)
                one_hot = torch.where(known[:, None], chosen.to(c.dtype), torch.nan)
                columns += one_hot.unbind(-1)
            elif isinstance(feature.kind, Angle):
                self._require(column, ~(column.abs() > LARGEST), k)
                wide = column.double()  # so that a file of either precision gives the same columns
                columns += [wide.cos().to(c.dtype), wide.sin().to(c.dtype)]
            else:
                columns.append(numbers.pop(0))
        return torch.stack(columns, -1)

    def _require(self, column: Tensor, known: Tensor, k: int) -> None:
        if not is_at_hand(column):
            return
        if current_transform() is not None and not is_readable(column):
            return
        if not bool(known.all()):
            row = int((~known).nonzero()[0])
            raise ValueError(
                f"condition '{self.conditions[k]}' of event {row} is {column[row].item():g}, "
                f"{self.expected(k, None)}"
            )

    def unknown(self, c: Tensor, scaler: Standardizer | None) -> Tensor:
        """Return which values of contexts no model can be asked for, with shape `(n, C)`.

        Arguments:
            c: physical contexts, with shape `(n, C)`.
            scaler: that of the conditions which are numbers on a line; None if there are none.
        """
        unknown = ~c.isfinite()
        if scaler is not None:
            unknown[:, self.scaled] |= scaler.outside(c[:, None, self.scaled])[:, 0]
        for k, feature in enumerate(self.features):
            if isinstance(feature.kind, Category):
                codes = torch.arange(len(feature.kind.names), device=c.device)
                unknown[:, k] = (c[:, k, None] != codes).all(-1)
            elif isinstance(feature.kind, Angle):
                unknown[:, k] |= c[:, k].abs() > LARGEST
        return unknown

    def expected(self, k: int, scaler: Standardizer | None) -> str:
        """Return what a condition is expected to be, in words."""
        if isinstance(self.features[k].kind, Category):
            return f"expected {codes_in_words(self.features[k].of_kind)}"
        if isinstance(self.features[k].kind, Angle):
            return "expected radians, such as 1.57; math.radians makes them of degrees"
        kinds = {} if scaler is None else dict(zip(self.scaled, scaler.kinds, strict=True))
        low, high = kinds.get(k, self.features[k].of_kind).bounds
        if (low, high) == (0, math.inf):
            return "expected a positive value, for the model transforms it"
        if math.isinf(low) and math.isinf(high):
            return "expected a finite number"
        return f"expected a finite value between {low:g} and {high:g}"

    # --- the range of the training ---

    @property
    def knows_range(self) -> bool:
        """Whether the range of the training is known; it is looked at."""
        return not bool(self.low.isnan().any())

    def learn_range(self, c: Tensor, *, anew: bool = True) -> None:
        """Take the range of the contexts of a training sample, or widen that which is known to it.

        Arguments:
            c: the contexts, with shape `(n, C)`.
            anew: forget the range so far; else one that is unknown remains unknown.
        """
        if not len(c):
            return
        low, high = self.ends(c)
        if not anew:
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
        self.low.copy_(low)
        self.high.copy_(high)

    def ends(self, c: Tensor) -> Tensor:
        """Return the smallest and the largest value of each condition, float64, `(2, C)`.

        Arguments:
            c: the contexts, with shape `(n, C)`; of none they are infinite.
        """
        c = self._turned(c.detach().to(self.low))
        if not len(c):
            full = torch.full_like(self.low, torch.inf)
            return torch.stack([full, -full])
        return torch.stack([c.amin(0), c.amax(0)])

    def within(self, name: str, values: Tensor) -> Tensor:
        """Return values of a condition, those beyond the range of the training at its ends.

        A context model makes some now and then, and objects given them are far from all true ones.

        Arguments:
            name: the name of the condition.
            values: with shape `(n,)`; angles and categories stay as they are.
        """
        k = self.conditions.index(name)
        if not (self.features[k].of_kind.on_a_line and self.knows_range):
            return values
        return values.clamp(self.low[k].to(values), self.high[k].to(values))

    def warn_outside(self, c: Tensor, stacklevel: int = 2, *, first: int = 0) -> None:
        """Warn of contexts that lie outside the range of the training.

        Of two samples of one law the second leaves the range of the first now and then: of n values
        at both ends together the next one by a chance of 2 / (n + 1), and not by far. So what at
        most one event in `FEW` does, by less than the `NEAR`th part of the range, is not told.

        Arguments:
            c: the contexts, with shape `(n, C)`; one that is not finite, or no code of a category,
                is not looked at.
            stacklevel: whom the warning names.
            first: the number of the first event.

        Warns:
            OutsideTrainingWarning: for each condition with such values: how many, the range, and
                the value that is farthest from it.
        """
        turned = self._turned(c).float()  # as coarse as files are
        low, high = self.low.float(), self.high.float()
        beyond = torch.maximum(low - turned, turned - high).nan_to_num(-1)
        beyond = torch.where(self.unknown(turned, None), -1, beyond)
        for k in (beyond > 0).any(0).nonzero()[:, 0].tolist():
            feature, rows = self.features[k], int((beyond[:, k] > 0).sum())
            farthest = int(beyond[:, k].argmax())
            value = c[farthest, k].item()
            by, width = beyond[farthest, k].item(), (high[k] - low[k]).item()
            near = not isinstance(feature.kind, Category) and NEAR * by < width
            if near and FEW * rows <= len(c):
                continue
            where = f"by up to {100 * by / width:.2g} % of it" if near else "where the model has"
            where += "" if near else " learnt nothing"
            told = [_told(feature, at) for at in (value, self.low[k].item(), self.high[k].item())]
            unit = f" {feature.unit}" if feature.unit else ""
            warnings.warn(
                f"condition '{feature.name}' of {rows:,} of {len(c):,} events lies outside the "
                f"range of the training, {told[1]} to {told[2]}{unit}, {where}: it is {told[0]} in "
                f"event {first + farthest}",
                OutsideTrainingWarning,
                stacklevel=stacklevel + 1,
            )

    def _turned(self, c: Tensor) -> Tensor:
        """Return contexts with their angles in [-pi, pi)."""
        angles = [k for k, feature in enumerate(self.features) if isinstance(feature.kind, Angle)]
        if angles:
            c, phi = c.clone(), c[:, angles]
            turned = (phi + math.pi).remainder(2 * math.pi) - math.pi
            c[:, angles] = torch.where(phi.abs() <= math.pi, phi, turned)
        return c

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in ("low", "high"):  # former versions did not keep them: they stay as they are
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *args)

    # --- what a caller gives ---

    def rows(self, c: NamedContext, n: int) -> Tensor:
        """Return the context of events, one row for each, from what a caller gives.

        Arguments:
            c: rows in the order of the conditions, with shape `(n, C)`; one row for all, with
                shape `(1, C)` or `(C,)`; or a mapping from the names of the conditions to a number
                for all or to numbers with shape `(n,)`. A category is given by its name or its
                code.
            n: the number of events.

        Raises:
            ValueError: if a name is missing or unknown, a text has no name, or a shape does not
                fit.

        >>> encoder = ContextEncoder([Feature("pt"), Feature("mass")])
        >>> encoder.rows({"mass": 80.0, "pt": [400.0, 500.0]}, 2)
        tensor([[400.,  80.],
                [500.,  80.]])
        """
        if not isinstance(c, Mapping):
            self._refuse_text(c)
            rows = as_tensor(c, "c")
            width = len(self.features)
            single = width > 0 and tuple(rows.shape) in ((width,), (1, width))
            return rows.expand(n, width) if single else rows
        require_names(c, self.conditions)
        columns = []
        for feature in self.features:
            column = as_tensor(_coded(c[feature.name], feature), f"condition '{feature.name}'")
            if tuple(column.shape) not in ((), (1,), (n,)):
                one = "a name" if isinstance(feature.kind, Category) else "a number"
                raise ValueError(
                    f"condition '{feature.name}' has shape {tuple(column.shape)}, expected {one} "
                    f"for all events or {(n,)}: one for each"
                )
            if not column.is_floating_point():
                column = column.to(torch.get_default_dtype())
            columns.append(column.expand(n))
        return torch.stack(columns, -1) if columns else torch.zeros(n, 0)

    def _refuse_text(self, c: Array) -> None:
        """Refuse rows that are text; names of a category are told with that of their condition."""
        listed = c if isinstance(c, (list, tuple)) else [c]
        if not any(isinstance(entry, (str, bytes)) for entry in listed):
            return
        expected = ", ".join(f"{name!r}: ..." for name in self.conditions)
        raise ValueError(
            f"the context is {c!r}, "
            + (f"expected values by name, {{{expected}}}, or rows of numbers" if expected else "")
            + ("" if expected else "and the model takes none; leave it out")
        )


def require_names(given: Mapping[str, Any], conditions: Sequence[str]) -> None:
    """Raise unless a context by name has the conditions of a model, and no others.

    Raises:
        ValueError: if a name is missing or unknown; it tells the nearest.
    """
    missing = [name for name in conditions if name not in given]
    unknown = [str(name) for name in given if name not in conditions]
    if not missing and not unknown:
        return
    wrong = [f"lacks {', '.join(missing)}"] if missing else []
    wrong += [f"has {', '.join(unknown)}, which the model does not know"] if unknown else []
    if not conditions:
        raise ValueError(f"the context {wrong[0]}, as it has no conditions; leave the context out")
    raise ValueError(
        f"the context {' and '.join(wrong)}; the conditions of the model are "
        f"{', '.join(conditions)}" + (nearest(unknown[0].lower(), conditions) if unknown else "")
    )


def _coded(value: Any, feature: Feature) -> Any:
    """Return the codes of the names of a category; what is no text stays.

    Raises:
        ValueError: if there is no such name, or a text stands for a number.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        example = next(iter(value), "NAME")
        raise ValueError(
            f"condition '{feature.name}' is the mapping {dict(value)!r}, expected one value for "
            f"all events, such as {example!r}, or a list with one for each; numbers of events for "
            "each value are for setflow.jobs.sample.sample_to_hdf5(context=) and `setflow sample`"
        )
    listed = np.asarray(value)
    if listed.dtype.kind not in "USO":
        return value
    texts = [str(entry) for entry in listed.ravel().tolist()]
    if not isinstance(feature.kind, Category):
        unit = f" [{feature.unit}]" if feature.unit else ""
        raise ValueError(
            f"condition '{feature.name}' is {texts[0]!r}, expected a number{unit}: it is of kind "
            f"{feature.kind}"
        )
    try:
        codes = [feature.kind.code(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"condition '{feature.name}': {error}") from None
    return np.reshape(np.array(codes, dtype=np.int64), listed.shape)


def _told(feature: Feature, value: float) -> str:
    """Return a value of a condition in words."""
    if isinstance(feature.kind, Category):
        return feature.kind.names[int(value)]
    return f"{value:.6g}"
