"""Cardinality models: p(N), the probability that an event holds N objects."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["EmpiricalCardinality"]


class EmpiricalCardinality(nn.Module):
    """The frequencies of the cardinalities in a training sample.

    Arguments:
        max_objects: the largest cardinality that can occur.

    Raises:
        ValueError: if `max_objects` is not positive.

    >>> cardinality = EmpiricalCardinality(3).fit(torch.tensor([1, 3, 3, 3]))
    >>> cardinality.log_prob(torch.tensor([3])).exp()
    tensor([0.7500], dtype=torch.float64)
    """

    probabilities: Tensor

    def __init__(self, max_objects: int) -> None:
        super().__init__()
        if max_objects < 1:
            raise ValueError(f"max_objects must be at least 1, got {max_objects}")
        self.max_objects = max_objects
        uniform = torch.full((max_objects + 1,), 1 / (max_objects + 1), dtype=torch.float64)
        self.register_buffer("probabilities", uniform)

    def fit(self, lengths: Tensor) -> EmpiricalCardinality:
        """Take the frequencies of `lengths`, integers with any shape; return self.

        Raises:
            ValueError: if there are none, or one lies outside [0, max_objects].
        """
        self._check(lengths)
        if lengths.numel() == 0:
            raise ValueError("fit needs at least one event, got none")
        counts = torch.bincount(lengths.flatten(), minlength=self.max_objects + 1)
        self.probabilities.copy_(counts.to(torch.float64) / lengths.numel())
        return self

    def sample(self, uniform: Tensor) -> Tensor:
        """Return the cardinality at each quantile of `uniform`, numbers in (0, 1), as int64."""
        cumulative = self.probabilities.cumsum(0)
        quantile = uniform.to(self.probabilities) * cumulative[-1]
        drawn = torch.searchsorted(cumulative, quantile, right=True)
        largest = self.probabilities.nonzero()[-1, 0]
        return torch.minimum(drawn, largest)

    def log_prob(self, lengths: Tensor) -> Tensor:
        """Return log p(N) in nats, float64, with the shape of `lengths`; -inf where N never occurs.

        Raises:
            ValueError: if a length lies outside [0, max_objects].
        """
        self._check(lengths)
        return self.probabilities.log()[lengths]

    def _check(self, lengths: Tensor) -> None:
        if lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise ValueError(f"lengths must be integers, got {lengths.dtype}")
        if lengths.numel() and not bool(((lengths >= 0) & (lengths <= self.max_objects)).all()):
            raise ValueError(
                f"lengths reach from {lengths.min().item()} to {lengths.max().item()}, expected "
                f"[0, {self.max_objects}]; cut the events to max_objects or raise it"
            )
