"""Feature scaling on real objects, with its inverse and log-determinant.

Notation. Physical features x become scaled features z = (f(x) - mean) / std, feature by feature,
where f is a Box-Cox transform, f(x) = (x^lambda - 1) / lambda or log x for lambda = 0, for the
features that ask for one and the identity for the others. Mean and standard deviation are those of
f(x) over the real objects of a training sample. For a density,
log p(x) = log p(z) + log|det dz/dx|.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from setflow.sets.masks import as_mask, current_transform, is_readable, zero_padding
from setflow.sets.shapes import floating_dtype

__all__ = ["Standardizer"]


class Standardizer(nn.Module):
    """Shift and scale each feature to mean 0 and standard deviation 1 over real objects.

    A Box-Cox transform (Box and Cox, "An Analysis of Transformations", J. R. Stat. Soc. B 26, 211,
    1964) first unfolds positive features with a long tail, such as transverse momenta. With
    lambda > 0 it has a lowest value; `inverse` puts what lies below the smallest training value
    onto that value, so a density needs lambda = 0, the logarithm, which maps onto the whole line.

    Arguments:
        dim: the number of features, the last dimension of what it is given.
        boxcox: lambda, from 0 (the logarithm) to below 1, of the features that are transformed, by
            their position; they must be positive.

    Raises:
        ValueError: if a position does not exist or a lambda lies outside [0, 1).

    >>> x, mask = torch.rand(8, 30, 3) + 0.1, torch.rand(8, 30) > 0.5
    >>> scaler = Standardizer(3, boxcox={2: 0.0}).fit(x, mask)
    >>> torch.allclose(scaler.inverse(scaler(x, mask), mask)[mask], x[mask], atol=1e-6)
    True
    """

    mean: Tensor
    std: Tensor
    lowest: Tensor

    def __init__(self, dim: int, *, boxcox: Mapping[int, float] | None = None) -> None:
        super().__init__()
        boxcox = {int(index): float(power) for index, power in (boxcox or {}).items()}
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
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("std", torch.ones(dim, dtype=torch.float64))
        # the smallest transformed value in training, -inf where there is no bound
        self.register_buffer("lowest", torch.full((dim,), -torch.inf, dtype=torch.float64))

    def fit(self, x: Tensor, mask: Tensor | None = None) -> Standardizer:
        """Take mean and standard deviation over the real objects of `x`; return self.

        Arguments:
            x: features, with shape `(*batch, N, dim)`.
            mask: which objects are real, with shape `(*batch, N)`; None means all.

        Raises:
            ValueError: if there are fewer than two real objects, a value is not finite, a feature
                is constant, or one that is transformed is not positive.
        """
        mask = self._checked(x, mask)
        real = x[mask] if mask is not None else x.reshape(-1, self.dim)
        real = self._transform(real.to(torch.float64))
        if len(real) < 2:
            raise ValueError(f"fit needs at least two real objects, got {len(real)}")
        if not bool(real.isfinite().all()):
            feature = int((~real.isfinite()).any(0).nonzero()[0])
            raise ValueError(f"feature {feature} holds NaN or infinite values in real objects")
        std, mean = torch.std_mean(real, dim=0)
        if not bool((std > 0).all()):
            feature = int((std == 0).nonzero()[0])
            raise ValueError(
                f"feature {feature} is constant ({mean[feature].item():g}); "
                "leave it out of the model"
            )
        self.mean.copy_(mean)
        self.std.copy_(std)
        for index, power in self.boxcox.items():
            if power > 0:
                self.lowest[index] = real[:, index].min()
        return self

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return scaled features, zero in padded slots, with the shape and dtype of `x`.

        They are computed in the dtype of the statistics; integers give torch's default dtype.

        Raises:
            ValueError: if the shape does not fit, or a value that is transformed is not positive.
        """
        mask = self._checked(x, mask)
        dtype = x.dtype if x.is_floating_point() else floating_dtype(x)
        z = (self._transform(self._safe(x, mask)) - self.mean) / self.std
        return zero_padding(z.to(dtype), mask)

    def inverse(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return physical features from scaled ones, zero in padded slots."""
        mask = self._checked(z, mask)
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

    def log_det(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return log|det dz/dx| of each event at the physical features `x`, with shape `batch`.

        Raises:
            ValueError: as `forward`.
        """
        mask = self._checked(x, mask)
        safe = self._safe(x, mask)
        if self.boxcox:
            self._require_positive(safe)
        columns = [torch.zeros_like(column) for column in safe.unbind(-1)]
        for index, power in self.boxcox.items():
            columns[index] = (power - 1) * safe[..., index].log()  # log of df/dx = x^(lambda - 1)
        log_slope = torch.stack(columns, -1) - self.std.log()
        dtype = x.dtype if x.is_floating_point() else floating_dtype(x)
        return zero_padding(log_slope, mask).sum((-2, -1), dtype=torch.float64).to(dtype)

    def outside(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
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
        mask = self._checked(x, mask)
        safe = self._safe(x, mask)
        outside = torch.zeros_like(x, dtype=torch.bool)
        for index in self.boxcox:
            outside[..., index] = ~(safe[..., index] > 0)
        return outside

    def _checked(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        if x.ndim < 2 or x.shape[-1] != self.dim:
            raise ValueError(
                f"Standardizer got shape {tuple(x.shape)}, expected (*batch, N, {self.dim})"
            )
        return None if mask is None else as_mask(mask, x.shape[:-1])

    def _safe(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return `x` with ones in padded slots, where any transform and its gradient are finite.

        Its dtype is that of the statistics, or a wider one.
        """
        x = x.to(torch.promote_types(x.dtype, self.mean.dtype))
        return x if mask is None else torch.where(mask[..., None], x, 1.0)

    def _require_positive(self, x: Tensor) -> None:
        if x.device.type != "cpu":  # looking would cost a synchronisation in each training step
            return
        if current_transform() is not None and not is_readable(x):
            return
        outside = self.outside(x)
        if bool(outside.any()):
            raise ValueError(
                f"feature {int(outside.nonzero()[0, -1])} has a Box-Cox transform and holds values "
                "that are not positive; check the mask, or leave the feature out of boxcox"
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
