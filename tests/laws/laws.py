"""The laws of the mask, one test body each, for any verb, field, base or metric.

A *subject* is a function from a `Case` to an `Outcome`: values per event (shape `lead`), values per
slot (shape `(*lead, N, ...)`), and gradients with respect to parameters, which belong to the whole
batch. A law runs the subject on a case and on a changed case and compares; it raises AssertionError
if the subject breaks it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

GARBAGE = (float("nan"), float("inf"), 1e30)


@dataclass(frozen=True)
class Case:
    """Sets with a mask: data, noise, times, and context per event and per object."""

    x: Tensor  # (*lead, N, ...)
    x_source: Tensor  # (*lead, N, ...)
    mask: Tensor | None  # (*lead, N)
    t: Tensor  # lead
    c: Tensor | None = None  # (*lead, C)
    c_object: Tensor | None = None  # (*lead, N, C)
    present: Tensor | None = None  # (*lead, N, ...): which features an object has

    @property
    def object_dim(self) -> int:
        return self.t.ndim

    def per_slot(self, change: Callable[[Tensor], Tensor]) -> Case:
        """Change everything that has an object dimension."""
        return replace(
            self,
            x=change(self.x),
            x_source=change(self.x_source),
            mask=None if self.mask is None else change(self.mask),
            c_object=None if self.c_object is None else change(self.c_object),
            present=None if self.present is None else change(self.present),
        )

    def event(self, index: tuple[int, ...]) -> Case:
        """One event, with a lead shape of ones."""
        ones = (1,) * self.t.ndim

        def pick(value: Tensor | None) -> Tensor | None:
            if value is None:
                return None
            return value[index].reshape(ones + value.shape[self.t.ndim :])

        return Case(*(pick(getattr(self, name)) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Outcome:
    per_event: dict[str, Tensor] = field(default_factory=dict)
    per_slot: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


Subject = Callable[[Case], Outcome]


def tolerance(value: Tensor) -> float:
    return 1e-10 if value.dtype == torch.float64 else 1e-5


def assert_same(got: Tensor, expected: Tensor, what: str) -> None:
    """Both finite, of one shape, and equal relative to max(1, |expected|)."""
    assert got.shape == expected.shape, f"{what}: {tuple(got.shape)} != {tuple(expected.shape)}"
    assert bool(got.isfinite().all()), f"{what}: not finite"
    assert bool(expected.isfinite().all()), f"{what}: not finite"
    error = (got - expected).abs() / expected.abs().clamp(min=1)
    worst = error.max().item() if error.numel() else 0.0
    assert worst <= tolerance(expected), f"{what}: differs by {worst:.2e}"


def assert_same_outcome(got: Outcome, expected: Outcome, *, gradients: bool = True) -> None:
    kinds = ("per_event", "per_slot", "gradients") if gradients else ("per_event", "per_slot")
    for kind in kinds:
        mine, theirs = getattr(got, kind), getattr(expected, kind)
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert_same(mine[name], theirs[name], name)


def padding_filled(case: Case, garbage: float) -> Case:
    assert case.mask is not None
    hidden = ~case.mask

    def fill(value: Tensor) -> Tensor:
        if value.dtype == torch.bool:
            return value
        return value.masked_fill(
            hidden.reshape(hidden.shape + (1,) * (value.ndim - hidden.ndim)), garbage
        )

    filled = case.per_slot(fill)
    if case.present is None:
        return filled
    x, x_source = (v.masked_fill(~case.present, garbage) for v in (filled.x, filled.x_source))
    return replace(filled, x=x, x_source=x_source)


# --- the seven laws ---


def law_content(subject: Subject, case: Case) -> None:
    """What stands in a padded slot or an absent feature cannot matter."""
    assert case.mask is not None
    assert not bool(case.mask.all()), "the law needs padding to bite on"
    expected = subject(padding_filled(case, 0.0))
    for garbage in GARBAGE:
        assert_same_outcome(subject(padding_filled(case, garbage)), expected)


def law_length(subject: Subject, case: Case, longer: int = 23) -> None:
    """More padding cannot matter, wherever it stands."""
    dim, slots = case.object_dim, case.x.shape[case.object_dim]
    expected = subject(case)

    def longer_by(front: int, back: int, value: Tensor) -> Tensor:
        def block(size: int) -> Tensor:
            shape = (*value.shape[:dim], size, *value.shape[dim + 1 :])
            return torch.full(shape, False if value.dtype == torch.bool else 7.0).to(value)

        return torch.cat([block(front), value, block(back)], dim)

    for front, back in ((0, longer), (2, longer)):
        got = subject(case.per_slot(functools.partial(longer_by, front, back)))
        for name, value in got.per_slot.items():
            inner = value.narrow(dim, front, slots)
            assert_same(inner, expected.per_slot[name], name)
            ends = [value.narrow(dim, 0, front), value.narrow(dim, front + slots, back)]
            assert all(bool((end == 0).all()) for end in ends), f"{name}: not 0 in new padding"
        assert_same_outcome(replace(got, per_slot={}), replace(expected, per_slot={}))


def law_order(subject: Subject, case: Case) -> None:
    """Permuting objects and mask together permutes values per slot and leaves the others."""
    dim = case.object_dim
    order = torch.randperm(case.x.shape[dim], generator=torch.Generator().manual_seed(5))
    order = order.to(case.x.device)
    expected = subject(case)
    got = subject(case.per_slot(lambda value: value.index_select(dim, order)))
    permuted = {name: v.index_select(dim, order) for name, v in expected.per_slot.items()}
    assert_same_outcome(got, replace(expected, per_slot=permuted))


def law_agreement(subject: Subject, case: Case) -> None:
    """An all-real mask gives what no mask gives."""
    full = replace(
        case,
        mask=torch.ones(case.x.shape[: case.object_dim + 1], dtype=torch.bool).to(case.x.device),
    )
    assert_same_outcome(subject(full), subject(replace(case, mask=None)))


def law_emptiness(subject: Subject, case: Case) -> None:
    """An event without objects gives 0, never NaN, alone and in company, also in gradients."""
    assert case.mask is not None
    empty = ~case.mask.any(-1)
    assert bool(empty.any()), "the law needs an empty event"
    outcome = subject(case)
    for name, value in outcome.gradients.items():
        assert bool(value.isfinite().all()), f"gradient of {name}: not finite"
    for name, value in (outcome.per_event | outcome.per_slot).items():
        assert bool(value.isfinite().all()), f"{name}: not finite"
        assert value[empty].abs().sum().item() == 0, f"{name}: not 0 for an empty event"
    alone = subject(replace(case, mask=torch.zeros_like(case.mask)))
    for name, value in (alone.per_event | alone.per_slot | alone.gradients).items():
        assert bool(value.isfinite().all()), f"{name}: not finite without any object"


def law_company(subject: Subject, case: Case) -> None:
    """What else is in the batch cannot matter."""
    expected = subject(case)
    for key in itertools.product(*(range(size) for size in case.t.shape)):
        alone = subject(case.event(key))
        for kind in ("per_event", "per_slot"):
            for name, value in getattr(alone, kind).items():
                theirs = getattr(expected, kind)[name][key]
                assert_same(value.reshape(theirs.shape), theirs, f"{name} of event {key}")


def law_same(verb_of: Callable[[nn.Module], Subject], case: Case) -> None:
    """A field sees zeros in the padding at every call, and its own padding goes nowhere."""
    assert case.mask is not None
    probe = PaddingProbe()
    outcome = verb_of(probe)(padding_filled(case, float("nan")))
    assert probe.seen, "the verb never called the field"
    assert all(bool((padding == 0).all()) for padding in probe.seen)
    for name, value in (outcome.per_event | outcome.per_slot).items():
        assert bool(value.isfinite().all()), f"{name}: the padded velocity leaked"


class PaddingProbe(nn.Module):
    """Records the padding it is given and answers with NaN in every padded slot."""

    event_ndim = 2
    takes_mask = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None, *, mask: Tensor) -> Tensor:
        self.seen.append(x.detach()[~mask])
        return (self.weight * x).masked_fill(~mask[..., None], float("nan"))


LAWS = {
    "content": law_content,
    "length": law_length,
    "order": law_order,
    "agreement": law_agreement,
    "emptiness": law_emptiness,
    "company": law_company,
}


# --- cases ---

SLOTS = 7


def masks() -> dict[str, Tensor]:
    """Masks with lead shapes of 0, 1 and 2 dimensions."""
    batch = torch.tensor(
        [
            [0, 1, 1, 0, 1, 0, 1],  # padded first slot, holes
            [1, 1, 1, 1, 1, 1, 1],  # full
            [0, 0, 0, 0, 0, 0, 0],  # empty
            [0, 0, 0, 1, 0, 0, 0],  # one object
            [1, 1, 1, 0, 0, 0, 0],  # as a padded file has it
            [0, 0, 0, 0, 1, 1, 1],
        ],
        dtype=torch.bool,
    )
    return {"lead0": batch[0], "lead1": batch, "lead2": batch.reshape(2, 3, SLOTS)}


def cases(
    features: tuple[int, ...] = (3,),
    *,
    context: int = 0,
    object_context: int = 0,
    absent: bool = False,
) -> Iterator[tuple[str, Case]]:
    generator = torch.Generator().manual_seed(11)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for name, mask in masks().items():
        lead = mask.shape[:-1]
        yield (
            name,
            Case(
                x=normal(*mask.shape, *features),
                x_source=normal(*mask.shape, *features),
                mask=mask,
                t=torch.rand(lead, generator=generator),
                c=normal(*lead, context) if context else None,
                c_object=normal(*mask.shape, object_context) if object_context else None,
                present=normal(*mask.shape, *features) > -0.3 if absent else None,
            ),
        )


def to_device(case: Case, device: torch.device) -> Case:
    return Case(
        *(
            None if value is None else value.to(device)
            for value in (getattr(case, name) for name in Case.__dataclass_fields__)
        )
    )


def redraw(module: nn.Module, seed: int = 3) -> nn.Module:
    """Draw every parameter anew: a field whose gates start at zero would pass anything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return module
