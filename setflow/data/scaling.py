"""Feature scaling on real objects, with its inverse and log-determinant.

Notation. Physical features x become scaled features z = (f(x) - mean) / std, feature by feature,
where f is a Box-Cox transform, f(x) = (x^lambda - 1) / lambda or log x for lambda = 0, for the
features that ask for one and the identity for the others. Mean and standard deviation are those of
f(x) over the real objects of a training sample. For a density,
log p(x) = log p(z) + log|det dz/dx|.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from setflow.fitted import Fitted
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import as_mask, current_transform, is_at_hand, is_readable, zero_padding
from setflow.sets.shapes import floating_dtype, positive_integer

__all__ = ["Standardizer"]

Statistics = Array | float | None


class Standardizer(Fitted):
    """Shift and scale each feature to mean 0 and standard deviation 1 over real objects.

    A Box-Cox transform (Box and Cox, "An Analysis of Transformations", J. R. Stat. Soc. B 26, 211,
    1964) first unfolds positive features with a long tail, such as transverse momenta. With
    lambda > 0 it has a lowest value; `inverse` puts what lies below the smallest training value
    onto that value, so a density needs lambda = 0, the logarithm, which maps onto the whole line.

    The statistics are fitted (`fit`) or given; until then it refuses to scale. One that is to do
    nothing says so: `Standardizer(3, mean=0, std=1)`.

    Arguments:
        dim: the number of features, the last dimension of what it is given; None takes that of
            `mean`.
        boxcox: lambda, from 0 (the logarithm) to below 1, of the features that are transformed, by
            their position; they must be positive.
        mean: the means of the transformed features, with shape `(dim,)`, or one number for all;
            None until `fit`.
        std: their standard deviations, likewise, positive.
        lowest: the smallest transformed values, with shape `(dim,)`, needed with `mean` where a
            lambda is above 0; -inf for all other features.

    Raises:
        ValueError: if a position does not exist, a lambda lies outside [0, 1), or statistics that
            are given do not belong together.

    >>> x, mask = torch.rand(8, 30, 3) + 0.1, torch.rand(8, 30) > 0.5
    >>> scaler = Standardizer(3, boxcox={2: 0.0}).fit(x, mask)
    >>> torch.allclose(scaler.inverse(scaler(x, mask), mask)[mask], x[mask], atol=1e-6)
    True
    """

    statistics: ClassVar[tuple[str, ...]] = ("mean", "std")
    given_by: ClassVar[tuple[str, ...]] = ("mean", "std", "lowest")
    mean: Tensor
    std: Tensor
    lowest: Tensor

    def __init__(
        self,
        dim: int | None = None,
        *,
        boxcox: Mapping[int, float] | None = None,
        mean: Statistics = None,
        std: Statistics = None,
        lowest: Statistics = None,
    ) -> None:
        super().__init__()
        if dim is None:
            if mean is None:
                raise ValueError(
                    "Standardizer got neither dim nor mean: give the number of features"
                )
            dim = as_tensor(mean, "mean").numel()
        dim = positive_integer(dim, "dim")
        try:
            boxcox = {int(index): float(power) for index, power in (boxcox or {}).items()}
        except (AttributeError, TypeError, ValueError):
            raise ValueError(
                f"boxcox is {boxcox!r}, expected lambda by position of the feature: {{2: 0.0}}"
            ) from None
        wrong = [index for index in boxcox if not 0 <= index < dim]
        if wrong:
            raise ValueError(f"boxcox positions {wrong} do not exist; expected 0 to {dim - 1}")
        for index, power in boxcox.items():
            if not 0 <= power < 1:
                raise ValueError(
                    f"boxcox lambda of feature {index} is {power}, expected at least 0 and below 1"
                )
        self.dim = dim
        self.boxcox = boxcox
        self.register_buffer("mean", torch.full((dim,), torch.nan, dtype=torch.float64))
        self.register_buffer("std", torch.full((dim,), torch.nan, dtype=torch.float64))
        # the smallest transformed value in training, -inf where there is no bound
        self.register_buffer("lowest", torch.full((dim,), -torch.inf, dtype=torch.float64))
        if not (mean is None and std is None and lowest is None):
            self._take(mean, std, lowest)

    def extra_repr(self) -> str:
        """Return what torch writes between the brackets.

        >>> Standardizer(3, boxcox={2: 0.0})
        Standardizer(3, boxcox={2: 0.0}, not fitted)
        """
        boxcox = f", boxcox={self.boxcox}" if self.boxcox else ""
        return f"{self.dim}{boxcox}, {self.state}"

    def _take(self, mean: Statistics, std: Statistics, lowest: Statistics) -> None:
        """Take statistics that are given."""
        bounded = list(self.has_bound)
        if mean is None or std is None or (bounded and lowest is None):
            needed = "mean, std and lowest" if bounded else "mean and std"
            raise ValueError(
                f"statistics are given, but not all of them; expected {needed}, or none to fit them"
            )
        lowest = -torch.inf if lowest is None else lowest
        for name, value in (("mean", mean), ("std", std), ("lowest", lowest)):
            given = as_tensor(value, name, torch.float64).detach().double()
            if given.ndim and tuple(given.shape) != (self.dim,):
                raise ValueError(
                    f"{name} has shape {tuple(given.shape)}, expected {(self.dim,)}: one value per "
                    "feature, or one number for all"
                )
            getattr(self, name).copy_(given)
        expected = torch.zeros(self.dim, dtype=torch.bool)
        expected[bounded] = True
        if not bool(self.mean.isfinite().all() and self.std.isfinite().all()):
            raise ValueError("mean and std must be finite")
        if not bool((self.std > 0).all()):
            raise ValueError(f"std must be positive, got a minimum of {self.std.min().item():g}")
        if not torch.equal(self.lowest.isfinite(), expected) or bool(
            (self.lowest == torch.inf).any()
        ):
            raise ValueError(
                f"lowest is {self.lowest.tolist()}, expected finite values for the features with a "
                f"Box-Cox lambda above 0 ({bounded}) and -inf for all others, which have no bound"
            )
        self.given = self.known = True

    def fit(self, x: Array, mask: Array | None = None) -> Standardizer:
        """Take mean and standard deviation over the real objects of `x`; return self.

        Statistics that were given or fitted before are replaced.

        Arguments:
            x: features, with shape `(*batch, N, dim)`.
            mask: which objects are real, with shape `(*batch, N)`; None means all.

        Raises:
            ValueError: if there are fewer than two real objects, a value is not finite, a feature
                is constant, or one that is transformed is not positive.
        """
        x, mask = self._checked(x, mask)
        safe = self._safe(x, mask)
        if not bool(safe.isfinite().all()):
            *event, _, feature = (~safe.isfinite()).nonzero()[0].tolist()
            where = f", the first in event {', '.join(map(str, event))}" if event else ""
            raise ValueError(
                f"{self.label(feature)} holds NaN or infinite values{where}; leave such events out"
            )
        safe = self._transform(safe.to(torch.float64))
        real = safe[mask] if mask is not None else safe.reshape(-1, self.dim)
        if len(real) < 2:
            raise ValueError(f"fit needs at least two real objects, got {len(real)}")
        std, mean = torch.std_mean(real, dim=0)
        if not bool((std > 0).all()):
            feature = int((std == 0).nonzero()[0])
            raise ValueError(
                f"{self.label(feature)} is constant ({mean[feature].item():g}); "
                "leave it out of the model"
            )
        self.mean.copy_(mean)
        self.std.copy_(std)
        for index in self.has_bound:
            self.lowest[index] = real[:, index].min()
        self.given, self.known = False, True
        return self

    def forward(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return scaled features, zero in padded slots, with the shape and dtype of `x`.

        They are computed in the dtype of the statistics; integers give torch's default dtype.

        Raises:
            ValueError: if the shape does not fit, or a value that is transformed is not positive.
        """
        x, mask = self._checked(x, mask, scaling=True)
        dtype = x.dtype if x.is_floating_point() else floating_dtype(x)
        z = (self._transform(self._safe(x, mask)) - self.mean) / self.std
        return zero_padding(z.to(dtype), mask)

    def inverse(self, z: Array, mask: Array | None = None) -> Tensor:
        """Return physical features from scaled ones, zero in padded slots."""
        z, mask = self._checked(z, mask, scaling=True)
        f = zero_padding(z, mask).to(self.mean.dtype) * self.std + self.mean
        f = f.maximum(self.lowest)
        columns = list(f.unbind(-1))
        for index, power in self.boxcox.items():
            column = columns[index]
            columns[index] = (
                (power * column + 1).clamp(min=0) ** (1 / power) if power else column.exp()
            )
        dtype = z.dtype if z.is_floating_point() else floating_dtype(z)
        return zero_padding(torch.stack(columns, -1).to(dtype), mask)

    def log_det(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return log|det dz/dx| of each event at the physical features `x`, with shape `batch`.

        Raises:
            ValueError: as `forward`.
        """
        x, mask = self._checked(x, mask, scaling=True)
        safe = self._safe(x, mask)
        if self.boxcox:
            self._require_positive(safe)
        columns = [torch.zeros_like(column) for column in safe.unbind(-1)]
        for index, power in self.boxcox.items():
            columns[index] = (power - 1) * safe[..., index].log()  # log of df/dx = x^(lambda - 1)
        log_slope = torch.stack(columns, -1) - self.std.log()
        dtype = x.dtype if x.is_floating_point() else floating_dtype(x)
        return zero_padding(log_slope, mask).sum((-2, -1), dtype=torch.float64).to(dtype)

    def outside(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return where a real object's value is one that its transform does not accept.

        Arguments:
            x: physical features, with shape `(*batch, N, dim)`.
            mask: which objects are real, with shape `(*batch, N)`; None means all.

        Returns:
            A boolean tensor with the shape of `x`.

        >>> Standardizer(2, boxcox={1: 0.0}).outside(torch.tensor([[0.0, 0.0], [-1.0, 1.0]]))
        tensor([[False,  True],
                [False, False]])
        """
        x, mask = self._checked(x, mask)
        safe = self._safe(x, mask)
        outside = torch.zeros_like(x, dtype=torch.bool)
        for index in self.boxcox:
            outside[..., index] = ~(safe[..., index] > 0)
        return outside

    def clipped(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return where a real object has the lowest value, onto which `inverse` puts all below it.

        Arguments:
            x: physical features, with shape `(*batch, N, dim)`.
            mask: which objects are real, with shape `(*batch, N)`; None means all.

        Returns:
            A boolean tensor with the shape of `x`; False for features without such a value.

        >>> scaler = Standardizer(boxcox={0: 0.5}, mean=[0], std=[1], lowest=[-1])
        >>> scaler.clipped(scaler.inverse(torch.tensor([[-2.0], [-1.5], [-0.5]]))).flatten()
        tensor([ True,  True, False])
        """
        x, mask = self._checked(x, mask, scaling=True)
        clipped = torch.zeros_like(x, dtype=torch.bool)
        smallest = self.inverse(x.new_full((1, self.dim), -torch.inf))[0]
        for index in self.has_bound:
            clipped[..., index] = x[..., index] <= smallest[index]
        return zero_padding(clipped, mask)

    @property
    def has_bound(self) -> tuple[int, ...]:
        """The positions of the features whose transform has a lowest value."""
        return tuple(index for index, power in self.boxcox.items() if power > 0)

    def _checked(
        self, x: Array, mask: Array | None, *, scaling: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if scaling and not self.known:
            self.require_fitted()
        if not isinstance(x, Tensor) or x.is_complex():
            x = as_tensor(x, "x")
        if x.ndim < 2 or x.shape[-1] != self.dim:
            named = f" with {', '.join(self.labels)}" if self.labels else ""
            raise ValueError(
                f"Standardizer got shape {tuple(x.shape)}, expected (*batch, N, {self.dim}){named}"
            )
        return x, None if mask is None else as_mask(mask, x.shape[:-1])

    def _safe(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return `x` with ones in padded slots, where any transform and its gradient are finite.

        Its dtype is that of the statistics, or a wider one.
        """
        x = x.to(torch.promote_types(x.dtype, self.mean.dtype))
        return x if mask is None else torch.where(mask[..., None], x, 1.0)

    def _require_positive(self, x: Tensor) -> None:
        if not is_at_hand(x):
            return
        if current_transform() is not None and not is_readable(x):
            return
        outside = self.outside(x)
        if bool(outside.any()):
            *event, slot, index = outside.nonzero()[0].tolist()
            where = f" of event {', '.join(map(str, event))}" if event else ""
            raise ValueError(
                f"{self.label(index)} has a Box-Cox transform and holds values that are not "
                f"positive, the first ({x[(*event, slot, index)].item():g}) in an object{where}; "
                "check the mask, or leave the feature out of boxcox"
            )

    def _transform(self, x: Tensor) -> Tensor:
        if not self.boxcox:
            return x
        self._require_positive(x)
        columns = list(x.unbind(-1))
        for index, power in self.boxcox.items():
            column = columns[index]
            columns[index] = (column**power - 1) / power if power else column.log()
        return torch.stack(columns, -1)
