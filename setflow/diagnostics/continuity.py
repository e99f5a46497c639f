"""Whether a velocity field jumps in x.

Notation. The velocity v is watched along a line through each event, x + s d with 0 <= s <= 1 and a
direction d. The change over an interval of s is the largest absolute difference of a coordinate of
v between its ends.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from setflow.diagnostics.events import (
    largest_of,
    left_as_it_was,
    occupied_events,
    refuse_coarse_dtypes,
    repeated,
    summary_of,
    velocity_of,
)
from setflow.sets.arrays import check_generator
from setflow.sets.context import Context

__all__ = ["continuity_error"]

_INTERVALS = 16  # of each line, searched side by side


def continuity_error(
    field: nn.Module,
    x: Tensor,
    t: Tensor | float,
    c: Context | None = None,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return by how much the velocity jumps along a random line through each event.

    A velocity that jumps in x, as that of a hard nearest-neighbour graph does where another object
    becomes the nearest, has no density: no divergence sees what a jump does to the probability, and
    the total of `exp(log_prob)` is not 1. Such a field declares `is_discontinuous = True`.

    Each line goes from an event to a point that is a normal number away in every coordinate (the
    size of the noise), and is cut into 16 intervals. Each interval is halved again and again,
    keeping the half over which the velocity changes more, until it is as short as rounding lets it
    be: 2e-12 of the line in float64, 6e-6 in float32. The change of a continuous velocity has then
    shrunk with the interval, to its slope times that length, and a jump is left as large as it is.
    In float64 the two are many orders of magnitude apart.

    A large error proves a jump. A small one proves none only along these lines: give a few tens of
    events, of different sizes and times.

    Arguments:
        field: the velocity field; draw its parameters anew if its gates start at zero.
        x: the states, with shape `(*lead, *event_shape)`; padded slots may hold anything.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        mask: which slots are real, with shape `(*lead, N)`; None means all. Events without objects
            are left out.
        generator: the random generator for the directions.

    Returns:
        `mean` and `max` over events of the largest change that is left on the event's line, each a
        scalar; infinite if a velocity is not finite.

    Raises:
        ValueError: if shapes do not fit, no event has a real object, or the dtype is neither
            float32 nor float64.

    >>> class Step(torch.nn.Module):
    ...     event_ndim = 1
    ...     def forward(self, x, t, c=None):
    ...         return torch.sign(x)
    >>> x = torch.randn(100, 1, dtype=torch.float64)
    >>> continuity_error(Step(), x, 0.5)["max"]
    tensor(2., dtype=torch.float64)
    >>> smooth = setflow.GaussianSetField(torch.zeros(2), torch.ones(2), coupling=2.0)
    >>> bool(continuity_error(smooth, x.reshape(10, 5, 2), 0.5)["max"] < 1e-9)
    True
    """
    events = occupied_events(field, x, t, c, mask)
    x = events.x
    refuse_coarse_dtypes(x)
    check_generator(generator)
    home = x.device if generator is None else generator.device
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=home).to(x.device)
    lines = repeated(events, _INTERVALS)

    def at(s: Tensor) -> Tensor:
        """Return the velocity on each line at `s`, which has shape `(intervals, *lead)`."""
        steps = s.reshape(s.shape + (1,) * events.event_ndim) * direction
        return velocity_of(field, replace(lines, x=lines.x + steps))

    def change(first: Tensor, last: Tensor) -> Tensor:
        return largest_of(last - first, lines)

    with left_as_it_was(field), torch.no_grad():
        length = 1 / _INTERVALS
        starts = torch.arange(_INTERVALS, device=x.device).to(x.dtype) * length
        low = starts.reshape(-1, *(1,) * len(events.lead)).expand(lines.lead)
        v_low, v_high = at(low), at(low + length)
        while length > torch.finfo(x.dtype).eps ** 0.75:
            length = length / 2
            v_middle = at(low + length)
            right = change(v_middle, v_high) > change(v_low, v_middle)
            chosen = right.reshape(right.shape + (1,) * events.event_ndim)
            low = torch.where(right, low + length, low)
            v_low = torch.where(chosen, v_middle, v_low)
            v_high = torch.where(chosen, v_high, v_middle)
        left = change(v_low, v_high).amax(0)
    return summary_of(left, events, "mean", "max")
