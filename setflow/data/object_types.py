"""Types of objects as numbers: their codes in a batch, and what a field gets of them.

Notation. A batch has x of shape `(*batch, N, F)` whose F columns are numbers and categories. The
categories of an object make its type, from 0 to K - 1 (`setflow.schema.ObjectTypes`). A feature
that a type does not have is absent: it is no number at all, and its column holds 0 or NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setflow.schema import Category, Kind, ObjectTypes
from setflow.sets.masks import current_transform, is_at_hand, is_readable, zero_padding

__all__ = ["TypeEncoder", "codes_in_words", "is_seen"]


class TypeEncoder(nn.Module):
    """Turns columns of categories into types of objects and back, and into what a field gets.

    Arguments:
        types: the types.

    Attributes:
        has: which of the D numbers objects of each type have, boolean with shape `(K, D)`.

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

    has: Tensor

    def __init__(self, types: ObjectTypes) -> None:
        super().__init__()
        self.types = types
        present = torch.tensor(types.present, dtype=torch.bool).reshape(len(types), -1)
        self.register_buffer("has", present, persistent=False)
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
            if look and is_seen(known) and not bool(known.all()):
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
        return self.has[kinds] if self.has_absent else None

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


def codes_in_words(kind: Kind | str) -> str:
    """Return the codes of a category in words.

    >>> codes_in_words(Category(("top", "gluon")))
    'the code of a category: 0 for top, 1 for gluon'
    """
    assert isinstance(kind, Category)
    told = ", ".join(f"{code} for {name}" for code, name in enumerate(kind.names))
    return f"the code of a category: {told}"


def is_seen(values: Tensor) -> bool:
    """Return whether a look at values costs nothing and is possible.

    >>> is_seen(torch.zeros(1))
    True
    """
    return is_at_hand(values) and (current_transform() is None or is_readable(values))
