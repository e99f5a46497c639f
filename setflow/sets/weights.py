"""Weights of events: one number per event, which may be negative, as those of generators are.

Notation. A weight w_i says that event i counts like w_i events, up to one factor for the whole
sample. A sample is normalised once, to mean 1, so sum_i w_i is the number n of its events; a loss
is then (1/B) sum_i w_i l_i over the B events of a batch, whose expectation over batches is that
over the sample. (Divided by the sum of the weights of its own batch it would be biased: the
expectation of a ratio is not the ratio of the expectations, and of weights of both signs the sum of
a batch may vanish.) The effective number (sum w)^2 / sum w^2 is how many events of equal weight
scatter as little as these.

Negative weights are right where they cancel others; what comes out impossible, a sum or a variance
that is not positive, is an error that counts them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import current_transform, is_readable

__all__ = [
    "as_weight",
    "count_negative",
    "effective_number",
    "in_words",
    "require_positive",
    "total_weight",
    "weighted_std_mean",
]


def as_weight(weight: Array, batch: Sequence[int]) -> Tensor:
    """Return weights as a float64 tensor, checked.

    Arguments:
        weight: real numbers, one per event.
        batch: the shape that they must have. The values are looked at on a CPU only, since a look
            costs a synchronisation elsewhere.

    Raises:
        TypeError: if it holds no plain numbers.
        ValueError: if the shape differs, or a weight is not finite.

    >>> as_weight([2, -1], (2,))
    tensor([ 2., -1.], dtype=torch.float64)
    """
    if not isinstance(weight, Tensor) or weight.is_complex():
        weight = as_tensor(weight, "weight", torch.float64)
    if tuple(weight.shape) != tuple(batch):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected {tuple(batch)}: one number per event"
        )
    weight = weight.to(torch.float64)
    seen = weight.device.type == "cpu" and (current_transform() is None or is_readable(weight))
    if seen and not bool(weight.isfinite().all()):
        _refuse_not_finite(weight)
    return weight


def _refuse_not_finite(weight: Tensor) -> None:
    bad = ~weight.isfinite()
    event = ", ".join(map(str, bad.nonzero()[0].tolist()))
    where = f", the first is {weight[bad][0].item():g}, of event {event}" if event else ""
    raise ValueError(
        f"{int(bad.sum()):,} of {weight.numel():,} weights are NaN or infinite{where}; leave such "
        "events out, or mend their weights"
    )


def count_negative(weight: Tensor) -> str:
    """Return how many weights are negative, in words.

    >>> count_negative(torch.tensor([1.0, -1.0, 2.0]))
    '1 of 3 weights is negative'
    """
    return in_words(int((weight < 0).sum()), weight.numel())


def in_words(negative: int, n: int) -> str:
    """Return how many of n weights are negative, in words.

    >>> in_words(2, 1000)
    '2 of 1,000 weights are negative'
    """
    return f"{negative:,} of {n:,} weights {'is' if negative == 1 else 'are'} negative"


def total_weight(weight: Tensor, what: str = "the weights", events: Tensor | None = None) -> Tensor:
    """Return the sum of weights, which is positive.

    Arguments:
        weight: weights, of any shape.
        what: whose they are, for the error message.
        events: the weights of the events, where `weight` repeats those for their objects.

    Raises:
        ValueError: if one is not finite, or the sum is not positive; it counts the negative ones.
    """
    if not bool(weight.isfinite().all()):
        _refuse_not_finite(weight)
    total, of = weight.sum(), weight if events is None else events
    require_positive(total, weight.abs().sum(), what, int((of < 0).sum()), of.numel())
    return total


def require_positive(total: Tensor, size: Tensor, what: str, negative: int, n: int) -> None:
    """Refuse a sum of weights that is not positive.

    Arguments:
        total: the sum.
        size: that of their absolute values.
        what: whose they are.
        negative: how many of the weights are negative.
        n: how many there are.

    Raises:
        ValueError: if it is not; it counts the negative ones.
    """
    if not bool(total > 1e-12 * size):  # what is left of a cancellation is rounding
        raise ValueError(
            f"{what} sum to {total.item():.3g}, expected a positive sum: "
            f"{in_words(negative, n)}; give more events, or weights of which fewer cancel"
        )


def effective_number(weight: Tensor) -> float:
    """Return how many events of equal weight scatter as these: (sum w)^2 / sum w^2.

    Arguments:
        weight: weights, of any shape, whose sum is positive.

    >>> effective_number(torch.tensor([3.0, 3.0])), effective_number(torch.tensor([1.0, 3.0, -1.0]))
    (2.0, 0.8181818127632141)
    """
    return float(weight.sum() ** 2 / (weight**2).sum())


def weighted_std_mean(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return standard deviation and mean of the columns of weighted rows.

    With shares s_i = w_i / sum w the mean is sum s x and the variance sum s (x - mean)^2 divided by
    1 - sum s^2, which makes it unbiased and does not depend on the scale of the weights; of equal
    weights both are those of `torch.std_mean`. It is what `numpy.cov` gives with `aweights`.

    Arguments:
        values: with shape `(M, D)`, M at least 1.
        weight: with shape `(M,)`; their sum is positive.

    Returns:
        Both with shape `(D,)`; the deviation is NaN or 0 where there is none, since all rows that
        count are equal, or negative weights make the variance negative.

    >>> weighted_std_mean(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([1.0, 1.0, 1.0]))
    (tensor([2.]), tensor([3.]))
    """
    share = (weight / weight.sum())[:, None]
    moved = values - values[:1]  # of a constant exactly 0, so that its deviation is, too
    mean = (share * moved).sum(0)
    variance = (share * (moved - mean) ** 2).sum(0)
    left = 1 - (share**2).sum()
    both = (variance > 0) & (left > 0)  # the quotient of two negative numbers is no variance
    std = torch.where(both, variance / left, variance.clamp(max=0)).sqrt()
    return std, mean + values[0]
