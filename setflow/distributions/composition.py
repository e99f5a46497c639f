"""Composition models: p(n_1 .. n_K | c), how many objects of each of K types an event holds.

Notation. An event has n_k objects of type k, N = n_1 + .. + n_K from 0 to `max_objects`; c is the
context, scaled as the field gets it. A set of typed objects has no order, so that the law of its
types is that of these K numbers,

    p(n_1 .. n_K | c) = p(N | c) p(n_1 | N, c) p(n_2 | N, n_1, c) .. p(n_{K-1} | ..),

the last number being what is left. p(N | c) is a cardinality model, and all there is for K = 1.
Probabilities sum to one for each c, log-probabilities are in nats. Numbers are drawn by inversion,
one uniform number for each factor.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from setflow.distributions.cardinality import (
    CardinalityModel,
    ConditionalCardinality,
    EmpiricalCardinality,
    at_quantile,
    checked_lengths,
    length_error,
)
from setflow.distributions.frequencies import Frequencies
from setflow.random import derive
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import current_transform, is_readable
from setflow.sets.shapes import positive_integer
from setflow.sets.weights import as_weight

__all__ = ["Composition", "ConditionalComposition", "EmpiricalComposition"]

_FUNCTIONS = 8  # of a number, whose strengths a network tells


class Composition(CardinalityModel):
    """A model p(n_1 .. n_K | c) of the numbers of objects of each type.

    It is a `CardinalityModel` whose numbers have one dimension more, the types; with K = 1 it is
    the p(N | c) inside.

    Arguments:
        types: the number K of types. A configuration of `setflow fit` may leave it out: the
            categories among the features of the model tell it.
        number: p(N | c).

    Attributes:
        fractions: the share of each type of all objects of the training, with shape `(types,)`; 0
            for a type that it lacks, which then cannot occur.

    Raises:
        ValueError: if `types` is no positive integer.
    """

    statistics: ClassVar[tuple[str, ...]] = ("fractions",)
    fractions: Tensor
    table: Tensor

    def __init__(self, types: int, number: CardinalityModel) -> None:
        super().__init__()
        if types == 0:
            raise ValueError(
                "types is 0, expected the number of types of objects; a model without types takes "
                "setflow.EmpiricalCardinality"
            )
        self.types = positive_integer(types, "types")
        self.number = number
        self.max_objects, self.condition_dim = number.max_objects, number.condition_dim
        unknown = torch.full((self.types,), torch.nan, dtype=torch.float64)
        self.register_buffer("fractions", unknown)
        # p(n_k | m objects that are no earlier type), a row for each k < K and m
        rows = self.max_objects + 1
        self.register_buffer(
            "table", torch.full((self.types - 1, rows, rows), torch.nan, dtype=torch.float64)
        )

    def fit(self, lengths: Array, c: Array | None = None, weight: Array | None = None) -> Self:
        """Take what the model needs from a training sample; return self.

        Arguments:
            lengths: the numbers of objects of each type, integers with shape `(*batch, types)`.
            c: the context, with shape `(*batch, condition_dim)`.
            weight: how much each event counts, with shape `batch`; see `CardinalityModel.fit`.

        Raises:
            ValueError: as the `fit` of the cardinality model inside, of N; or if a shape differs.
        """
        counts = self._checked(lengths)
        weight = None if weight is None else as_weight(weight, counts.shape[:-1]).to(counts.device)
        self.number.fit(counts.sum(-1), c, weight)
        counts = counts.reshape(-1, self.types)
        return self._take(Frequencies.of(counts, None if weight is None else weight.flatten()))

    def fit_frequencies(self, found: Frequencies, counts: Tensor) -> Self:
        """Take what the model needs from how often compositions occur; return self.

        It is `fit` of a sample that is not in memory at once.

        Arguments:
            found: how often each composition of the sample occurs.
            counts: how often each N does; see `CardinalityModel.fit_counts`.
        """
        self.number.fit_counts(counts)
        return self._take(found.merged())

    def _take(self, found: Frequencies) -> Self:
        """Take the statistics of compositions, each of which stands once."""
        worth = found.worth
        in_table = self._settle(found, worth)
        self.table.copy_(_table(found.rows, worth, in_table, self.max_objects))
        self.known = True
        return self

    def _settle(self, found: Frequencies, worth: Tensor) -> Tensor:
        """Take the statistics of R compositions that are worth so much, with shape `(R,)`.

        Returns:
            How much each is worth in the table.
        """
        objects = (worth[:, None] * found.rows).sum(0).clamp(min=0)
        self.fractions.copy_(objects / objects.sum().clamp(min=1e-300))
        return worth

    def sample(self, uniform: Array, c: Array | None = None) -> Tensor:
        """Return the numbers of objects of each type, int64 with shape `(*batch, types)`.

        Arguments:
            uniform: independent numbers in (0, 1), with shape `(*batch, types)`: the first draws N.
            c: the context, with shape `(*batch, condition_dim)`.

        Raises:
            ValueError: if a shape differs, the context does not fit, or nothing is fitted.
        """
        uniform = self._uniform(uniform)
        return self.sample_given(self.number.sample(uniform[..., 0], c), uniform, c)

    def sample_given(self, lengths: Array, uniform: Array, c: Array | None = None) -> Tensor:
        """Return the numbers of each type of events of N objects, int64, `(*batch, types)`.

        Arguments:
            lengths: N, with shape `batch`.
            uniform: as `sample` takes it; its first column is not looked at.
            c: the context, with shape `(*batch, condition_dim)`.

        Raises:
            ValueError: as `sample`; or if an event is to have more than `max_objects` objects.
        """
        if not self.known:
            self.require_fitted()
        left = checked_lengths(as_tensor(lengths, "lengths"), self.max_objects)
        return self._drawn(left, self._uniform(uniform), c)

    @abstractmethod
    def _drawn(self, lengths: Tensor, uniform: Tensor, c: Array | None) -> Tensor:
        """Return the numbers of each type given N, of arguments that are checked."""

    def log_prob(self, lengths: Array, c: Array | None = None) -> Tensor:
        """Return log p(n_1 .. n_K | c) in nats, float64 with shape `batch`.

        It is -inf for what cannot occur.

        Arguments:
            lengths: the numbers of objects of each type, integers with shape `(*batch, types)`.
            c: the context, with shape `(*batch, condition_dim)`.

        Raises:
            ValueError: if a number is negative, their sum exceeds `max_objects`, a shape differs,
                the context does not fit, or nothing is fitted.
        """
        if not self.known:
            self.require_fitted()
        counts = self._checked(lengths)
        return self.number.log_prob(counts.sum(-1), c) + self.log_prob_given(counts, c)

    def checked_log_prob(self, lengths: Tensor, c: Tensor | None) -> Tensor:
        """Return `log_prob` without a look at values; see `CardinalityModel`."""
        return self.number.checked_log_prob(lengths.sum(-1), c) + self.log_prob_given(lengths, c)

    @abstractmethod
    def log_prob_given(self, counts: Tensor, c: Array | None = None) -> Tensor:
        """Return log p(n_1 .. n_K | N, c) in nats, float64 with shape `batch`.

        Arguments:
            counts: the numbers of each type, int64 with shape `(*batch, types)`, that can occur.
            c: the context, with shape `(*batch, condition_dim)`.
        """

    def _uniform(self, uniform: Array) -> Tensor:
        uniform = as_tensor(uniform, "uniform")
        if not uniform.ndim or uniform.shape[-1] != self.types:
            raise ValueError(
                f"uniform has shape {tuple(uniform.shape)}, expected (*batch, {self.types}): a "
                "number in (0, 1) for each type"
            )
        return uniform

    def _checked(self, lengths: Array) -> Tensor:
        """Return numbers of objects of each type as int64.

        Raises:
            ValueError: if they are none that can occur.
        """
        counts = as_tensor(lengths, "lengths")
        if not counts.ndim or counts.shape[-1] != self.types:
            raise ValueError(
                f"lengths has shape {tuple(counts.shape)}, expected (*batch, {self.types}): the "
                "number of objects of each type"
            )
        counts = checked_lengths(counts, self.max_objects)
        seen = current_transform() is None or is_readable(counts)
        if seen and counts.numel() and int((total := counts.sum(-1)).max()) > self.max_objects:
            raise length_error(int(total.min()), int(total.max()), self.max_objects)
        return counts

    def _log_p_of_table(self, counts: Tensor) -> Tensor:
        """Return the sum of log p(n_k | m_k) of the table, with shape `batch`."""
        left = _left(counts)[..., :-1]
        k = torch.arange(self.types - 1, device=counts.device)
        return self.table.double()[k, left, counts[..., :-1]].log().sum(-1)


class EmpiricalComposition(Composition):
    """The frequencies of the compositions of a training sample, smoothed by a table.

    Of the events of N objects those compositions are kept that occur twice at least, each d times
    less often than it does, since what is seen is seen too often: d = c - (c + 1) y n_{c+1} / n_c
    for one that occurs c times, of 3 for all above, where n_i compositions occur i times and
    y = n_1 / (n_1 + 2 n_2) (Chen and Goodman, "An empirical study of smoothing techniques for
    language modeling", Computer Speech and Language 13, 359, 1999). What is left, the other events
    and one more are given to a table, p(n_1 | N) p(n_2 | N - n_1) .., each factor the frequencies
    of what is given to it and one event that is spread by a binomial law with the mean of the
    sample. So every composition of the types that occur has a finite log-probability where its N
    has one; few types of few objects have nearly their frequencies, and where hardly an event is
    like another it is nearly the table. p(N) is that of `EmpiricalCardinality`.

    It is the same for every context, of which only the shape is looked at.

    Arguments:
        types: the number K of types; see `Composition`.
        max_objects: the largest number of objects that can occur.
        kept: how many compositions are kept at most, the most frequent ones.

    Raises:
        ValueError: if an argument is not a positive integer.

    >>> counts = torch.tensor([[1, 2], [1, 2], [1, 2], [3, 0]])
    >>> composition = EmpiricalComposition(2, 3).fit(counts)
    >>> composition.log_prob(torch.tensor([[1, 2], [2, 1], [1, 1]])).exp()
    tensor([0.6750, 0.0750, 0.0000], dtype=torch.float64)
    """

    statistics: ClassVar[tuple[str, ...]] = ("fractions", "unseen")
    condition_dim = 0
    compositions: Tensor
    shares: Tensor
    unseen: Tensor

    def __init__(self, types: int = 0, max_objects: int = 0, *, kept: int = 1024) -> None:
        super().__init__(types, EmpiricalCardinality(max_objects))
        self.kept = positive_integer(kept, "kept")
        # in the order of N, those that are kept, and behind them -1
        self.register_buffer(
            "compositions", torch.full((self.kept, self.types), -1.0, dtype=torch.float64)
        )
        self.register_buffer("shares", torch.zeros(self.kept, dtype=torch.float64))
        unknown = torch.full((self.max_objects + 1,), torch.nan, dtype=torch.float64)
        self.register_buffer("unseen", unknown)

    def extra_repr(self) -> str:
        """Return what torch writes between the brackets."""
        return f"types={self.types}, max_objects={self.max_objects}, {self.state}"

    def _settle(self, found: Frequencies, worth: Tensor) -> Tensor:
        super()._settle(found, worth)
        times, of_number = found.events, self.max_objects + 1
        less = _discount(times) / times  # the share that is given to the table
        # in single precision, so that sums that are equal but for rounding keep their order
        most = worth.float().where((times > 1) & (worth > 0), 0).sort(descending=True, stable=True)
        chosen = most.indices[: self.kept][most.values[: self.kept] > 0]
        numbers = found.rows.sum(-1)
        chosen = chosen[numbers[chosen].sort(stable=True).indices]
        all_of = torch.bincount(numbers, worth, of_number).clamp(min=0) + 1
        shares = (worth * (1 - less))[chosen] / all_of[numbers[chosen]]
        self.compositions.fill_(-1)
        self.shares.zero_()
        self.compositions[: len(chosen)] = found.rows[chosen].double()
        self.shares[: len(chosen)] = shares
        self.unseen.copy_(1 - torch.bincount(numbers[chosen], shares, of_number))
        return worth.index_put((chosen,), (worth * less)[chosen])

    def _drawn(self, lengths: Tensor, uniform: Tensor, c: Array | None) -> Tensor:
        if self.types == 1:
            return lengths[..., None]
        numbers = self.compositions.sum(-1).to(torch.int64)
        numbers = torch.where(self.shares > 0, numbers, self.max_objects + 1)
        shares, unseen = self.shares.double(), self.unseen.double()
        total = torch.bincount(numbers, shares, self.max_objects + 2)
        # rows of N end between N and N + 1, in the order of N
        ends = numbers + (shares.cumsum(0) - (total.cumsum(0) - total)[numbers])
        first = uniform[..., 1].double()
        row = torch.searchsorted(ends, (lengths + first).contiguous(), right=True)
        row = row.clamp(max=self.kept - 1)
        kept = (numbers[row] == lengths) & (first < 1 - unseen[lengths])
        rest = unseen[lengths].clamp(min=1e-300)
        again = ((first - (1 - unseen[lengths])) / rest).clamp(0, 1)
        counts, left = list[Tensor](), lengths
        for k in range(self.types - 1):
            quantile = again if k == 0 else uniform[..., k + 1]
            counts.append(at_quantile(self.table.double()[k, left], quantile))
            left = left - counts[-1]
        drawn = torch.stack([*counts, left], -1)
        return torch.where(kept[..., None], self.compositions[row].to(torch.int64), drawn)

    def log_prob_given(self, counts: Tensor, c: Array | None = None) -> Tensor:
        """Return log p(n_1 .. n_K | N) in nats; see `Composition`."""
        if self.types == 1:
            return torch.zeros(counts.shape[:-1], dtype=torch.float64, device=counts.device)
        held = self.compositions.to(torch.int64)
        keys, order = _keys(held).sort()
        row = torch.searchsorted(keys, _keys(counts).contiguous()).clamp(max=self.kept - 1)
        row = order[row]
        share = torch.where((held[row] == counts).all(-1), self.shares.double()[row], 0.0)
        rest = self.unseen.double()[counts.sum(-1)].log() + self._log_p_of_table(counts)
        return torch.logaddexp(share.log(), rest)


class ConditionalComposition(Composition):
    """A table that a small network changes with the context and the numbers of earlier types.

    The logit of n_k among the m objects that are of no earlier type is
    log p(n_k | m) + sum_j a_j sqrt(2) cos(pi j u), where p is the table of all frequencies, made as
    that of `EmpiricalComposition`, and u how much of it lies below n_k, with half of what lies at
    it. a are 8 numbers of an MLP with SiLU between its layers, 0 at the start, of the context,
    log(1 + n) of the earlier types, log(1 + m) and k. So types that exclude each other, and numbers
    that follow the context, are learnt by -log p, beside the p(N | c) of `ConditionalCardinality`;
    without a context N has the frequencies of the training and of one event that is spread evenly
    over all N.

    Arguments:
        types: the number K of types; see `Composition`.
        max_objects: the largest number of objects that can occur.
        condition_dim: the number of columns of the context, 0 for none. A configuration of `setflow
            fit` may leave it out: the conditions of the model tell it.
        hidden: the width.
        layers: the number of hidden layers.

    Raises:
        ValueError: if a size is not a positive integer.

    >>> counts = torch.tensor([[1, 2], [1, 2], [1, 2], [3, 0]])
    >>> composition = ConditionalComposition(2, 3, condition_dim=1).fit(counts)
    >>> composition.log_prob(torch.tensor([[1, 2]]), torch.zeros(1, 1)).exp().detach()
    tensor([0.5738], dtype=torch.float64)
    """

    def __init__(
        self,
        types: int = 0,
        max_objects: int = 0,
        condition_dim: int = 0,
        *,
        hidden: int = 64,
        layers: int = 2,
    ) -> None:
        number: CardinalityModel = EmpiricalCardinality(max_objects)
        if condition_dim:
            number = ConditionalCardinality(
                max_objects, condition_dim, hidden=hidden, layers=layers
            )
        super().__init__(types, number)
        self.hidden = positive_integer(hidden, "hidden")
        self.layers = positive_integer(layers, "layers")
        width = self.condition_dim + 2 * (self.types - 1) + 1
        stack: list[nn.Module] = [nn.Linear(width, self.hidden), nn.SiLU()]
        for _ in range(self.layers - 1):
            stack += [nn.Linear(self.hidden, self.hidden), nn.SiLU()]
        last = nn.Linear(self.hidden, min(_FUNCTIONS, self.max_objects), bias=False)
        self.net = nn.Sequential(*stack, last)
        nn.init.zeros_(last.weight)

    def __repr__(self) -> str:
        """Say on one line what it is."""
        sizes = f"{self.types}, {self.max_objects}, {self.condition_dim}, hidden={self.hidden}"
        return f"{type(self).__name__}({sizes}, layers={self.layers}, {self.state})"

    @torch.no_grad()
    def _settle(self, found: Frequencies, worth: Tensor) -> Tensor:
        super()._settle(found, worth)
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        last.weight.zero_()
        if not self.condition_dim:  # no held-out event with a new N is to end a training
            each = torch.bincount(found.rows.sum(-1), worth, self.max_objects + 1)
            self.number.fit_counts(each + 1 / len(each))
        return worth

    @torch.no_grad()
    def _drawn(self, lengths: Tensor, uniform: Tensor, c: Array | None) -> Tensor:
        counts, left = list[Tensor](), lengths
        for k in range(self.types - 1):
            earlier = torch.stack([*counts, *[torch.zeros_like(left)] * (self.types - 1 - k)], -1)
            log_p = self._log_probabilities(earlier, left, k, c)
            counts.append(at_quantile(log_p.exp(), uniform[..., k + 1]))
            left = left - counts[-1]
        return torch.stack([*counts, left], -1)

    def log_prob_given(self, counts: Tensor, c: Array | None = None) -> Tensor:
        """Return log p(n_1 .. n_K | N, c) in nats; see `Composition`."""
        total = torch.zeros(counts.shape[:-1], dtype=torch.float64, device=counts.device)
        left = _left(counts)
        for k in range(self.types - 1):
            before = torch.arange(self.types - 1, device=counts.device) < k
            earlier = torch.where(before, counts[..., :-1], 0)
            log_p = self._log_probabilities(earlier, left[..., k], k, c)
            total = total + log_p.gather(-1, counts[..., k, None])[..., 0]
        return total

    def _log_probabilities(self, earlier: Tensor, left: Tensor, k: int, c: Array | None) -> Tensor:
        """Return log p(n_k | ..) of every n_k, with shape `(*batch, max_objects + 1)`.

        Arguments:
            earlier: the numbers of the types before k, 0 for others, with shape
                `(*batch, types - 1)`.
            left: how many objects are of no earlier type, with shape `batch`.
            k: the type.
            c: the context, with shape `(*batch, condition_dim)`, or None if that is 0.
        """
        which = torch.zeros(self.types - 1, dtype=torch.float64, device=left.device)
        which[k] = 1
        earlier, some = earlier.double().log1p(), left.double().log1p()[..., None]
        seen = [which.expand(earlier.shape), earlier, some]
        if self.condition_dim:
            seen.append(as_tensor(c, "c").double())
        parameters = {name: value.double() for name, value in self.net.named_parameters()}
        strengths: Tensor = functional_call(self.net, parameters, torch.cat(seen, -1))
        p = self.table.double()[k, left]
        below = p.cumsum(-1) - p / 2
        j = torch.arange(1, strengths.shape[-1] + 1, device=p.device)
        waves = math.sqrt(2) * torch.cos(math.pi * j * below[..., None])
        logits = p.where(p > 0, 1).log() + (waves @ strengths[..., None])[..., 0]
        return logits.where(p > 0, -torch.inf).log_softmax(-1)


def _left(counts: Tensor) -> Tensor:
    """Return how many objects are of no earlier type, with the shape of the numbers of each."""
    return counts.flip(-1).cumsum(-1).flip(-1)


def _table(counts: Tensor, worth: Tensor, in_table: Tensor, max_objects: int) -> Tensor:
    """Return p(n_k | m) of a sample, smoothed, with shape `(types - 1, m, n)`, m and n from 0.

    Arguments:
        counts: compositions, with shape `(R, types)`.
        worth: how much each counts in the mean of n_k / m, float64 with shape `(R,)`.
        in_table: how much it counts in the frequencies, likewise.
        max_objects: the largest m.
    """
    size, left, tables = max_objects + 1, _left(counts), list[Tensor]()
    m = torch.arange(size, dtype=torch.float64, device=counts.device)[:, None]
    n = m.T
    ways = torch.lgamma(m + 1) - torch.lgamma(n + 1) - torch.lgamma((m - n).clamp(min=0) + 1)
    for k in range(counts.shape[-1] - 1):
        index = left[:, k] * size + counts[:, k]
        found = torch.bincount(index, in_table, size * size).clamp(min=0).reshape(size, size)
        objects, of_type = ((worth * each[:, k]).sum() for each in (left, counts))
        rate = (of_type / objects).clamp(0, 1) if objects > 0 else objects.clamp(min=0, max=0)
        chance = ways + torch.xlogy(n, rate) + torch.xlogy((m - n).clamp(min=0), 1 - rate)
        spread = torch.where(n <= m, chance.exp(), 0)
        spread = spread / spread.sum(-1, keepdim=True)
        tables.append((found + spread) / (found.sum(-1, keepdim=True) + 1))
    return torch.stack(tables) if tables else m.new_zeros(0, size, size)


def _discount(times: Tensor) -> Tensor:
    """Return how much less often each composition is taken to occur than it does, float64.

    Arguments:
        times: how often each occurs, from 1, with any shape.
    """
    of = torch.bincount(times.flatten(), minlength=5)[:5].double()
    share = (of[1] / (of[1] + 2 * of[2])).nan_to_num()
    often = torch.arange(1, 4, device=times.device)
    less = often - (often + 1) * share * of[2:] / of[1:4]
    less = torch.where(of[1:4] > 0, less, share).clamp(min=0).minimum(often)
    return less[times.clamp(max=3) - 1]


def _keys(counts: Tensor) -> Tensor:
    """Return a whole number for each composition; two that differ have different ones, likely."""
    factors = [derive(0, "composition", k) % 2**62 | 1 for k in range(counts.shape[-1])]
    return (counts * torch.tensor(factors, device=counts.device)).sum(-1)  # modulo 2^64
