"""Shapes: which dimensions are events, and which are batch.

Every tensor is `sample_shape + batch_shape + event_shape`. `event_ndim` trailing dimensions form
one event; everything in front of them is the *lead* shape. A set of `N` objects with `D` features
has the event shape `(N, D)`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from setflow.sets.arrays import Array, as_tensor, shown
from setflow.sets.masks import is_at_hand, is_readable

__all__ = [
    "TensorSpec",
    "align_coefficient",
    "align_right",
    "align_time",
    "as_floating",
    "as_tuple",
    "check_sizes",
    "check_times",
    "event_numel",
    "expand_time",
    "flatten_event",
    "floating_dtype",
    "positive_integer",
    "split_event",
    "unflatten_event",
    "validate_shapes",
    "whole_number",
]

_LAYERS = 10_000  # the most of a field


def as_tuple(shape: Iterable[int] | int | None) -> tuple[int, ...]:
    """Return a shape given as an integer, an iterable or None (empty) as a tuple of integers.

    Raises:
        TypeError: if a size is no integer.
        ValueError: if a size is negative.

    >>> as_tuple(3), as_tuple([2, 3]), as_tuple(None)
    ((3,), (2, 3), ())
    """
    if shape is None:
        return ()
    try:
        sizes = tuple(map(operator.index, shape if isinstance(shape, Iterable) else (shape,)))
    except TypeError:
        sizes = None
    if sizes is None or isinstance(shape, bool):
        raise TypeError(
            f"a shape is {shape!r}, expected an integer of at least 0 or several of them, as in "
            "3 or (30, 3)"
        )
    if min(sizes, default=0) < 0:
        raise ValueError(f"sizes must not be negative but at least 0, got the shape {sizes}")
    return sizes


def floating_dtype(values: Tensor, field: nn.Module | None = None) -> torch.dtype:
    """Return the dtype in which data are computed with: their own if it is floating.

    Integers and booleans take that of the field's parameters, where there is a field that has some,
    else torch's default: a mean or a time in the dtype of an integer would be truncated.

    >>> floating_dtype(torch.tensor([1, 2])), floating_dtype(torch.zeros(2, dtype=torch.float64))
    (torch.float32, torch.float64)
    """
    if values.is_floating_point() or values.is_complex():
        return values.dtype
    own = () if field is None else (p.dtype for p in field.parameters() if p.is_floating_point())
    return next(iter(own), torch.get_default_dtype())


def as_floating(values: Tensor, field: nn.Module | None = None) -> Tensor:
    """Return data in the dtype in which they are computed with; see `floating_dtype`.

    >>> as_floating(torch.tensor([1, 2]))
    tensor([1., 2.])
    """
    return values.to(floating_dtype(values, field))


def positive_integer(value: Any, name: str) -> int:
    """Return a count, an integer of Python or NumPy, as an integer of Python.

    Arguments:
        value: the count.
        name: what it counts, for the error message.

    Raises:
        ValueError: if it is not a positive integer.

    >>> positive_integer(32, "steps")
    32
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {shown(value)}")
    return int(value)


def whole_number(value: Any, name: str, least: int = 0) -> int:
    """Return a whole number, of Python, NumPy or torch, as an integer of Python.

    Arguments:
        value: the number.
        name: what it is, for the error message.
        least: the smallest that will do.

    Raises:
        ValueError: if it is none, or too small.

    >>> whole_number(torch.tensor(3), "events")
    3
    """
    try:
        number = operator.index(value)
    except TypeError:  # 1000.0 and "1000" among them
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {shown(value)}")
    return number


def check_sizes(least: int = 1, **sizes: Any) -> None:
    """Raise unless all sizes are integers of Python or NumPy, none too small, and layers few.

    Arguments:
        least: the smallest size that will do.
        sizes: the sizes by name; each of `layers` is built, which no limit of memory cuts short.

    Raises:
        ValueError: if one is something else.

    >>> check_sizes(hidden=16, layers=2)
    """
    known = [n for n in sizes.values() if not isinstance(n, bool) and isinstance(n, Integral)]
    if len(known) == len(sizes) and min(map(int, known)) >= least:
        if (layers := sizes.get("layers", 0)) > _LAYERS:
            raise ValueError(f"layers is {shown(layers)}, expected at most {_LAYERS:,}")
        return
    kind = "positive integers" if least == 1 else f"integers of at least {least}"
    got = ", ".join(f"{name}={value!r}" for name, value in sizes.items())
    raise ValueError(f"sizes must be {kind}, got {got}")


def event_numel(event_shape: Iterable[int] | int | None) -> int:
    """Return the number of coordinates of one event.

    >>> event_numel((30, 3))
    90
    """
    return math.prod(as_tuple(event_shape))


def split_event(x: Tensor, event_ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split the shape of `x` into its lead shape and its event shape.

    Raises:
        ValueError: if `event_ndim` is negative or larger than `x.ndim`.

    >>> import torch
    >>> split_event(torch.zeros(8, 30, 3), event_ndim=2)
    ((8,), (30, 3))
    """
    if event_ndim < 0:
        raise ValueError(f"event_ndim must be at least 0, got {event_ndim}")
    if event_ndim > x.ndim:
        raise ValueError(
            f"event_ndim={event_ndim} needs a tensor with at least {event_ndim} dimensions, "
            f"got shape {tuple(x.shape)}"
        )
    cut = x.ndim - event_ndim
    return tuple(x.shape[:cut]), tuple(x.shape[cut:])


def check_accumulated(logp: Tensor, lead: tuple[int, ...]) -> None:
    """Raise unless `logp` holds one value per event, or several side by side.

    Raises:
        ValueError: if its shape is neither `lead` nor `(*lead, K)`.

    >>> check_accumulated(torch.zeros(4, 2), (4,))
    """
    if tuple(logp.shape[: len(lead)]) != lead or logp.ndim > len(lead) + 1:
        raise ValueError(
            f"logp0 has shape {tuple(logp.shape)}, expected {lead}: one log-density per event, or "
            f"{(*lead, 'K')} for K of them side by side"
        )


def flatten_event(x: Tensor, event_ndim: int) -> Tensor:
    """Collapse the event dimensions into one.

    >>> import torch
    >>> flatten_event(torch.zeros(2, 3, 4, 5), event_ndim=2).shape
    torch.Size([2, 3, 20])
    """
    lead, event = split_event(x, event_ndim)
    return x if event_ndim == 0 else x.reshape(*lead, event_numel(event))


def unflatten_event(x: Tensor, event_shape: Iterable[int] | int) -> Tensor:
    """Undo `flatten_event`: give the last dimension the shape `event_shape`.

    Raises:
        ValueError: if the last dimension does not hold `event_numel(event_shape)` coordinates.

    >>> import torch
    >>> unflatten_event(torch.zeros(2, 3, 20), event_shape=(4, 5)).shape
    torch.Size([2, 3, 4, 5])
    """
    event = as_tuple(event_shape)
    if not event:
        return x
    if x.ndim == 0 or x.shape[-1] != event_numel(event):
        raise ValueError(
            f"event_shape {event} needs a last dimension of {event_numel(event)}, "
            f"got shape {tuple(x.shape)}"
        )
    return x.reshape(*x.shape[:-1], *event)


def validate_shapes(
    tensor: Tensor,
    event_ndim: int,
    expected_event_shape: Iterable[int] | None = None,
    batch_shape: Iterable[int] | None = None,
) -> None:
    """Check the event shape and the lead shape of a tensor; nothing is broadcast.

    Raises:
        ValueError: if one of the given shapes is not exactly that of `tensor`.

    >>> import torch
    >>> x = torch.randn(2, 3, 4, 5)
    >>> validate_shapes(x, event_ndim=2, expected_event_shape=(4, 5), batch_shape=(2, 3))
    """
    lead, event = split_event(tensor, event_ndim)
    if expected_event_shape is not None and event != as_tuple(expected_event_shape):
        raise ValueError(
            f"event_shape mismatch: expected {as_tuple(expected_event_shape)}, got {event}"
        )
    if batch_shape is not None and lead != as_tuple(batch_shape):
        raise ValueError(f"batch_shape mismatch: expected {as_tuple(batch_shape)}, got {lead}")


@dataclass(frozen=True)
class TensorSpec:
    """What is known of a tensor before there is one: the shape of an event, and the dtype.

    Arguments:
        event_shape: the shape of one event, as a tuple, any other iterable, or an integer.
        dtype: the dtype; None leaves it open.

    Raises:
        ValueError: if a size is negative.

    >>> TensorSpec((30, 3)).numel
    90
    """

    event_shape: tuple[int, ...]
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_shape", as_tuple(self.event_shape))

    @property
    def event_ndim(self) -> int:
        """How many trailing dimensions form one event."""
        return len(self.event_shape)

    @property
    def numel(self) -> int:
        """The number of coordinates of one event."""
        return event_numel(self.event_shape)


def align_right(values: Tensor, ndim: int) -> Tensor:
    """Append dimensions of size one until `values`, of lead shape, meets tensors with `ndim`.

    >>> align_right(torch.zeros(8), 3).shape
    torch.Size([8, 1, 1])
    """
    return values.reshape(values.shape + (1,) * (ndim - values.ndim))


def align_time(t: Tensor, x: Tensor) -> Tensor:
    """Return `t` with dimensions of size one appended, so that it meets the events of `x`.

    Arguments:
        t: the time, a scalar tensor, one with the lead shape of `x`, or one aligned already.
        x: the state, with shape `(*lead, *event_shape)`. How many of its dimensions are lead
            dimensions is not known here: what knows `event_ndim` checks more.

    Raises:
        ValueError: if the shape of `t` is not that of the first dimensions of `x`.

    >>> align_time(torch.zeros(8), torch.zeros(8, 30, 3)).shape
    torch.Size([8, 1, 1])
    """
    lead = tuple(t.shape)
    if t.ndim == x.ndim:
        while lead and lead[-1] == 1:
            lead = lead[:-1]
    if lead != x.shape[: len(lead)]:
        raise ValueError(
            f"t has shape {tuple(t.shape)} and x {tuple(x.shape)}; expected a scalar t or the lead "
            f"shape of x: one time per event, for instance {tuple(x.shape[:1])}"
        )
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def align_coefficient(values: Tensor, t: Tensor, x: Tensor, name: str) -> Tensor:
    """Return a coefficient of time so shaped that it meets the events of `x`.

    Arguments:
        values: the coefficient at `t`, with the shape of `t`.
        t: the time, a scalar tensor or one with the lead shape of `x`.
        x: the state, with shape `(*lead, *event_shape)`.
        name: what the coefficient is called, for the error message.

    Raises:
        ValueError: if `values` is not one value per time, or `t` does not fit `x`.

    >>> align_coefficient(torch.ones(8), torch.zeros(8), torch.zeros(8, 30, 3), "alpha").shape
    torch.Size([8, 1, 1])
    """
    if values.shape != t.shape:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)} at t of shape {tuple(t.shape)}; expected one "
            "value per time"
        )
    return align_time(values, x)


def expand_time(t: Array | float, lead: tuple[int, ...], like: Tensor) -> Tensor:
    """Return `t` with exactly the shape `lead`, in the dtype and on the device of `like`.

    Arguments:
        t: a number, a scalar tensor, or a tensor with shape `lead`.
        lead: the shape in front of the event dimensions.
        like: the tensor whose dtype and device to take.

    Raises:
        ValueError: if `t` has any other shape.
    """
    if not isinstance(t, Tensor | float | int) or (isinstance(t, Tensor) and t.is_complex()):
        t = as_tensor(t, "t")
    if not isinstance(t, Tensor):
        return torch.full(lead, float(t), dtype=like.dtype, device=like.device)
    if t.ndim and tuple(t.shape) != lead:
        raise ValueError(
            f"t has shape {tuple(t.shape)}, expected a scalar or {lead}: one time per event"
        )
    return t.to(dtype=like.dtype, device=like.device).expand(lead)


def check_times(**times: Any) -> None:
    """Raise unless times, given by name, are numbers from 0 (data) to 1 (noise).

    The values of tensors are looked at where that costs nothing, on a CPU.

    Raises:
        TypeError: if one is no number, and no tensor of one.
        ValueError: if one lies outside [0, 1], or is NaN.

    >>> check_times(t0=1.0, t1=torch.tensor(0.0))
    """
    for name, time in times.items():
        single = time.ndim == 0 if isinstance(time, Tensor) else isinstance(time, Real)
        if not single:
            raise TypeError(
                f"{name} is {time!r}, expected one number, a time from 0 (data) to 1 (noise)"
            )
        seen = not isinstance(time, Tensor) or (is_at_hand(time) and is_readable(time))
        time = time.detach() if isinstance(time, Tensor) else time
        if seen and not 0 <= time <= 1:
            raise ValueError(
                f"{name} is {float(time):g}, expected a time from 0, where the data are, to 1, "
                "where the noise is"
            )
