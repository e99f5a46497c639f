"""Time densities, shifts and weights: where on the path a field is trained, and how much it counts.

Notation. t = 0 is data and t = 1 is noise; sigma is the noise level, which on the linear path is t
itself. L is the number of real objects of an event. A training time is made in up to three steps:

- a density draws t on [0, 1]: uniform, logit-normal or mode;
- a shift moves it, sigma = m t / (1 + (m - 1) t), by an m > 0 that may depend on L: m > 1 moves
  times towards the noise, m < 1 towards the data, m = 1 leaves them;
- a weight multiplies the loss at sigma: 1 + shift * sigma.

The minimiser of the loss at each time depends on neither density nor weight, but what a network of
finite size learns in finite training does. `TimeSampling` holds all three in one object.

Densities and shift are those of Esser et al., "Scaling Rectified Flow Transformers for
High-Resolution Image Synthesis" (arXiv:2403.03206).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from setflow.sets.arrays import Array, as_tensor, check_generator, shown
from setflow.sets.events import Events
from setflow.sets.masks import is_at_hand, is_readable
from setflow.sets.shapes import check_times, expand_time

__all__ = [
    "Density",
    "ShiftType",
    "TimeSampling",
    "compute_density_for_timestep_sampling",
    "get_flow_match_loss_weight",
    "time_shift",
    "times_of",
]

Density = Literal["uniform", "logit_normal", "mode"]
ShiftType = Literal["constant", "linear", "sqrt"]

# where the highest time, at u = asin(2 (1 + s) / (pi s)) / pi before the end, is 1
_LARGEST_MODE_SCALE = 7.23500773792828
_LARGEST_SHIFT = 1e35  # finite in float32; times are 0 or 1 long before


class TimeSampling:
    """A time density with its shift and its weight, as one object that a configuration can name.

    Arguments:
        density: how t is drawn: `uniform`, `logit_normal` or `mode`
            (`compute_density_for_timestep_sampling`).
        logit_mean: the mean of logit t, for `logit_normal`.
        logit_std: the standard deviation of logit t, for `logit_normal`.
        mode_scale: the scale of `mode`, between -1 and 7.2350.
        shift_type: how t is shifted: `constant`, `linear` or `sqrt` (`time_shift`); None leaves it.
        base_shift: log m at L = `base_len`, for `linear`.
        max_shift: log m at L = `max_len`, for `linear`.
        constant: m, for `constant`.
        base_len: the L at which log m is `base_shift`, for `linear`.
        max_len: the L at which log m is `max_shift`, for `linear`.
        sqrt_len: the L at which m is 3, for `sqrt`.
        weight_shift: the loss at t weighs 1 + weight_shift * t; None gives every time the weight 1.

    Raises:
        ValueError: if a name is unknown or a number is out of its range.

    >>> times = TimeSampling(shift_type="linear", base_len=0, max_len=150, weight_shift=3.0)
    >>> t = times.sample((4,), lengths=torch.tensor([0, 10, 80, 150]))
    >>> t.shape, times.weight(torch.tensor([0.0, 0.5]))
    (torch.Size([4]), tensor([1.0000, 2.5000]))
    """

    def __init__(
        self,
        density: Density = "uniform",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        mode_scale: float = 1.29,
        shift_type: ShiftType | None = None,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        constant: float = 3.0,
        base_len: int = 0,
        max_len: int = 4096,
        sqrt_len: int = 16384,
        weight_shift: float | None = None,
    ) -> None:
        _check_density(density, logit_mean, logit_std, mode_scale)
        if shift_type is not None:
            check_name("shift_type", shift_type, ShiftType)
        _check_shift(base_shift, max_shift, constant, base_len, max_len, sqrt_len)
        if weight_shift is not None:
            _check_weight("weight_shift", weight_shift)
        self.density: Density = density
        self.logit_mean = logit_mean
        self.logit_std = logit_std
        self.mode_scale = mode_scale
        self.shift_type: ShiftType | None = shift_type
        self.base_shift = base_shift
        self.max_shift = max_shift
        self.constant = constant
        self.base_len = base_len
        self.max_len = max_len
        self.sqrt_len = sqrt_len
        self.weight_shift = weight_shift

    def __repr__(self) -> str:
        return (
            f"TimeSampling(density={self.density!r}, shift_type={self.shift_type!r}, "
            f"weight_shift={self.weight_shift!r})"
        )

    def sample(
        self,
        lead: Iterable[int] | int = (),
        *,
        lengths: Tensor | int | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw one time per event; the shift of an event depends on its own length only.

        Arguments:
            lead: the shape of the result, one entry per event.
            lengths: the number of real objects, an integer or a tensor with shape `lead`; needed by
                the shifts `linear` and `sqrt`, which depend on it, and without effect otherwise.
            generator: the random generator.
            device: where to draw; None takes the device of `lengths`, or torch's default.
            dtype: the floating dtype to draw; None takes torch's default.

        Returns:
            Times in [0, 1], with shape `lead`.

        Raises:
            ValueError: if the shift needs lengths and there are none, or they do not fit.
        """
        if generator is not None:
            check_generator(generator)
        if device is None and isinstance(lengths, Tensor):
            device = lengths.device
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            checked_dtype(dtype)
        draw = torch.randn if self.density == "logit_normal" else torch.rand
        wide = torch.promote_types(dtype, torch.float32)  # bfloat16 has only 257 values k / 256
        shape = (lead,) if isinstance(lead, int) else tuple(lead)
        drawn = draw(shape, generator=generator, device=device, dtype=wide)
        return self._times(drawn, dtype, lengths)

    def from_uniform(self, u: Array, *, lengths: Tensor | int | None = None) -> Tensor:
        """Return the times that belong to uniform numbers, whose law is that of `sample`.

        Arguments:
            u: uniform numbers in (0, 1), one per event, of any shape.
            lengths: the number of real objects, an integer or a tensor with the shape of `u`; see
                `sample`.

        Returns:
            Times in [0, 1], with shape and dtype of `u`.

        Raises:
            ValueError: if the shift needs lengths and there are none, or they do not fit.

        >>> u = torch.tensor([0.1, 0.5, 0.9])
        >>> TimeSampling("logit_normal").from_uniform(u)
        tensor([0.2173, 0.5000, 0.7827])
        """
        u = as_tensor(u, "u")
        drawn = torch.special.ndtri(u) if self.density == "logit_normal" else u
        return self._times(drawn, u.dtype, lengths)

    def _times(self, drawn: Tensor, dtype: torch.dtype, lengths: Tensor | int | None) -> Tensor:
        """Return the times of normal numbers for `logit_normal`, of uniform ones otherwise."""
        if lengths is None and self.shift_type in ("linear", "sqrt"):
            raise ValueError(
                f"shift_type={self.shift_type!r} depends on the number of real objects, got "
                "lengths=None; expected lengths=mask.sum(-1), one integer per event"
            )
        t = drawn
        if self.density == "logit_normal":
            t = torch.sigmoid(self.logit_mean + self.logit_std * drawn)
        elif self.density == "mode":
            rest = 1 - drawn
            bump = rest - torch.cos(0.5 * math.pi * drawn) ** 2
            t = (rest + self.mode_scale * bump).clamp(0, 1)  # by round-off only
        t = t.to(dtype)
        if self.shift_type is None:
            return t
        return time_shift(
            t,
            0 if lengths is None else lengths,
            self.shift_type,
            self.base_shift,
            self.max_shift,
            self.constant,
            base_len=self.base_len,
            max_len=self.max_len,
            sqrt_len=self.sqrt_len,
        )

    def weight(self, t: Array) -> Tensor:
        """Return the weight of the loss at the (shifted) times `t`, with the shape of `t`."""
        t = as_tensor(t, "t")
        if self.weight_shift is None:
            return torch.ones_like(t)
        return get_flow_match_loss_weight(t, self.weight_shift)


def times_of(
    events: Events,
    t: Array | float | None,
    sampling: TimeSampling | None,
    generator: torch.Generator | None,
    *,
    within: tuple[float, float] = (0.0, 1.0),
) -> tuple[Tensor, Tensor | None]:
    """Return one time per event, those given or drawn, and the weights of their losses.

    Arguments:
        events: the events.
        t: times, a number or a tensor with shape `lead`; None draws them.
        sampling: the density of the times and their weight; None is uniform, without a weight.
        generator: the random generator.
        within: the times between which those drawn are mapped.

    Returns:
        The times, with shape `lead`, and the weights, of the same shape, or None.

    Raises:
        TypeError: if `sampling` or `generator` is no such object.
        ValueError: if `t` has another shape or, where looking at it costs nothing, on a CPU, lies
            outside [0, 1].
    """
    if generator is not None:
        check_generator(generator)
    if sampling is not None and not isinstance(sampling, TimeSampling):
        raise TypeError(
            f"times is {shown(sampling)}, expected an object such as "
            'setflow.TimeSampling("logit_normal"); the times themselves are given as t='
        )
    if t is not None:
        if isinstance(t, Real):
            check_times(t=t)
        t = expand_time(t, events.lead, like=events.x)
        seen = is_at_hand(t) and is_readable(t)
        if seen and not bool(((t >= 0) & (t <= 1)).all()):
            bad = t[~((t >= 0) & (t <= 1))][0].item()
            raise ValueError(
                f"t holds {bad:g}, expected times from 0, where the data are, to 1, where the "
                "noise is"
            )
    else:
        density = _UNIFORM if sampling is None else sampling
        t = density.sample(
            events.x.shape[: events.x.ndim - events.event_ndim],
            lengths=None if density.shift_type is None else events.lengths,
            generator=generator, dtype=events.x.dtype, device=events.x.device,
        )  # fmt: skip
        low, high = within
        t = t if within == (0.0, 1.0) else low + (high - low) * t
    return t, None if sampling is None else sampling.weight(t)


def compute_density_for_timestep_sampling(
    weighting_scheme: Density,
    batch_size: int,
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    mode_scale: float = 1.29,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw times on [0, 1] from one of the densities of Esser et al. (arXiv:2403.03206).

    With u uniform and z standard normal, `uniform` gives u; `logit_normal` gives
    sigmoid(logit_mean + logit_std z); `mode` gives 1 - u - s (cos^2(pi u / 2) - 1 + u) with
    s = `mode_scale`, which favours the middle for s > 0 and the ends for s < 0. Above
    s = 2 / (pi - 2) = 1.75 it no longer falls everywhere as u rises: up to three u give the same
    time, whose density is the sum of theirs, with a peak (an integrable root) where the map turns.

    Arguments:
        weighting_scheme: the density: `uniform`, `logit_normal` or `mode`.
        batch_size: how many times to draw.
        logit_mean: the mean of logit t.
        logit_std: the standard deviation of logit t, positive.
        mode_scale: s, between -1 and 7.2350; beyond, times would leave [0, 1].
        generator: the random generator.
        device: where to draw; None takes torch's default.
        dtype: the floating dtype; None takes torch's default.

    Returns:
        Times in [0, 1], with shape `(batch_size,)`.

    Raises:
        ValueError: if the density is unknown or a number is out of its range.

    >>> compute_density_for_timestep_sampling("mode", 8).shape
    torch.Size([8])
    """
    density = TimeSampling(weighting_scheme, logit_mean, logit_std, mode_scale)
    count = checked_count("batch_size", batch_size)
    return density.sample(count, generator=generator, device=device, dtype=dtype)


def get_flow_match_loss_weight(sigma: Tensor, shift: float = 3.0) -> Tensor:
    """Return the weight 1 + shift * sigma of the loss at the noise level `sigma`.

    Arguments:
        sigma: noise levels in [0, 1], of any shape.
        shift: how much more the noise end weighs than the data end, at least -1.

    Returns:
        The weights, with the shape of `sigma`.

    Raises:
        ValueError: if `shift` is below -1, where weights would be negative.

    >>> get_flow_match_loss_weight(torch.tensor([0.0, 0.5, 1.0]))
    tensor([1.0000, 2.5000, 4.0000])
    """
    _check_weight("shift", shift)
    return 1 + shift * sigma


def time_shift(
    t: Tensor,
    image_seq_len: Tensor | int,
    shift_type: ShiftType = "constant",
    base_shift: float = 0.5,
    max_shift: float = 1.15,
    constant: float = 3.0,
    *,
    base_len: int = 0,
    max_len: int = 4096,
    sqrt_len: int = 16384,
) -> Tensor:
    """Return the noise level sigma = m t / (1 + (m - 1) t) of each time.

    `constant` takes m = `constant`. `linear` takes log m linear in L, `base_shift` at L =
    `base_len` and `max_shift` at L = `max_len`, and follows the line beyond. `sqrt` takes
    m = max(1, 3 sqrt(L / `sqrt_len`)). The default lengths count the tokens of images: between 10
    and 150 objects `linear` moves t = 0.5 only from 0.623 to 0.628. For sets give the data's own
    range.

    The common form m / (m + 1 / t - 1) divides by zero at t = 0; this one does not: 0 stays 0, and
    1 stays 1, exactly, in value and with finite derivatives.

    Arguments:
        t: times in [0, 1], of any shape, one per event.
        image_seq_len: L, the number of real objects (of tokens, for images), an integer or an
            integer tensor with the shape of `t`; 0 for an event without objects. That no length is
            negative is checked where looking costs no synchronisation, on the CPU.
        shift_type: `constant`, `linear` or `sqrt`.
        base_shift: log m at L = `base_len`, for `linear`.
        max_shift: log m at L = `max_len`, for `linear`.
        constant: m, positive, for `constant`.
        base_len: the L at which log m is `base_shift`, for `linear`.
        max_len: the L at which log m is `max_shift`, for `linear`; larger than `base_len`.
        sqrt_len: the L at which m is 3, positive, for `sqrt`.

    Returns:
        The noise levels in [0, 1], with shape and dtype of `t`.

    Raises:
        ValueError: if the type of shift is unknown, a number is out of its range, or lengths are
            negative, not integers, or of another shape.

    >>> time_shift(torch.tensor([0.0, 0.5, 1.0]), image_seq_len=30)
    tensor([0.0000, 0.7500, 1.0000])
    >>> time_shift(torch.tensor([0.5, 0.5]), torch.tensor([0, 30]), "linear", 0.0, 1.0, max_len=30)
    tensor([0.5000, 0.7311])
    """
    check_name("shift_type", shift_type, ShiftType)
    _check_shift(base_shift, max_shift, constant, base_len, max_len, sqrt_len)
    if not isinstance(t, Tensor) or not t.is_floating_point():
        got = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise ValueError(f"t must be a tensor of a floating dtype, got {got}")
    lengths = _checked_lengths(image_seq_len, t)
    wide = t.to(torch.promote_types(t.dtype, torch.float32))
    lengths = lengths.to(wide)
    if shift_type == "constant":
        inverse = lengths.new_full((), 1 / constant)  # 1 / m
    elif shift_type == "linear":
        slope = (max_shift - base_shift) / (max_len - base_len)
        inverse = torch.exp(-base_shift - slope * (lengths - base_len))
    else:
        inverse = ((sqrt_len / lengths).sqrt() / 3).clamp(max=1)
    inverse = inverse.clamp(1 / _LARGEST_SHIFT, _LARGEST_SHIFT)
    return (wide / (wide + (1 - wide) * inverse)).to(t.dtype)


def _checked_lengths(lengths: Any, t: Tensor) -> Tensor:
    if not isinstance(lengths, Tensor):
        count = checked_count("the number of real objects", lengths)
        return torch.full((), count, device=t.device)
    if lengths.dtype == torch.bool or lengths.is_floating_point() or lengths.is_complex():
        raise ValueError(
            f"the numbers of objects have dtype {lengths.dtype}, expected integers; "
            "count them with mask.sum(-1) of a boolean mask"
        )
    if lengths.ndim and lengths.shape != t.shape:
        raise ValueError(
            f"the numbers of objects have shape {tuple(lengths.shape)}, expected "
            f"{tuple(t.shape)}: one per event, as t"
        )
    if is_at_hand(lengths) and bool((lengths < 0).any()):
        raise ValueError(f"a number of objects is {lengths.min().item()}, expected none below 0")
    return lengths


def checked_count(argument: str, count: Any) -> int:
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
        raise ValueError(f"{argument} must be a non-negative integer, got {count!r}")
    return int(count)


def checked_dtype(dtype: torch.dtype) -> torch.dtype:
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating dtype, got {dtype}: times lie between 0 and 1")
    return dtype


def check_name(argument: str, name: Any, names: Any) -> None:
    if name not in get_args(names):
        raise ValueError(f"{argument} is {name!r}, expected one of {', '.join(get_args(names))}")


def check_number(argument: str, value: Any, *, above: float = -math.inf) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not above < value < math.inf:
        kind = "a finite number" if above == -math.inf else f"a finite number above {above:g}"
        raise ValueError(f"{argument} must be {kind}, got {value!r}")


def _check_density(name: Any, logit_mean: Any, logit_std: Any, mode_scale: Any) -> None:
    check_name("the time density", name, Density)
    check_number("logit_mean", logit_mean)
    check_number("logit_std", logit_std, above=0)
    check_number("mode_scale", mode_scale)
    if not -1 <= mode_scale <= _LARGEST_MODE_SCALE:
        raise ValueError(
            f"mode_scale must lie between -1 and {_LARGEST_MODE_SCALE:.4f}, got {mode_scale!r}: "
            "beyond, times would leave [0, 1]"
        )


def _check_shift(
    base_shift: Any, max_shift: Any, constant: Any, base_len: Any, max_len: Any, sqrt_len: Any
) -> None:
    check_number("base_shift", base_shift)
    check_number("max_shift", max_shift)
    check_number("constant", constant, above=0)
    check_number("base_len", base_len)
    check_number("max_len", max_len)
    check_number("sqrt_len", sqrt_len, above=0)
    if not base_len < max_len:
        raise ValueError(f"max_len must be larger than base_len={base_len!r}, got {max_len!r}")


def _check_weight(argument: str, shift: Any) -> None:
    check_number(argument, shift)
    if shift < -1:
        raise ValueError(f"{argument} must be at least -1, got {shift!r}: weights turn negative")


_UNIFORM = TimeSampling()
