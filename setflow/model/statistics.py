"""The statistics of a model from a sample that is not in memory at once, part by part.

`setflow.SetFlow.fit_statistics` takes a whole sample; here `statistics_of` says what is known of a
part of one, such parts add, and `take_statistics` gives the sum to the model. The result is that of
the whole sample, to rounding, in whatever parts it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from setflow.data.moments import Moments
from setflow.distributions.cardinality import length_error, require_possible
from setflow.model.angles import check_uniform
from setflow.model.model import SetFlow
from setflow.sets.batch import SetBatch
from setflow.sets.weights import in_words

__all__ = ["SampleStatistics", "statistics_of", "take_statistics"]


@dataclass(frozen=True)
class SampleStatistics:
    """What is known of a part of a training sample; parts add.

    Attributes:
        objects: the moments of the features of real objects, transformed as their kinds say.
        context: those of the conditions that are numbers on a line.
        ends: the smallest and the largest value of each condition, with shape `(2, C)`.
        counts: for each number of objects from 0, of its events: the number, the sum of the
            weights, and that of their absolute values, with shape `(3, N + 1)`.
        weight: the sums of the weights of the events and of their squares, and how many are
            negative, with shape `(3,)`.
        weighted: whether the events have weights.
    """

    objects: Moments
    context: Moments
    ends: Tensor
    counts: Tensor
    weight: Tensor
    weighted: bool

    def __len__(self) -> int:
        return int(self.counts[0].sum())

    @property
    def lengths(self) -> Tensor:
        """The numbers of objects that occur, each once."""
        return self.counts[0].nonzero()[:, 0]

    @property
    def c(self) -> Tensor | None:
        """Two contexts that span the range of all; None without conditions."""
        return self.ends if self.ends.shape[1] else None

    @property
    def negative(self) -> str:
        """How many weights are negative, in words."""
        return in_words(int(self.weight[2]), len(self))

    def __add__(self, other: SampleStatistics) -> SampleStatistics:
        longest = max(self.counts.shape[1], other.counts.shape[1])
        counts = [
            torch.nn.functional.pad(one.counts, (0, longest - one.counts.shape[1]))
            for one in (self, other)
        ]
        low = torch.minimum(self.ends[0], other.ends[0])
        high = torch.maximum(self.ends[1], other.ends[1])
        return SampleStatistics(
            self.objects + other.objects,
            self.context + other.context,
            torch.stack([low, high]),
            counts[0] + counts[1],
            self.weight + other.weight,
            self.weighted,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the numbers by their names, for a file."""
        parts = {"objects": self.objects, "context": self.context}
        told = {
            f"{part}.{name}": value
            for part, moments in parts.items()
            for name, value in moments.tensors().items()
        }
        told |= {"ends": self.ends, "counts": self.counts, "weight": self.weight}
        return told | {"weighted": torch.tensor(float(self.weighted))}

    @classmethod
    def from_tensors(cls, told: Mapping[str, Tensor]) -> SampleStatistics:
        """Return what `tensors` has told."""
        parts: dict[str, dict[str, Tensor]] = {"objects": {}, "context": {}}
        for name, value in told.items():
            part, _, field = name.partition(".")
            if part in parts:
                parts[part][field] = value
        moments = (Moments(**parts["objects"]), Moments(**parts["context"]))
        rest = (told["ends"], told["counts"], told["weight"])
        return cls(*moments, *rest, weighted=bool(told["weighted"]))


def statistics_of(flow: SetFlow, batch: SetBatch) -> SampleStatistics:
    """Return what the statistics of a model need of a part of a training sample.

    Arguments:
        flow: the model, of which the kinds of features and conditions are asked.
        batch: physical events, with contexts if the model has conditions; they may have weights.

    Raises:
        ValueError: if they do not fit the model.

    >>> flow = SetFlow(setflow.TransformerField(3, hidden=16, layers=1, heads=2))
    >>> parts = [setflow.SetBatch(torch.randn(10, 5, 3)) for _ in range(2)]
    >>> len(statistics_of(flow, parts[0]) + statistics_of(flow, parts[1]))
    20
    """
    weight, lengths = batch.weight, batch.lengths.cpu()
    objects = flow.scaler.moments(batch.x, batch.mask, weight)
    context, ends = Moments.none(0), torch.zeros(2, 0, dtype=torch.float64)
    if flow.context_encoder is not None:
        c = batch.c
        if c is None:
            raise ValueError(
                f"the model is conditioned on {', '.join(flow.conditions)}, and the events have no "
                "context"
            )
        if flow.context_scaler is not None:
            scaled = flow.context_encoder.scaled
            context = flow.context_scaler.moments(c[:, None, scaled], weight=weight)
        ends = flow.context_encoder.ends(c)
    each = torch.ones(len(batch), dtype=torch.float64) if weight is None else weight.cpu().double()
    counts = [
        torch.bincount(lengths, values, minlength=1).double()
        for values in (torch.ones_like(each), each, each.abs())
    ]
    sums = torch.stack([each.sum(), (each**2).sum(), (each < 0).sum().double()])
    return SampleStatistics(objects, context, ends, torch.stack(counts), sums, weight is not None)


def take_statistics(flow: SetFlow, sample: SampleStatistics) -> SetFlow:
    """Fit the parts of a model that have no statistics to those of a sample; return the model.

    Arguments:
        flow: the model.
        sample: the sum of `statistics_of` over the parts of the sample.

    Raises:
        ValueError: as `SetFlow.fit_statistics`.
    """
    negative = sample.negative if sample.weight[2] else None
    scalers = ((flow.scaler, sample.objects), (flow.context_scaler, sample.context))
    trained = flow.scaler.is_fitted and not flow.scaler.given
    for scaler, moments in scalers:
        if scaler is not None and not scaler.is_fitted:
            scaler.fit_moments(moments, weighted=sample.weighted, negative=negative)
    check_uniform(flow)
    if flow.context_encoder is not None and not (trained or flow.context_encoder.knows_range):
        flow.context_encoder.learn_range(sample.ends)
    cardinality = flow.cardinality
    if cardinality is None:
        return flow
    longest = sample.counts.shape[1] - 1
    if longest > cardinality.max_objects:
        raise length_error(int(sample.lengths.min()), longest, cardinality.max_objects)
    if not cardinality.is_fitted:
        cardinality.fit_counts(_counts(sample, cardinality.max_objects))
    return flow


def _counts(sample: SampleStatistics, max_objects: int) -> Tensor:
    """Return how often each N occurs; weighted events sum to their effective number."""
    missing = max_objects + 1 - sample.counts.shape[1]
    numbers, shares, sizes = torch.nn.functional.pad(sample.counts, (0, missing)).unbind(0)
    if not sample.weighted:
        return numbers
    total, squares, _ = sample.weight.unbind(0)
    require_possible(shares / total, sizes / total, numbers, sample.negative)
    return shares * (total / squares)
