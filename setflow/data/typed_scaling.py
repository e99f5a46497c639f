"""A scaler with statistics for each type of objects.

Notation. That of `setflow.data.object_types`: the D numbers of an object are scaled by mean and
standard deviation of the objects of its type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from setflow.data.moments import Moments
from setflow.data.object_types import TypeEncoder, is_seen
from setflow.data.scaling import Standardizer
from setflow.fitted import Fitted
from setflow.schema import Angle, ObjectTypes
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import as_mask
from setflow.sets.weights import count_negative

__all__ = ["TypedStandardizer"]

_FEW = 20  # objects, of which a type has no deviation of its own


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
        negative, moments = None, self.moments(x, mask, weight)
        if weight is not None:
            given = as_tensor(weight, "weight")
            negative = count_negative(given) if bool((given < 0).any()) else None
        return self.fit_moments(moments, weighted=weight is not None, negative=negative)

    def moments(
        self, x: Array, mask: Array | None = None, weight: Array | None = None
    ) -> tuple[Moments, ...]:
        """Return what `fit_moments` needs of a part of a training sample, type by type.

        Those of each type are of the features that it has; parts add. The arguments and errors are
        those of `fit`; see `Standardizer.moments`.
        """
        x, mask, kinds = self._typed(x, mask, fitting=True)
        found = []
        for k in range(len(self.types)):
            here = mask & (kinds == k)
            if k in self._columns:
                found.append(self._part(k).moments(x[..., self._columns[k]], here, weight))
            else:
                found.append(Moments.of(x[here][:, :0]))
        return tuple(found)

    def fit_moments(
        self, moments: Sequence[Moments], *, weighted: bool = False, negative: str | None = None
    ) -> TypedStandardizer:
        """Take mean and standard deviation of each type from the sum of all parts; return self.

        The arguments and errors are those of `Standardizer.fit_moments`, and of `fit`.
        """
        found = [int(part.n) for part in moments]
        for k, count in enumerate(found):
            if not count:
                self._leave(k)
                continue
            if k not in self._columns:
                raise ValueError(
                    f"there are {count:,} objects of type '{self.types.names[k]}', which has none "
                    f"of the features {', '.join(self._numbers)}; leave one in, or leave them out"
                )
            of_type = moments[k] if count >= _FEW else self._of_all_with(k, moments)
            self._part(k).fit_moments(of_type, weighted=weighted, negative=negative)
        self.objects.copy_(torch.tensor(found))
        self.known, self._occurring = True, None
        return self

    def _of_all_with(self, k: int, moments: Sequence[Moments]) -> Moments:
        """Return the moments of a type's features over the objects of all types that have them."""
        total: Moments | None = None
        for other, columns in self._columns.items():
            if set(self._columns[k]) <= set(columns):
                part = moments[other].columns(self._places(k, other))
                total = part if total is None else total + part
        assert total is not None
        return total

    def _places(self, k: int, other: int) -> list[int]:
        """Return where moments of another type hold the features of a type, sines of angles too."""
        columns, mine = self._columns[other], self._columns[k]
        angles = [columns[at] for at in self._part(other).angles]
        sines = [len(columns) + angles.index(column) for column in mine if column in angles]
        return [columns.index(column) for column in mine] + sines

    def _leave(self, k: int) -> None:
        """Give a type that does not occur statistics that nobody asks for."""
        if k in self._columns:
            part = self._part(k)
            part.mean.zero_()
            part.std.fill_(1)
            part.known = True

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

    def widths(self) -> Tensor:
        """Return the deviations of the scaled numbers, with shape `(D,)`: 1, or of an angle the
        largest circular width over the types that occur; see `Standardizer.widths`.
        """
        angles = [isinstance(self.kinds[column], Angle) for column in self.types.numbers]
        largest = self.std[list(self.types.numbers)]
        return torch.where(torch.tensor(angles, device=largest.device), largest, 1.0)

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
        if look and is_seen(x):
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
