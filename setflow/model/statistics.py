"""The statistics of a model from a sample that is not in memory at once, part by part.

`setflow.SetFlow.fit_statistics` takes a whole sample; here `statistics_of` says what is known of a
part of one, such parts add, and `take_statistics` gives the sum to the model. The result is that of
the whole sample, to rounding, in whatever parts it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from setflow.data.moments import Moments
from setflow.data.typed_scaling import TypedStandardizer
from setflow.distributions.cardinality import length_error, require_possible
from setflow.distributions.composition import Composition
from setflow.distributions.frequencies import Frequencies
from setflow.model.angles import check_uniform
from setflow.model.model import SetFlow
from setflow.model.stages import contexts_as_sets
from setflow.sets.batch import SetBatch
from setflow.sets.weights import in_words

__all__ = ["SampleStatistics", "statistics_of", "take_statistics"]

_STAGE = "stage."


@dataclass(frozen=True)
class SampleStatistics:
    """What is known of a part of a training sample; parts add.

    Attributes:
        objects: the moments of the features of real objects, transformed as their kinds say, of
            each type of objects; without types of all.
        context: those of the conditions that are numbers on a line.
        ends: the smallest and the largest value of each condition, with shape `(2, C)`.
        counts: how often events have so many objects of each type, or so many objects.
        weighted: whether the events have weights.
        stage: those of the context model, whose events are the contexts; None without one.
    """

    objects: tuple[Moments, ...]
    context: Moments
    ends: Tensor
    counts: Frequencies
    weighted: bool
    stage: SampleStatistics | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def lengths(self) -> Tensor:
        """The numbers of objects that occur, each once."""
        return self.counts.numbers

    @property
    def c(self) -> Tensor | None:
        """Two contexts that span the range of all; None without conditions."""
        return self.ends if self.ends.shape[1] else None

    @property
    def negative(self) -> str | None:
        """How many weights are negative, in words; None if none is."""
        negative = int(self.counts.sums[4].sum())
        return in_words(negative, len(self)) if negative else None

    def __add__(self, other: SampleStatistics) -> SampleStatistics:
        low = torch.minimum(self.ends[0], other.ends[0])
        high = torch.maximum(self.ends[1], other.ends[1])
        stage = None
        if self.stage is not None and other.stage is not None:
            stage = self.stage + other.stage
        return SampleStatistics(
            tuple(a + b for a, b in zip(self.objects, other.objects, strict=True)),
            self.context + other.context,
            torch.stack([low, high]),
            self.counts + other.counts,
            self.weighted,
            stage,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the numbers by their names, for a file."""
        parts = {f"objects.{k}": part.tensors() for k, part in enumerate(self.objects)}
        parts |= {"context": self.context.tensors(), "counts": self.counts.tensors()}
        told = {
            f"{part}.{name}": value
            for part, numbers in parts.items()
            for name, value in numbers.items()
        }
        if self.stage is not None:
            told |= {f"{_STAGE}{name}": value for name, value in self.stage.tensors().items()}
        return told | {"ends": self.ends, "weighted": torch.tensor(float(self.weighted))}

    @classmethod
    def from_tensors(cls, told: Mapping[str, Tensor]) -> SampleStatistics:
        """Return what `tensors` has told."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in told.items():
            part, _, entry = name.rpartition(".")
            parts.setdefault(part, {})[entry] = value
        stage = {name.removeprefix(_STAGE): told[name] for name in told if name.startswith(_STAGE)}
        types = sum(part.startswith("objects.") for part in parts)
        return cls(
            tuple(Moments(**parts[f"objects.{k}"]) for k in range(types)),
            Moments(**parts["context"]),
            told["ends"],
            Frequencies.from_tensors(parts["counts"]),
            weighted=bool(told["weighted"]),
            stage=cls.from_tensors(stage) if stage else None,
        )


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
    weight = batch.weight
    found = flow.scaler.moments(batch.x, batch.mask, weight)
    objects = (found,) if isinstance(found, Moments) else found
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
    counts = batch.lengths[:, None]
    if flow.types is not None:
        counts = flow.types.counts_of(batch.x, batch.mask)
    frequencies = Frequencies.of(counts, weight)
    stage = None
    if flow.context_model is not None and batch.c is not None:
        stage = statistics_of(flow.context_model, contexts_as_sets(flow, batch.c, weight))
    return SampleStatistics(objects, context, ends, frequencies, weight is not None, stage)


def take_statistics(flow: SetFlow, sample: SampleStatistics) -> SetFlow:
    """Fit the parts of a model that have no statistics to those of a sample; return the model.

    Arguments:
        flow: the model.
        sample: the sum of `statistics_of` over the parts of the sample.

    Raises:
        ValueError: as `SetFlow.fit_statistics`.
    """
    told: dict[str, Any] = {"weighted": sample.weighted, "negative": sample.negative}
    trained = flow.scaler.is_fitted and not flow.scaler.given
    if not flow.scaler.is_fitted:
        if isinstance(flow.scaler, TypedStandardizer):
            flow.scaler.fit_moments(sample.objects, **told)
        else:
            flow.scaler.fit_moments(*sample.objects, **told)
    if flow.context_scaler is not None and not flow.context_scaler.is_fitted:
        flow.context_scaler.fit_moments(sample.context, **told)
    check_uniform(flow)
    if flow.context_encoder is not None and not (trained or flow.context_encoder.knows_range):
        flow.context_encoder.learn_range(sample.ends)
    if flow.context_model is not None and sample.stage is not None:
        take_statistics(flow.context_model, sample.stage)
    cardinality = flow.cardinality
    if cardinality is None:
        return flow
    lengths = sample.lengths
    if int(lengths.max()) > cardinality.max_objects:
        raise length_error(int(lengths.min()), int(lengths.max()), cardinality.max_objects)
    if not cardinality.is_fitted:
        counts = _counts(sample, cardinality.max_objects)
        if isinstance(cardinality, Composition):
            cardinality.fit_frequencies(sample.counts, counts)
        else:
            cardinality.fit_counts(counts)
    return flow


def _counts(sample: SampleStatistics, max_objects: int) -> Tensor:
    """Return how often each N occurs; weighted events sum to their effective number."""
    numbers, shares, squares, sizes, _ = sample.counts.of_numbers(max_objects).unbind(0)
    if not sample.weighted:
        return numbers
    total = shares.sum()
    negative = in_words(int(sample.counts.sums[4].sum()), len(sample))
    require_possible(shares / total, sizes / total, numbers, negative)
    return shares * (total / squares.sum())
