"""Types of objects as numbers: their codes in a batch, and a scaler with statistics for each type.

Notation. A batch has x of shape `(*batch, N, F)` whose F columns are numbers and categories. The
categories of an object make its type, from 0 to K - 1 (`setflow.schema.ObjectTypes`); the D numbers
are scaled by mean and standard deviation of the objects of that type. A feature that a type does
not have is absent: it is no number at all, and its column holds 0 or NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setflow.data.moments import Moments
from setflow.data.scaling import Standardizer
from setflow.fitted import Fitted
from setflow.schema import Category, Kind, ObjectTypes
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import as_mask, current_transform, is_at_hand, is_readable, zero_padding

__all__ = ["TypeEncoder", "TypedStandardizer", "codes_in_words"]

_FEW = 20  # objects, of which a type has no deviation of its own


class TypeEncoder(nn.Module):
    """Turns columns of categories into types of objects and back, and into what a field gets.

    Arguments:
        types: the types.

    >>> from setflow.schema import Feature
    >>> types = ObjectTypes([Feature("pt"), Feature("type", kind="category(lepton, jet)")])
    >>> encoder = TypeEncoder(types)
    >>> x = torch.tensor([[[30.0, 1.0], [25.0, 0.0]]])
    >>> kinds = encoder.kinds(x)
    >>> kinds, encoder.counts(kinds)
    (tensor([[1, 0]]), tensor([[1, 1]]))
    >>> encoder.rows(kinds, None, x.dtype)
    tensor([[[0., 1.],
             [1., 0.]]])
    """

    _present: Tensor

    def __init__(self, types: ObjectTypes) -> None:
        super().__init__()
        self.types = types
        present = torch.tensor(types.present, dtype=torch.bool).reshape(len(types), -1)
        self.register_buffer("_present", present, persistent=False)
        self.has_absent = not bool(present.all())

    def extra_repr(self) -> str:
        return ", ".join(self.types.names)

    def kinds(self, x: Tensor, mask: Tensor | None = None, *, look: bool = True) -> Tensor:
        """Return the type of each object, int64 with shape `(*batch, N)`, 0 in padded slots.

        Arguments:
            x: features with all their columns, with shape `(*batch, N, F)`.
            mask: which objects are real, with shape `(*batch, N)`; None means all.
            look: refuse what is no code of a category, where a look costs nothing; else, and on an
                accelerator, such an object is of type -1.

        Raises:
            ValueError: if a real object has what is no code of a category.
        """
        total = torch.zeros(x.shape[:-1], dtype=torch.int64, device=x.device)
        wrong = torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device)
        for k, size in zip(self.types.categories, self.types.sizes, strict=True):
            column = zero_padding(x[..., k], mask)
            known = (column >= 0) & (column < size) & (column == column.floor())
            if look and _is_seen(known) and not bool(known.all()):
                *event, slot = (~known).nonzero()[0].tolist()
                feature = self.types.features[k]
                raise ValueError(
                    f"feature '{feature.name}' of an object of event "
                    f"{', '.join(map(str, event)) or '0'} is {x[(*event, slot, k)].item():g}, "
                    f"expected {codes_in_words(feature.kind)}"
                )
            wrong = wrong | ~known
            total = total * size + torch.where(known, column, 0).to(torch.int64)
        return torch.where(wrong, -1, total)

    def counts(self, kinds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return how many objects of each type events have, int64 with shape `(*batch, K)`."""
        of_type = kinds[..., None] == torch.arange(len(self.types), device=kinds.device)
        return zero_padding(of_type, mask).sum(-2)

    def counts_of(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return how many objects of each type events hold, `(*batch, K)`; see `kinds`."""
        return self.counts(self.kinds(x, mask), mask)

    def without_absent(self, x: Tensor, kinds: Tensor) -> Tensor:
        """Return features with 0 where their objects do not have them, with the shape of `x`."""
        present = self.present(kinds)
        if present is None:
            return x
        columns = list(x.unbind(-1))
        for place, k in enumerate(self.types.numbers):
            columns[k] = torch.where(present[..., place], columns[k], 0)
        return torch.stack(columns, -1)

    def listed(self, counts: Tensor, slots: int) -> Tensor:
        """Return the types of objects that stand in the order of their types, `(*batch, slots)`.

        Arguments:
            counts: how many there are of each, with shape `(*batch, K)`.
            slots: the number of slots; those behind all objects get the last type.
        """
        ends = counts.cumsum(-1)[..., None, :]
        slot = torch.arange(slots, device=counts.device)[:, None]
        return (ends <= slot).sum(-1).clamp(max=len(self.types) - 1)

    def rows(self, kinds: Tensor, c: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return what a field gets of each object: the context of its event, and its type.

        Arguments:
            kinds: the types, with shape `(*batch, N)`.
            c: the context, with shape `(*batch, C)`, or None.
            dtype: that of the result.

        Returns:
            Rows with shape `(*batch, N, C + len(types.columns))`: 1 for the name of the object in
            each category and 0 for all others, so that the first linear layer of a field learns a
            vector for each.
        """
        rest, parts = kinds.clamp(min=0), list[Tensor]()
        for size in reversed(self.types.sizes):
            parts.insert(0, F.one_hot(rest % size, size).to(dtype))
            rest = rest // size
        if c is not None:
            parts.insert(0, c.to(dtype)[..., None, :].expand(*kinds.shape, c.shape[-1]))
        return torch.cat(parts, -1)

    def present(self, kinds: Tensor) -> Tensor | None:
        """Return which numbers objects have, with shape `(*batch, N, D)`; None if all have all."""
        return self._present[kinds] if self.has_absent else None

    def with_types(self, numbers: Tensor, kinds: Tensor, mask: Tensor | None) -> Tensor:
        """Return numbers `(*batch, N, D)` with their categories beside, `(*batch, N, F)`."""
        columns: list[Tensor] = [numbers[..., 0]] * len(self.types.features)
        for place, k in enumerate(self.types.numbers):
            columns[k] = numbers[..., place]
        rest = kinds
        for k, size in zip(
            reversed(self.types.categories), reversed(self.types.sizes), strict=True
        ):
            columns[k], rest = (rest % size).to(numbers.dtype), rest // size
        return zero_padding(torch.stack(columns, -1), mask)


class TypedStandardizer(Fitted):
    """A `Standardizer` for each type of objects, of the numbers that it has.

    It takes batches with all their columns and returns numbers; their types tell which statistics
    are taken. Those of a type with fewer than 20 objects are of all objects that have its features.

    Arguments:
        types: the types.

    Attributes:
        objects: how many objects of each type the training had, with shape `(K,)`.
        parts: the scalers, by the numbers of the types.
    """

    statistics: ClassVar[tuple[str, ...]] = ("objects",)
    objects: Tensor

    def __init__(self, types: ObjectTypes) -> None:
        super().__init__()
        self.encoder = TypeEncoder(types)
        self.types = types
        self.kinds = tuple(feature.of_kind for feature in types.features)
        self.register_buffer("objects", torch.full((len(types),), torch.nan, dtype=torch.float64))
        self.parts, self._columns = nn.ModuleDict(), dict[int, tuple[int, ...]]()
        for k, has in enumerate(types.present):
            places = [at for at, there in enumerate(has) if there]
            if not places:
                continue
            columns = tuple(types.numbers[at] for at in places)
            part = Standardizer(kinds=[self.kinds[column] for column in columns])
            part.labels = tuple(
                f"feature '{types.features[column].name}' of type '{types.names[k]}'"
                for column in columns
            )
            self.parts[str(k)], self._columns[k] = part, columns
        self._occurring: tuple[int, ...] | None = None

    def extra_repr(self) -> str:
        return f"{', '.join(self.types.names)}, {self.state}"

    @property
    def occurring(self) -> tuple[int, ...]:
        """The types that the training had."""
        if self._occurring is None:
            self._occurring = tuple(self.objects.nan_to_num().nonzero()[:, 0].tolist())
        return self._occurring

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        self._occurring = None
        super()._load_from_state_dict(*args, **kwargs)

    def fit(
        self, x: Array, mask: Array | None = None, weight: Array | None = None
    ) -> TypedStandardizer:
        """Take mean and standard deviation of each type; see `Standardizer.fit`.

        Raises:
            ValueError: as there; it names the feature and the type; or if a type occurs that has no
                feature.
        """
        x, mask, kinds = self._typed(x, mask, fitting=True)
        found = self.encoder.counts(kinds, mask).reshape(-1, len(self.types)).sum(0)
        for k, count in enumerate(found.tolist()):
            if not count:
                self._leave(k)
                continue
            if k not in self._columns:
                raise ValueError(
                    f"there are {count:,} objects of type '{self.types.names[k]}', which has none "
                    f"of the features {', '.join(self._numbers)}; leave one in, or leave them out"
                )
            columns, here = self._columns[k], mask & (kinds == k)
            if count < _FEW:
                has = self.encoder._present
                here = mask & (has[kinds] | ~has[k]).all(-1)
            self._part(k).fit(x[..., columns], here, weight)
        self.objects.copy_(found)
        self.known, self._occurring = True, None
        return self

    def _leave(self, k: int) -> None:
        """Give a type that does not occur statistics that nobody asks for."""
        if k in self._columns:
            part = self._part(k)
            part.mean.zero_()
            part.std.fill_(1)
            part.known = True

    def moments(self, x: Array, mask: Array | None = None, weight: Array | None = None) -> NoReturn:
        """Refuse a sample that is not in memory at once.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "the statistics of types are taken of events in memory: set data.in_memory to true"
        )

    def fit_moments(
        self, moments: Moments, *, weighted: bool = False, negative: str | None = None
    ) -> NoReturn:
        """Refuse the moments of such a sample; see `moments`."""
        self.moments([])

    def forward(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return the scaled numbers, with shape `(*batch, N, D)`, zero where there are none.

        Raises:
            ValueError: as `Standardizer.forward`; or, on a CPU, if an object is of a type that the
                training had not, or holds a number for a feature that its type does not have.
        """
        x, mask, kinds = self._typed(x, mask)
        columns = [torch.zeros_like(x[..., 0])] * len(self.types.numbers)
        for k, part, here in self._each(kinds, mask):
            scaled = part(x[..., self._columns[k]], here)
            for at, column in enumerate(self._columns[k]):
                place = self.types.numbers.index(column)
                columns[place] = columns[place] + scaled[..., at]
        unknown = self._unknown(kinds, mask)[..., None]
        return torch.where(unknown, torch.nan, torch.stack(columns, -1))

    def inverse(self, z: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        """Return physical features with all their columns, zero in padded slots.

        Arguments:
            z: scaled numbers, with shape `(*batch, N, D)`.
            mask: which objects are real, with shape `(*batch, N)`.
            kinds: their types, with shape `(*batch, N)`.
        """
        columns = [torch.zeros_like(z[..., 0])] * len(self.types.numbers)
        for k, part, here in self._each(kinds, mask):
            places = [self.types.numbers.index(column) for column in self._columns[k]]
            x = part.inverse(z[..., places], here)
            for at, place in enumerate(places):
                columns[place] = columns[place] + x[..., at]
        return self.encoder.with_types(torch.stack(columns, -1), kinds, mask)

    def log_det(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return log|det dz/dx| of each event, with shape `batch`; see `Standardizer.log_det`."""
        x, mask, kinds = self._typed(x, mask)
        total = torch.zeros(x.shape[:-2], dtype=x.dtype, device=x.device)
        for k, part, here in self._each(kinds, mask):
            total = total + part.log_det(x[..., self._columns[k]], here)
        return total

    def outside(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return which values of real objects a model cannot take, with the shape of `x`.

        They are values that their kind does not have, numbers of absent features, codes that are
        none, and those of types that the training had not.
        """
        x, mask, kinds = self._typed(x, mask, look=False)
        outside = torch.zeros_like(x, dtype=torch.bool)
        for k, part, here in self._each(kinds, mask):
            outside[..., self._columns[k]] |= part.outside(x[..., self._columns[k]], here)
        outside |= self._given_though_absent(x, kinds) & mask[..., None]
        outside[..., self.types.categories[0]] |= self._unknown(kinds, mask)
        return outside

    def clipped(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return where a real object has the lowest value; see `Standardizer.clipped`."""
        x, mask, kinds = self._typed(x, mask)
        clipped = torch.zeros_like(x, dtype=torch.bool)
        for k, part, here in self._each(kinds, mask):
            clipped[..., self._columns[k]] |= part.clipped(x[..., self._columns[k]], here)
        return clipped

    @property
    def has_bound(self) -> tuple[int, ...]:
        """The columns whose transform has a lowest value in a type that occurs."""
        found = {self._columns[k][at] for k in self.occurring for at in self._part(k).has_bound}
        return tuple(sorted(found))

    @property
    def mean(self) -> Tensor:
        """The largest absolute mean of each column over the types that occur."""
        return self._largest("mean", 0.0)

    @property
    def std(self) -> Tensor:
        """The largest standard deviation of each column over the types that occur."""
        return self._largest("std", 1.0)

    def _largest(self, name: str, other: float) -> Tensor:
        largest = self.objects.new_full((len(self.kinds),), -torch.inf)
        for k in self.occurring:
            columns = list(self._columns[k])
            largest[columns] = largest[columns].maximum(getattr(self._part(k), name).abs())
        return largest.where(largest > -torch.inf, other)

    def _part(self, k: int) -> Standardizer:
        part = self.parts[str(k)]
        assert isinstance(part, Standardizer)
        return part

    def _each(self, kinds: Tensor, mask: Tensor) -> Iterator[tuple[int, Standardizer, Tensor]]:
        """Yield the types that occur with their scalers and objects."""
        for k in self.occurring:
            yield k, self._part(k), mask & (kinds == k)

    @property
    def _numbers(self) -> list[str]:
        return [self.types.features[column].name for column in self.types.numbers]

    def _typed(
        self, x: Array, mask: Array | None, *, fitting: bool = False, look: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, mask and types of objects, checked.

        Raises:
            ValueError: as `forward`, if `look`.
        """
        if not (fitting or self.known):
            self.require_fitted()
        x = as_tensor(x, "x")
        if x.ndim < 2 or x.shape[-1] != len(self.kinds):
            named = ", ".join(feature.name for feature in self.types.features)
            raise ValueError(
                f"the scaler got shape {tuple(x.shape)}, expected (*batch, N, {len(self.kinds)}) "
                f"with {named}"
            )
        if mask is None:
            mask = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        mask = as_mask(mask, x.shape[:-1])
        kinds = self.encoder.kinds(x, mask, look=look)
        if look and _is_seen(x):
            unknown = torch.zeros_like(mask) if fitting else self._unknown(kinds, mask)
            if bool(unknown.any()):
                *event, slot = unknown.nonzero()[0].tolist()
                name = self.types.names[int(kinds[(*event, slot)])]
                raise ValueError(
                    f"event {', '.join(map(str, event)) or '0'} has an object of type '{name}', "
                    f"and the training had {self.occurred}; leave such events out, or train with "
                    "some"
                )
            wrong = self._given_though_absent(x, kinds) & mask[..., None]
            if bool(wrong.any()):
                *event, slot, column = wrong.nonzero()[0].tolist()
                name = self.types.names[int(kinds[(*event, slot)])]
                raise ValueError(
                    f"an object of event {', '.join(map(str, event)) or '0'} is of type '{name}', "
                    f"which has no {self.types.features[column].name}, and holds "
                    f"{x[(*event, slot, column)].item():g} for it; expected 0 or NaN"
                )
        return x, mask, kinds

    @property
    def occurred(self) -> str:
        """The types that the training had, in words."""
        return ", ".join(self.types.names[k] for k in self.occurring) or "none"

    def _given_though_absent(self, x: Tensor, kinds: Tensor) -> Tensor:
        """Return which values are given for features that their objects do not have."""
        given = torch.zeros_like(x, dtype=torch.bool)
        present = self.encoder.present(kinds)
        if present is not None:
            numbers = x[..., self.types.numbers]
            given[..., self.types.numbers] = ~present & (numbers != 0) & ~numbers.isnan()
        return given

    def _unknown(self, kinds: Tensor, mask: Tensor) -> Tensor:
        """Return which real objects are of no type that the training had."""
        known = torch.zeros_like(mask)
        for k in self.occurring:
            known = known | (kinds == k)
        return mask & ~known


def codes_in_words(kind: Kind | str) -> str:
    """Return the codes of a category in words.

    >>> codes_in_words(Category(("top", "gluon")))
    'the code of a category: 0 for top, 1 for gluon'
    """
    assert isinstance(kind, Category)
    told = ", ".join(f"{code} for {name}" for code, name in enumerate(kind.names))
    return f"the code of a category: {told}"


def _is_seen(values: Tensor) -> bool:
    """Return whether a look at values costs nothing and is possible."""
    return is_at_hand(values) and (current_transform() is None or is_readable(values))
