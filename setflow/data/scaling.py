"""Feature scaling on real objects, with its inverse and log-determinant.

Notation. Physical features x become scaled features z = (f(x) - mean) / std, feature by feature,
where f is the logarithm for the features that ask for it and the identity for the others. Mean and
standard deviation are those of f(x) over the real objects of a training sample. For a density,
log p(x) = log p(z) + log|det dz/dx|.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from setflow.core.masks import as_mask, zero_padding

__all__ = ["Standardizer"]


class Standardizer(nn.Module):
    """Shift and scale each feature to mean 0 and standard deviation 1 over real objects.

    Arguments:
        dim: the number of features, the last dimension of what it is given.
        log_features: the features, by position, whose logarithm is standardised; they must be
            positive.

    Raises:
        ValueError: if a position in `log_features` does not exist.

    >>> x, mask = torch.rand(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> scaler = Standardizer(3, log_features=[2]).fit(x, mask)
    >>> torch.allclose(scaler.inverse(scaler(x, mask), mask)[mask], x[mask], atol=1e-6)
    True
    """

    mean: Tensor
    std: Tensor
    is_log: Tensor

    def __init__(self, dim: int, *, log_features: Sequence[int] = ()) -> None:
        super().__init__()
        wrong = [index for index in log_features if not 0 <= index < dim]
        if wrong:
            raise ValueError(
                f"log_features {wrong} do not exist; expected positions 0 to {dim - 1}"
            )
        self.dim = dim
        self.log_features = tuple(log_features)
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("std", torch.ones(dim, dtype=torch.float64))
        is_log = torch.tensor([index in self.log_features for index in range(dim)])
        self.register_buffer("is_log", is_log, persistent=False)

    def fit(self, x: Tensor, mask: Tensor | None = None) -> Standardizer:
        """Take mean and standard deviation over the real objects of `x`; return self.

        Arguments:
            x: features, with shape `(*batch, N, dim)`.
            mask: which objects are real, with shape `(*batch, N)`; None means all.

        Raises:
            ValueError: if there are fewer than two real objects, a value is not finite, a feature
                is constant, or one in `log_features` is not positive.
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
        return self

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return scaled features, zero in padded slots, with the shape and dtype of `x`.

        Raises:
            ValueError: if the shape does not fit, or a logarithm is asked of a value that is not
                positive.
        """
        mask = self._checked(x, mask)
        mean, std = self.mean.to(x.dtype), self.std.to(x.dtype)
        return zero_padding((self._transform(self._safe(x, mask)) - mean) / std, mask)

    def inverse(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return physical features from scaled ones, zero in padded slots."""
        mask = self._checked(z, mask)
        f = zero_padding(z, mask) * self.std.to(z.dtype) + self.mean.to(z.dtype)
        # select before exp: a feature without a logarithm must not overflow on its way
        x = torch.where(self.is_log, torch.where(self.is_log, f, 0).exp(), f)
        return zero_padding(x, mask)

    def log_det(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return log|det dz/dx| of each event at the physical features `x`, with shape `batch`.

        Raises:
            ValueError: as `forward`.
        """
        mask = self._checked(x, mask)
        logarithm = torch.where(self.is_log, self._transform(self._safe(x, mask)), 0)
        per_coordinate = zero_padding(-logarithm - self.std.log().to(x.dtype), mask)
        return per_coordinate.sum((-2, -1), dtype=torch.float64).to(x.dtype)

    def _checked(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        if x.ndim < 2 or x.shape[-1] != self.dim:
            raise ValueError(
                f"Standardizer got shape {tuple(x.shape)}, expected (*batch, N, {self.dim})"
            )
        return None if mask is None else as_mask(mask, x.shape[:-1])

    def _safe(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return `x` with ones in padded slots, where any transform and its gradient are finite."""
        return x if mask is None else torch.where(mask[..., None], x, 1.0)

    def _transform(self, x: Tensor) -> Tensor:
        if not self.log_features:
            return x
        if not bool((torch.where(self.is_log, x, 1.0) > 0).all()):
            columns = ", ".join(map(str, self.log_features))
            raise ValueError(
                f"a feature whose logarithm is standardised (position {columns}) holds values that "
                "are not positive; check the mask, or leave the feature out of log_features"
            )
        return torch.where(self.is_log, torch.where(self.is_log, x, 1.0).log(), x)
