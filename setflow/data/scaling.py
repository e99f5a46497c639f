"""Feature scaling on real objects, with its inverse and log-determinant.

Notation. Physical features x become scaled features z = (f(x) - mean) / std, feature by feature,
where f is what the kind of the feature says (`setflow.schema.kinds`): the identity, a logarithm, a
logit. An angle is centred and not scaled, z = wrap(x - mean), with the mean direction for its mean
and the circular width sqrt(-2 log R), R the mean resultant length, for its deviation. Mean and
standard deviation are those of f(x) over the real objects of a training sample, each with the
weight of its event if there are weights. For a density, log p(x) = log p(z) + log|det dz/dx|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from setflow.data.moments import Moments
from setflow.fitted import Fitted
from setflow.schema.kinds import Angle, Kind, Positive, kind_of
from setflow.sets.angles import LARGEST, wrapped
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import as_mask, current_transform, is_at_hand, is_readable, zero_padding
from setflow.sets.shapes import floating_dtype, positive_integer
from setflow.sets.weights import (
    as_weight,
    count_negative,
    require_positive,
    total_weight,
    weighted_std_mean,
)

__all__ = ["Standardizer"]

Statistics = Array | float | None
_WIDEST = 1 - 1e-12  # of 1 - R^2: a width of 5 radians, so that a uniform angle has a finite one


class Standardizer(Fitted):
    """Shift and scale each feature to mean 0 and standard deviation 1 over real objects.

    Features of other kinds than `real` are mapped onto the line first: positive ones with a long
    tail, such as transverse momenta, by the logarithm. What `inverse` returns obeys their bounds.
    Those of kind `angle` are turned so that their mean direction is 0, and stay angles in radians.
    A Box-Cox transform with lambda > 0, `positive(boxcox=0.3)`, has a lowest value; `inverse` puts
    what lies below the smallest training value onto that value, so a density needs the logarithm.

    The statistics are fitted (`fit`) or given; until then it refuses to scale. One that is to do
    nothing says so: `Standardizer(3, mean=0, std=1)`.

    Arguments:
        dim: the number of features, the last dimension of what it is given; None takes that of
            `kinds` or `mean`.
        kinds: the kind of each feature, such as `positive` or `bounded(0, 1)`; None takes all as
            `real`.
        mean: the means of the transformed features, with shape `(dim,)`, or one number for all;
            None until `fit`; of an angle its mean direction.
        std: their standard deviations, likewise, positive; of an angle its circular width.
        lowest: the smallest transformed values, with shape `(dim,)`, needed with `mean` where a
            Box-Cox lambda is above 0; -inf for all other features.

    Raises:
        ValueError: if a kind does not exist or is none of numbers or angles, or their number or
            statistics that are given do not belong together.

    >>> x, mask = torch.rand(8, 30, 3) + 0.1, torch.rand(8, 30) > 0.5
    >>> scaler = Standardizer(kinds=["real", "real", "positive"]).fit(x, mask)
    >>> torch.allclose(scaler.inverse(scaler(x, mask), mask)[mask], x[mask], atol=1e-6)
    True
    """

    statistics: ClassVar[tuple[str, ...]] = ("mean", "std")
    given_by: ClassVar[tuple[str, ...]] = ("mean", "std", "lowest")
    mean: Tensor
    std: Tensor
    lowest: Tensor
    _inside: Tensor

    def __init__(
        self,
        dim: int | None = None,
        *,
        kinds: Sequence[Kind | str] | None = None,
        mean: Statistics = None,
        std: Statistics = None,
        lowest: Statistics = None,
    ) -> None:
        super().__init__()
        if isinstance(kinds, (str, Kind)):
            raise TypeError(f"kinds is {kinds!r}, expected a sequence, one kind for each feature")
        if dim is None:
            if kinds is None and mean is None:
                raise ValueError(
                    "Standardizer got neither dim nor kinds nor mean: give the number of features"
                )
            dim = len(kinds) if kinds is not None else as_tensor(mean, "mean").numel()
        self.dim = dim = positive_integer(dim, "dim")
        self.kinds = tuple(map(kind_of, ["real"] * dim if kinds is None else kinds))
        if len(self.kinds) != dim:
            raise ValueError(f"there are {len(self.kinds)} kinds for dim={dim} features")
        if wrong := [kind for kind in self.kinds if not kind.is_generated]:
            raise ValueError(
                f"a feature of kind {wrong[0]} is no number on a line, so it cannot be scaled; "
                "leave it out"
            )
        kinds_at = enumerate(self.kinds)
        self.angles = tuple(k for k, kind in kinds_at if isinstance(kind, Angle))
        self._transforms = {
            k: kind
            for k, kind in enumerate(self.kinds)
            if not kind.is_identity and k not in self.angles
        }
        inside = torch.tensor([kind.inside for kind in self.kinds], dtype=torch.float64)
        self.register_buffer("_inside", inside, persistent=False)
        self.register_buffer("mean", torch.full((dim,), torch.nan, dtype=torch.float64))
        self.register_buffer("std", torch.full((dim,), torch.nan, dtype=torch.float64))
        # the smallest transformed value in training, -inf where there is no bound
        self.register_buffer("lowest", torch.full((dim,), -torch.inf, dtype=torch.float64))
        if not (mean is None and std is None and lowest is None):
            self._take(mean, std, lowest)

    def extra_repr(self) -> str:
        """Return what torch writes between the brackets.

        >>> Standardizer(kinds=["real", "bounded(0, 1)"])
        Standardizer(2, kinds=[real, bounded(0.0, 1.0)], not fitted)
        """
        told = self._transforms or self.angles
        kinds = f", kinds=[{', '.join(map(str, self.kinds))}]" if told else ""
        return f"{self.dim}{kinds}, {self.state}"

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

    def fit(self, x: Array, mask: Array | None = None, weight: Array | None = None) -> Standardizer:
        """Take mean and standard deviation over the real objects of `x`; return self.

        Statistics that were given or fitted before are replaced.

        Arguments:
            x: features, with shape `(*batch, N, dim)`.
            mask: which objects are real, with shape `(*batch, N)`; None means all.
            weight: how much the objects of each event count, with shape `batch`, in any unit; None
                means equally much. The deviation is that of `setflow.sets.weights`.

        Raises:
            ValueError: if there are fewer than two real objects, a value is not finite or outside
                the bounds of its kind, or a feature is constant; or if the weights do not fit, or
                sum or variance do not come out positive, which counts the negative ones.

        >>> Standardizer(1).fit([[[1.0]], [[4.0]]], weight=[2, 1]).mean
        tensor([2.], dtype=torch.float64)
        """
        real, each, weight = self._real(x, mask, weight)
        self._require_two(len(real))
        if each is None:
            std, mean = torch.std_mean(real, dim=0)
        else:
            total_weight(each, f"over {len(each):,} real objects the weights", weight)
            std, mean = weighted_std_mean(real, each)
        negative = (
            None if weight is None or not bool((weight < 0).any()) else count_negative(weight)
        )
        return self._settle(std, mean, real.amin(0) if self.has_bound else None, negative)

    def moments(self, x: Array, mask: Array | None = None, weight: Array | None = None) -> Moments:
        """Return what `fit_moments` needs of a part of a training sample; parts add.

        The arguments and errors are those of `fit`, but a part may hold anything that is finite and
        within the bounds of its kind.
        """
        real, each, _ = self._real(x, mask, weight)
        return Moments.of(real, each)

    def fit_moments(
        self, moments: Moments, *, weighted: bool = False, negative: str | None = None
    ) -> Standardizer:
        """Take mean and standard deviation from the sum of all parts; return self.

        They are those that `fit` finds of the whole sample, to rounding.

        Arguments:
            moments: the sum of `moments` over the parts.
            weighted: whether the events have weights.
            negative: how many of them are negative, in words, for errors; None if none is.

        Raises:
            ValueError: as `fit`.

        >>> scaler = Standardizer(1)
        >>> parts = scaler.moments([[[1.0]]]) + scaler.moments([[[4.0], [7.0]]])
        >>> scaler.fit_moments(parts).mean
        tensor([4.], dtype=torch.float64)
        """
        n = int(moments.n)
        self._require_two(n)
        if weighted:
            total, _, size, below = moments.weight
            require_positive(total, size, f"over {n:,} real objects the weights", int(below), n)
        std, mean = moments.std_mean(weighted=weighted)
        return self._settle(std, mean, moments.lowest, negative)

    def _require_two(self, found: int) -> None:
        if found < 2:
            raise ValueError(f"fit needs at least two real objects, got {found}")

    def _real(
        self, x: Array, mask: Array | None, weight: Array | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return transformed features of real objects `(M, dim)`, and weights of these and events.

        Of an angle there stands its cosine, and its sine in a column behind all features.

        Raises:
            ValueError: if a value is not finite or outside the bounds of its kind.
        """
        x, mask = self._checked(x, mask)
        real = x[mask] if mask is not None else x.reshape(-1, self.dim)
        if not bool(real.isfinite().all()):
            safe = self._safe(x, mask)
            *event, _, feature = (~safe.isfinite()).nonzero()[0].tolist()
            where = f", the first in event {', '.join(map(str, event))}" if event else ""
            raise ValueError(
                f"{self.label(feature)} holds NaN or infinite values{where}; leave such events out"
            )
        if bool(self.outside(real).any()):
            self._require_inside(self._safe(x, mask))  # which tells where
        real = self._transform(real.to(torch.float64))
        if self.angles:
            columns = list(real.unbind(-1))
            for k in self.angles:
                if bool((columns[k].abs() > LARGEST).any()):
                    raise ValueError(
                        f"{self.label(k)} is an angle and reaches {columns[k].abs().max():g}, "
                        "expected radians; torch.deg2rad makes them of degrees"
                    )
                columns[k], sine = columns[k].cos(), columns[k].sin()
                columns.append(sine)
            real = torch.stack(columns, -1)
        if weight is None:
            return real, None, None
        weight = as_weight(weight, x.shape[:-2]).to(x.device)
        each = weight[..., None].expand(x.shape[:-1])
        return real, each[mask] if mask is not None else each.reshape(-1), weight

    def _settle(
        self, std: Tensor, mean: Tensor, lowest: Tensor | None, negative: str | None
    ) -> Standardizer:
        """Take statistics that were found; `negative` counts weights for the error, if any is.

        Those of an angle are of its cosine, and of its sine behind all features.
        """
        if self.angles:
            std, mean = self._of_angles(std, mean)
        if not bool((std > 0).all()):
            feature = int((~(std > 0)).nonzero()[0])
            if negative is not None:
                raise ValueError(
                    f"the weighted variance of {self.label(feature)} is not positive: {negative}; "
                    "give more events, or weights of which fewer cancel"
                )
            raise ValueError(
                f"{self.label(feature)} is constant ({mean[feature].item():g}); "
                "leave it out of the model"
            )
        self.mean.copy_(mean)
        self.std.copy_(std)
        for index in self.has_bound:
            assert lowest is not None
            self.lowest[index] = lowest[index]
        self.given, self.known = False, True
        return self

    def _of_angles(self, std: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return deviations and means with those of each angle in place of its cosine's and sine's.

        As cos^2 + sin^2 = 1, the sum of both variances is 1 - R^2, with what small samples lack.
        """
        stds, means = list(std[: self.dim]), list(mean[: self.dim])
        for place, k in enumerate(self.angles, start=self.dim):
            variance = (std[k] ** 2 + std[place] ** 2).clamp(max=_WIDEST)
            stds[k] = (-torch.log1p(-variance)).sqrt()
            means[k] = torch.atan2(mean[place], mean[k])
        return torch.stack(stds), torch.stack(means)

    def widths(self) -> Tensor:
        """Return the deviations of the scaled features, with shape `(dim,)`: 1, or of an angle its
        circular width, since it is not scaled.
        """
        columns = list(torch.ones_like(self.std).unbind(-1))
        for k in self.angles:
            columns[k] = self.std[k]
        return torch.stack(columns, -1)

    def forward(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return scaled features, zero in padded slots, with the shape and dtype of `x`.

        They are computed in the dtype of the statistics; integers give torch's default dtype.

        Raises:
            ValueError: if the shape does not fit, or a value lies outside the bounds of its kind.
        """
        x, mask = self._checked(x, mask, scaling=True)
        dtype = x.dtype if x.is_floating_point() else floating_dtype(x)
        z = self._transform(self._safe(x, mask)) - self.mean
        if not self.angles:
            return zero_padding((z / self.std).to(dtype), mask)
        z = wrapped(z / (self.std / self.widths()), self.angles)
        return zero_padding(z.to(dtype), mask)

    def inverse(self, z: Array, mask: Array | None = None) -> Tensor:
        """Return physical features from scaled ones, zero in padded slots.

        They lie within the bounds of their kinds, also where rounding would put them onto one.
        """
        z, mask = self._checked(z, mask, scaling=True)
        scale = self.std / self.widths() if self.angles else self.std
        f = zero_padding(z, mask).to(self.mean.dtype) * scale + self.mean
        f = f.maximum(self.lowest)
        dtype = z.dtype if z.is_floating_point() else floating_dtype(z)
        if not self._transforms and not self.angles:
            return zero_padding(f.to(dtype), mask)
        # in the dtype of the result, where pi is another number
        columns = list(wrapped(f.to(dtype), self.angles).unbind(-1))
        for index, kind in self._transforms.items():
            low, high = kind.bounds
            x = kind.inverse(f[..., index]).to(dtype)
            columns[index] = x.clamp(_next_to(low, dtype), -_next_to(-high, dtype))
        return zero_padding(torch.stack(columns, -1), mask)

    def log_det(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return log|det dz/dx| of each event at the physical features `x`, with shape `batch`.

        Raises:
            ValueError: as `forward`.
        """
        x, mask = self._checked(x, mask, scaling=True)
        safe = self._safe(x, mask)
        if self._transforms:
            self._require_inside(safe)
        columns = [torch.zeros_like(column) for column in safe.unbind(-1)]
        for index, kind in self._transforms.items():
            columns[index] = kind.log_slope(safe[..., index])
        scale = self.std / self.widths() if self.angles else self.std
        log_slope = torch.stack(columns, -1) - scale.log()
        dtype = x.dtype if x.is_floating_point() else floating_dtype(x)
        return zero_padding(log_slope, mask).sum((-2, -1), dtype=torch.float64).to(dtype)

    def outside(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return where a real object's value is one that its kind does not have.

        Arguments:
            x: physical features, with shape `(*batch, N, dim)`.
            mask: which objects are real, with shape `(*batch, N)`; None means all.

        Returns:
            A boolean tensor with the shape of `x`.

        >>> scaler = Standardizer(kinds=["real", "positive"])
        >>> scaler.outside(torch.tensor([[0.0, 0.0], [-1.0, 1.0]]))
        tensor([[False,  True],
                [False, False]])
        """
        x, mask = self._checked(x, mask)
        safe = self._safe(x, mask)
        outside = torch.zeros_like(x, dtype=torch.bool)
        for index, kind in self._transforms.items():
            low, high = kind.bounds
            outside[..., index] = ~((safe[..., index] > low) & (safe[..., index] < high))
        return outside

    def clipped(self, x: Array, mask: Array | None = None) -> Tensor:
        """Return where a real object has the lowest value, onto which `inverse` puts all below it.

        Arguments:
            x: physical features, with shape `(*batch, N, dim)`.
            mask: which objects are real, with shape `(*batch, N)`; None means all.

        Returns:
            A boolean tensor with the shape of `x`; False for features without such a value.

        >>> scaler = Standardizer(kinds=["positive(boxcox=0.5)"], mean=0, std=1, lowest=-1)
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
        kinds = enumerate(self.kinds)
        return tuple(k for k, kind in kinds if isinstance(kind, Positive) and kind.boxcox > 0)

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
        """Return `x` with values in padded slots at which transforms and gradients are finite.

        Its dtype is that of the statistics, or a wider one.
        """
        x = x.to(torch.promote_types(x.dtype, self.mean.dtype))
        return x if mask is None else torch.where(mask[..., None], x, self._inside.to(x.dtype))

    def _require_inside(self, x: Tensor) -> None:
        if not is_at_hand(x):
            return
        if current_transform() is not None and not is_readable(x):
            return
        outside = self.outside(x)
        if bool(outside.any()):
            *event, slot, index = outside.nonzero()[0].tolist()
            where = f" of event {', '.join(map(str, event))}" if event else ""
            low, high = self.kinds[index].bounds
            within = f"above {low:g}" + (f" and below {high:g}" if high < math.inf else "")
            label = self.label(index)
            of_event = label.startswith("condition")  # which no object has
            raise ValueError(
                f"{label} is of kind {self.kinds[index]} and holds values that are not {within}, "
                f"the first ({x[(*event, slot, index)].item():g})"
                f"{where if of_event else f' in an object{where}'}; "
                f"{'' if of_event else 'check the mask, or '}give it the kind 'real'"
            )

    def _transform(self, x: Tensor) -> Tensor:
        if not self._transforms:
            return x
        self._require_inside(x)
        columns = list(x.unbind(-1))
        for index, kind in self._transforms.items():
            columns[index] = kind.forward(columns[index])
        return torch.stack(columns, -1)


def _next_to(low: float, dtype: torch.dtype) -> float:
    """Return the smallest number of a dtype above `low`; that below `high` is minus it of -high."""
    if low in (-math.inf, 0.0):  # a subnormal number may become 0
        return -math.inf if low else torch.finfo(dtype).tiny
    rounded = torch.tensor(low, dtype=dtype)
    if rounded.double().item() > low:
        return rounded.item()
    return torch.nextafter(rounded, rounded.new_tensor(math.inf)).item()
