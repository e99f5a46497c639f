"""Cardinality models: p(N | c), the probability that an event holds N objects.

Notation. N is the number of real objects, 0 to `max_objects`; c is the context, scaled as the field
gets it. Probabilities sum to one over N for each c, log-probabilities are in nats. A number is
drawn by inversion: the smallest N whose cumulative probability exceeds a uniform number, one for
each event, so that the same uniform and context give the same N in whatever company.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from setflow.fitted import Fitted
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import current_transform, is_readable
from setflow.sets.shapes import positive_integer
from setflow.sets.weights import as_weight, count_negative, effective_number, total_weight

__all__ = [
    "CardinalityModel",
    "ConditionalCardinality",
    "EmpiricalCardinality",
    "at_quantile",
    "checked_lengths",
]

_FUNCTIONS = 8  # of N, whose strengths depend on the context


class CardinalityModel(Fitted, ABC):
    """A model p(N | c) of the number of objects; one that has parameters is trained with the field.

    `max_objects` is the largest number that can occur, and `condition_dim` the number of context
    features that the probabilities depend on, 0 for p(N). A model with statistics of a training
    sample names their buffers in `statistics`, which hold NaN until they are given or fitted.
    """

    max_objects: int
    condition_dim: int

    @abstractmethod
    def fit(self, lengths: Array, c: Array | None = None, weight: Array | None = None) -> Self:
        """Take what the model needs from a training sample; return self.

        Arguments:
            lengths: the numbers of objects, integers with shape `batch`.
            c: the context, with shape `(*batch, condition_dim)`.
            weight: how much each event counts, with shape `batch`, in any unit; None means equally
                much. `SetFlow.fit_statistics` gives it only where there are weights.
        """

    def fit_counts(self, counts: Tensor) -> Self:
        """Take what the model needs from how often each number of objects occurs; return self.

        It is `fit` of a sample that is not in memory at once. This one cannot.

        Arguments:
            counts: of each N from 0, float64, positive or 0, with shape `(max_objects + 1,)`;
                weighted events are counted by their weights, which sum to their effective number.
        """
        raise TypeError(
            f"{type(self).__name__} has no fit_counts, by which it would take frequencies of "
            "events that are not in memory; give it one, or hold them there: data.in_memory: true"
        )

    @abstractmethod
    def sample(self, uniform: Array, c: Array | None = None) -> Tensor:
        """Return the number of objects at each quantile, int64 with shape `batch`.

        Arguments:
            uniform: numbers in (0, 1), with shape `batch`.
            c: the context, with shape `(*batch, condition_dim)`.
        """

    @abstractmethod
    def log_prob(self, lengths: Array, c: Array | None = None) -> Tensor:
        """Return log p(N | c) in nats, float64 with shape `batch`; -inf where N cannot occur.

        Arguments:
            lengths: the numbers of objects, integers with shape `batch`.
            c: the context, with shape `(*batch, condition_dim)`.
        """

    def checked_log_prob(self, lengths: Tensor, c: Tensor | None) -> Tensor:
        """Return `log_prob` of lengths from 0 to `max_objects`, which are known to be so.

        A model that can do without a look at values, for which a training step would wait, does:
        a context that is not finite then gives NaN. This one looks.

        Arguments:
            lengths: the numbers of objects, int64 with shape `batch`.
            c: the context, with shape `(*batch, condition_dim)`.
        """
        return self.log_prob(lengths, c)


class EmpiricalCardinality(CardinalityModel):
    """The frequencies of the cardinalities in a training sample.

    It is p(N), the same for every context: where a context is given, as a model with conditions
    does, only its shape is looked at. A number that the sample lacks has probability zero. The
    frequencies are fitted (`fit`) or given; until then it has none.

    Arguments:
        max_objects: the largest cardinality that can occur; None takes that of `counts`.
        counts: how often each N from 0 to `max_objects` occurs, with shape `(max_objects + 1,)`:
            counts, frequencies or probabilities, not negative; None until `fit`.

    Raises:
        ValueError: if `max_objects` is not a positive integer or `counts` do not fit it.

    >>> cardinality = EmpiricalCardinality(3).fit(torch.tensor([1, 3, 3, 3]))
    >>> cardinality.log_prob(torch.tensor([3])).exp()
    tensor([0.7500], dtype=torch.float64)
    """

    statistics: ClassVar[tuple[str, ...]] = ("probabilities",)
    given_by: ClassVar[tuple[str, ...]] = ("counts",)
    condition_dim = 0
    probabilities: Tensor

    def __init__(self, max_objects: int | None = None, *, counts: Array | None = None) -> None:
        super().__init__()
        if counts is not None:
            counts = as_tensor(counts, "counts", torch.float64).detach().double()
            max_objects = len(counts) - 1 if max_objects is None else max_objects
        self.max_objects = positive_integer(max_objects, "max_objects")
        unknown = torch.full((self.max_objects + 1,), torch.nan, dtype=torch.float64)
        self.register_buffer("probabilities", unknown)
        if counts is not None:
            total = counts.sum()
            if counts.shape != unknown.shape:
                raise ValueError(
                    f"counts has shape {tuple(counts.shape)}, expected {tuple(unknown.shape)}: how "
                    f"often each N from 0 to {self.max_objects} occurs"
                )
            if not bool(total.isfinite() and total > 0 and (counts >= 0).all()):
                raise ValueError(
                    f"counts must be finite and not negative, with a positive sum, got a minimum "
                    f"of {counts.min().item():g} and a sum of {total.item():g}"
                )
            self.probabilities.copy_(counts / total)
            self.given = self.known = True

    def extra_repr(self) -> str:
        """Return what torch writes between the brackets.

        >>> EmpiricalCardinality(counts=[0, 1, 3])
        EmpiricalCardinality(max_objects=2, given)
        """
        return f"max_objects={self.max_objects}, {self.state}"

    @property
    def counts(self) -> Tensor:
        """How often each N occurs, as a fraction: the probabilities."""
        return self.probabilities

    def fit(self, lengths: Array, c: Array | None = None, weight: Array | None = None) -> Self:
        """Take the frequencies of `lengths`, integers with any shape; return self.

        Frequencies that were given or fitted before are replaced. With weights they are the sums of
        the weights at each N over the sum of all.

        Raises:
            ValueError: if there are none, one lies outside [0, max_objects], the context does not
                have a row for each, or the weights do not fit or make a frequency that is not
                positive; the last counts the negative ones.
        """
        lengths = as_tensor(lengths, "lengths")
        if c is not None:
            _require_a_row_for_each(lengths, c)
        return self.fit_counts(_counts(lengths, self.max_objects, weight))

    def fit_counts(self, counts: Tensor) -> Self:
        """Take the frequencies of counts; see `CardinalityModel.fit_counts`."""
        self.probabilities.copy_(counts / counts.sum())
        self.given, self.known = False, True
        return self

    def sample(self, uniform: Array, c: Array | None = None) -> Tensor:
        """Return the cardinality at each quantile of `uniform`, numbers in (0, 1), as int64.

        Raises:
            ValueError: if the context does not have a row for each, or there are no frequencies.
        """
        if not self.known:
            self.require_fitted()
        if not isinstance(uniform, Tensor) or uniform.is_complex():
            uniform = as_tensor(uniform, "uniform")
        if c is not None:
            _require_a_row_for_each(uniform, c)
        return at_quantile(self.probabilities, uniform)

    def log_prob(self, lengths: Array, c: Array | None = None) -> Tensor:
        """Return log p(N) in nats, float64, with the shape of `lengths`; -inf where N never occurs.

        Raises:
            ValueError: if a length lies outside [0, max_objects], the context does not have a row
                for each, or there are no frequencies.
        """
        if not self.known:
            self.require_fitted()
        if not isinstance(lengths, Tensor) or lengths.is_complex():
            lengths = as_tensor(lengths, "lengths")
        if c is not None:
            _require_a_row_for_each(lengths, c)
        return self.probabilities.log()[checked_lengths(lengths, self.max_objects)]


class ConditionalCardinality(CardinalityModel):
    """Frequencies that a small network changes with the context, trained by -log p(N | c).

    The logit of N is b_N + sum_k a_k(c) sqrt(2) cos(pi k u_N). The b_N start as the logarithms of
    the frequencies in a training sample; u_N is how much of that sample lies below N, and half of
    what lies at N; a is an MLP with SiLU between its layers, from the context to 8 numbers, 0 at
    the start. So what changes with the context is smooth in the rank of N, as in Neyman, "'Smooth'
    test for goodness of fit" (Skand. Aktuarietidskr. 20, 149, 1937); a network with a free logit
    for each of 150 numbers would learn its training sample by heart.

    Every N has a finite log-probability, also one that the sample lacks: few events are seen near
    each context, and one held-out event with a new N must not make the loss of all others infinite.
    The frequencies are those of the sample and one event more that is spread evenly over all N
    (Perks, "Some observations on inverse probability including a new indifference rule", J. Inst.
    Actuaries 73, 285, 1947). So after n events all numbers never seen have less than 1 / (n + 1)
    together, before training, which lowers it. Until the frequencies are fitted there are none.

    The parameters have torch's default dtype; logits are computed from them in float64, under
    autocast too, so that rounding, which depends on the size of the batch, cannot move an event to
    another N.

    Arguments:
        max_objects: the largest cardinality that can occur.
        condition_dim: the number of columns of the context. A configuration of `setflow fit` may
            leave it out: the conditions of the model tell it.
        hidden: the width.
        layers: the number of hidden layers.

    Raises:
        ValueError: if an argument is not a positive integer.

    >>> cardinality = ConditionalCardinality(3, condition_dim=2).fit(torch.tensor([1, 3, 3, 3]))
    >>> cardinality.log_prob(torch.tensor([3, 0]), torch.randn(2, 2)).exp().detach()
    tensor([0.6500, 0.0500], dtype=torch.float64)
    """

    statistics: ClassVar[tuple[str, ...]] = ("basis",)
    basis: Tensor

    def __init__(
        self, max_objects: int, condition_dim: int = 0, *, hidden: int = 64, layers: int = 2
    ) -> None:
        super().__init__()
        self.max_objects = positive_integer(max_objects, "max_objects")
        if condition_dim == 0:
            raise ValueError(
                "condition_dim is 0, expected the number of columns of the context; a model "
                "without conditions takes setflow.EmpiricalCardinality"
            )
        self.condition_dim = positive_integer(condition_dim, "condition_dim")
        self.hidden = positive_integer(hidden, "hidden")
        self.layers = positive_integer(layers, "layers")
        stack: list[nn.Module] = [nn.Linear(self.condition_dim, self.hidden), nn.SiLU()]
        for _ in range(self.layers - 1):
            stack += [nn.Linear(self.hidden, self.hidden), nn.SiLU()]
        functions = min(_FUNCTIONS, self.max_objects)
        self.net = nn.Sequential(*stack, nn.Linear(self.hidden, functions, bias=False))
        self.bias = nn.Parameter(torch.zeros(self.max_objects + 1))
        unknown = torch.full((len(self.bias), functions), torch.nan, dtype=torch.float64)
        self.register_buffer("basis", unknown)

    def __repr__(self) -> str:
        """Say on one line what it is.

        >>> ConditionalCardinality(30, 2)
        ConditionalCardinality(30, 2, hidden=64, layers=2, not fitted)
        """
        sizes = f"{self.max_objects}, {self.condition_dim}, hidden={self.hidden}"
        return f"{type(self).__name__}({sizes}, layers={self.layers}, {self.state})"

    def fit(self, lengths: Array, c: Array | None = None, weight: Array | None = None) -> Self:
        """Start from the frequencies of `lengths`, for every context; return self.

        What was learnt before is forgotten.

        Arguments:
            lengths: the numbers of objects, integers with shape `batch`.
            c: the context, with shape `(*batch, condition_dim)`, checked if it is given: the
                frequencies are those over all contexts.
            weight: how much each event counts, with shape `batch`, in any unit; None means equally
                much. The sample then counts as its effective number of events beside the one that
                is spread over all N.

        Raises:
            ValueError: if there are no lengths, one lies outside [0, max_objects], the context
                does not fit, or the weights do not fit or make a frequency that is not positive.
        """
        lengths = as_tensor(lengths, "lengths")
        if c is not None:
            self._context(c, lengths)
        return self.fit_counts(_counts(lengths, self.max_objects, weight))

    def fit_counts(self, counts: Tensor) -> Self:
        """Start from the frequencies of counts; see `CardinalityModel.fit_counts`."""
        self._start((counts + 1 / len(counts)) / (counts.sum() + 1))
        self.known = True
        return self

    @torch.no_grad()
    def sample(self, uniform: Array, c: Array | None = None) -> Tensor:
        """Return the cardinality at each quantile, int64 with shape `batch`.

        Arguments:
            uniform: numbers in (0, 1), with shape `batch`.
            c: the context, with shape `(*batch, condition_dim)`.

        Raises:
            ValueError: if the context is missing, has another shape, or is not finite, or there are
                no frequencies.
        """
        if not isinstance(uniform, Tensor) or uniform.is_complex():
            uniform = as_tensor(uniform, "uniform")
        return at_quantile(self._log_probabilities(self._context(c, uniform)).exp(), uniform)

    def log_prob(self, lengths: Array, c: Array | None = None) -> Tensor:
        """Return log p(N | c) in nats, float64 with shape `batch`, finite for every N.

        Arguments:
            lengths: the numbers of objects, integers with shape `batch`.
            c: the context, with shape `(*batch, condition_dim)`.

        Raises:
            ValueError: if a length lies outside [0, max_objects], or the context is missing, has
                another shape, or is not finite, or there are no frequencies.
        """
        if not isinstance(lengths, Tensor) or lengths.is_complex():
            lengths = as_tensor(lengths, "lengths")
        index = checked_lengths(lengths, self.max_objects)
        return self._at(index, self._context(c, lengths))

    def checked_log_prob(self, lengths: Tensor, c: Tensor | None) -> Tensor:
        """Return `log_prob` without a look at values; see `CardinalityModel`.

        Raises:
            ValueError: if the context is missing or has another shape.
        """
        return self._at(lengths, self._context(c, lengths, look=False))

    def _at(self, lengths: Tensor, c: Tensor) -> Tensor:
        return self._log_probabilities(c).gather(-1, lengths[..., None]).squeeze(-1)

    @torch.no_grad()
    def _start(self, frequencies: Tensor) -> None:
        """Make the probabilities these, float64 with shape `(max_objects + 1,)`, for every c."""
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        last.weight.zero_()
        self.bias.copy_(frequencies.log())
        k = torch.arange(1, last.out_features + 1, device=frequencies.device)
        below = frequencies.cumsum(0) - frequencies / 2
        self.basis.copy_(math.sqrt(2) * torch.cos(math.pi * k * below[:, None]))

    def _log_probabilities(self, c: Tensor) -> Tensor:
        """Return log p(N | c) of every N, with shape `(*batch, max_objects + 1)`."""
        if not self.known:
            self.require_fitted()
        parameters = {name: value.double() for name, value in self.net.named_parameters()}
        strengths: Tensor = functional_call(self.net, parameters, c.double())
        return (self.bias.double() + strengths @ self.basis.double().T).log_softmax(-1)

    def _context(self, c: Array | None, events: Tensor, *, look: bool = True) -> Tensor:
        expected = (*events.shape, self.condition_dim)
        if c is not None and (not isinstance(c, Tensor) or c.is_complex()):
            c = as_tensor(c, "c")
        if c is None or tuple(c.shape) != expected:
            got = "none" if c is None else f"shape {tuple(c.shape)}"
            raise ValueError(
                f"ConditionalCardinality expected a context c with shape {expected}, got {got}; "
                "give each event its scaled context"
            )
        seen = look and (current_transform() is None or is_readable(c))
        if seen and not bool(c.isfinite().all()):
            bad = ~c.isfinite()
            *event, feature = bad.nonzero()[0].tolist()
            first = f"event {', '.join(map(str, event))}, " if event else ""
            raise ValueError(
                f"the context of {int(bad.any(-1).sum())} of {events.numel()} events holds NaN or "
                f"infinite values, the first is {first}{self.label(feature)}; leave these events "
                "out, or mend their context"
            )
        return c


def at_quantile(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return the cardinality at each quantile.

    Arguments:
        probabilities: float64, of every N, with shape `(*batch, max_objects + 1)` or, the same for
            all, `(max_objects + 1,)`.
        uniform: numbers in (0, 1), with shape `batch`.
    """
    cumulative = probabilities.cumsum(-1).contiguous()
    total = cumulative[..., -1:]
    # below the total, so that there is an N whose cumulative probability exceeds it
    quantile = (uniform[..., None].to(total) * total).minimum(total.nextafter(total.new_zeros(())))
    return torch.searchsorted(cumulative, quantile.contiguous(), right=True).squeeze(-1)


def _counts(lengths: Tensor, max_objects: int, weight: Array | None) -> Tensor:
    """Return how often each N occurs, float64 with shape `(max_objects + 1,)`.

    Weighted events are counted by their weights, which sum to their effective number.
    """
    index = checked_lengths(lengths, max_objects).flatten()
    if not len(index):
        raise ValueError("fit needs at least one event, got none")
    if weight is None:
        return torch.bincount(index, minlength=max_objects + 1).to(torch.float64)
    weight = as_weight(weight, lengths.shape).flatten().to(index.device)
    share = weight / total_weight(weight)
    counts, size = (
        torch.bincount(index, each, minlength=max_objects + 1) for each in (share, share.abs())
    )
    numbers = torch.bincount(index, minlength=max_objects + 1)
    require_possible(counts, size, numbers, count_negative(weight))
    return counts * effective_number(weight)


def require_possible(shares: Tensor, sizes: Tensor, numbers: Tensor, negative: str) -> None:
    """Refuse weights that make a probability which is not positive.

    Arguments:
        shares: the sums of the weights at each N, over the sum of all.
        sizes: the sums of their absolute values, likewise.
        numbers: how many events have each N.
        negative: how many weights are negative, in words.

    Raises:
        ValueError: if there is one; it counts the negative ones.
    """
    impossible = (sizes > 0) & ~(shares > 1e-12 * sizes)
    if bool(impossible.any()):
        n = int(impossible.nonzero()[0])
        raise ValueError(
            f"the weights of the {int(numbers[n]):,} events with {n} objects give "
            f"p({n}) = {shares[n].item():.3g}, expected a positive probability: "
            f"{negative}; give more events, or weights of which fewer cancel"
        )


def checked_lengths(lengths: Tensor, max_objects: int) -> Tensor:
    """Return `lengths` as int64, all of them cardinalities that can occur."""
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise ValueError(
            f"lengths must be integers, got {lengths.dtype}; count the real objects of a mask by "
            "mask.sum(-1)"
        )
    lengths = lengths.to(torch.int64)
    seen = current_transform() is None or is_readable(lengths)
    if seen and lengths.numel() and not bool(((lengths >= 0) & (lengths <= max_objects)).all()):
        raise length_error(int(lengths.min()), int(lengths.max()), max_objects)
    return lengths


def length_error(least: int, most: int, max_objects: int) -> ValueError:
    """Return the error that tells which numbers of objects cannot occur.

    >>> str(length_error(2, 7, 5)).partition(";")[0]
    'lengths reach from 2 to 7, expected [0, 5]'
    """
    found = f"are {least}" if least == most else f"reach from {least} to {most}"
    return ValueError(
        f"lengths {found}, expected [0, {max_objects}]; cut the events to {max_objects} objects, "
        "or take a cardinality model with a larger max_objects"
    )


def _require_a_row_for_each(events: Tensor, c: Array) -> None:
    c = as_tensor(c, "c")
    if c.shape[:-1] != events.shape:
        raise ValueError(
            f"c has shape {tuple(c.shape)}, expected {(*events.shape, 'C')}: one row for each event"
        )
