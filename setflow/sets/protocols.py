"""The contracts between rooms, and the one adapter that reads optional attributes.

A *field* is any `nn.Module` with `forward(x, t, c=None)` and the attribute `event_ndim`; if it
declares `takes_mask = True` it is also given `mask=`, and one whose velocity jumps in x declares
`is_discontinuous = True`, since it has no density, and so does `samples_only = True` one whose
samples are not those of a density. Solvers, paths and bases need to inherit
nothing. Optional attributes that an object lacks count as False, here and nowhere else; where the
signature or a misspelt attribute says otherwise, that is an error and not a False.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from setflow.sets.arrays import shown

__all__ = [
    "Base",
    "Flag",
    "Path",
    "SDESolver",
    "Solver",
    "check_path",
    "declares",
    "event_ndim_of",
    "in_lines",
    "in_short",
    "parts_that_declare",
    "refuse_misspelt",
]

Flag = Literal[
    "holds_context",
    "is_adaptive",
    "is_discontinuous",
    "is_sde",
    "requires_steps",
    "samples_only",
    "steps_apart",
    "supports_rsample",
    "takes_mask",
]

_OF_FIELDS = ("takes_mask", "holds_context", "is_discontinuous", "samples_only")


class Path(Protocol):
    """An interpolation between data (t = 0) and noise (t = 1); `t` has the lead shape of `x`."""

    def sample_xt(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor: ...

    def target_ut(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor: ...


def check_path(path: Any) -> None:
    """Refuse what is no path.

    Raises:
        TypeError: if it is a class, or lacks one of the two methods.
    """
    lacks = [name for name in ("sample_xt", "target_ut") if not hasattr(path, name)]
    if isinstance(path, type) or lacks:
        raise TypeError(
            f"path is {shown(path)}, expected an object such as setflow.CosinePath()"
            + (", with the methods sample_xt and target_ut" if len(lacks) == 1 else "")
        )


class Solver(Protocol):
    """An ODE solver: integrates dx/dt = f(x, t) from `t0` to `t1`; it is
    called in `setflow.solvers.integrate`.

    It may declare more: `requires_steps`, `takes_mask`, and a method `integrate_augmented`.
    """

    def integrate(
        self, f: Callable[[Tensor, Any], Tensor], x0: Tensor, *, t0: float, t1: float
    ) -> Tensor: ...


class SDESolver(Protocol):
    """An SDE solver: draws from dx = drift(x, t) dt + diffusion(t) dW between `t0` and `t1`."""

    @property
    def is_sde(self) -> bool: ...

    def integrate(
        self,
        drift: Callable[[Tensor, Any], Tensor],
        diffusion: Callable[[Any], Tensor | float],
        x0: Tensor,
        *,
        t0: float,
        t1: float,
        steps: int,
    ) -> Tensor: ...


class Base(Protocol):
    """A distribution of independent coordinates, from which sampling starts."""

    @property
    def batch_shape(self) -> tuple[int, ...]: ...

    @property
    def event_shape(self) -> tuple[int, ...]: ...

    def sample(
        self,
        sample_shape: tuple[int, ...] = ...,
        *,
        mask: Tensor | None = ...,
        generator: Any = ...,
    ) -> Tensor: ...

    def log_prob(self, value: Tensor, *, mask: Tensor | None = ...) -> Tensor: ...


def declares(thing: object, flag: Flag) -> bool:
    """Return whether `thing` declares `flag`; what it does not declare is False."""
    return bool(getattr(thing, flag, False))


def parts_that_declare(field: nn.Module, *flags: Flag) -> dict[Flag, nn.Module]:
    """Return the first part of a field, itself included, that declares each flag, where one does.

    So a property that a wrapper cannot take away needs no wrapper to pass it on.
    """
    found: dict[Flag, nn.Module] = {}
    for part in field.modules():
        for flag in flags:
            if declares(part, flag):
                found.setdefault(flag, part)
    return found


def in_short(module: nn.Module) -> str:
    """Return what a field or a network is, in a few words.

    >>> in_short(setflow.VelocityField(dim=8, hidden=16))
    'VelocityField with 840 parameters'
    """
    count = sum(parameter.numel() for parameter in module.parameters())
    return f"{type(module).__name__} with {count:,} parameters"


def in_lines(thing: object, *parts: str, **told: object) -> str:
    """Return what a model is made of, one part on a line.

    Arguments:
        thing: the model.
        parts: the names of attributes to show.
        told: what to show before them, by name; a text stands as it is.
    """
    listed = {**told, **{name: repr(getattr(thing, name)) for name in parts}}
    lines = [f"{name}: {part}" for name, part in listed.items()]
    return "\n  ".join([f"{type(thing).__name__}(", *lines]) + "\n)"


@functools.lru_cache(256)
def refuse_misspelt(kind: type, own: frozenset[str], flags: tuple[str, ...]) -> None:
    """Refuse an object that lacks a flag and has an attribute of nearly that name.

    Arguments:
        kind: its class.
        own: the names of its own attributes.
        flags: the flags that it may declare.

    Raises:
        ValueError: if there is such an attribute.

    >>> class MySolver:
    ...     requires_step = True
    >>> refuse_misspelt(MySolver, frozenset(), ("requires_steps",))
    Traceback (most recent call last):
        ...
    ValueError: MySolver has an attribute requires_step but none called requires_steps, ...
    """
    classes = takewhile(lambda cls: cls not in (nn.Module, object), kind.__mro__)
    names = own.union(*(vars(cls) for cls in classes))
    for flag in set(flags) - names:
        for close in get_close_matches(flag, names - set(flags), n=1, cutoff=0.86):
            raise ValueError(
                f"{kind.__name__} has an attribute {close} but none called {flag}, which would "
                f"count as False; rename it, or declare {flag} = False beside it"
            )


@functools.lru_cache(256)
def _refuse_wrong_forward(
    name: str, forward: Callable[..., Any], places: int, takes_mask: bool
) -> None:
    """Refuse a field whose `forward` cannot be called as the verbs call it.

    Arguments:
        name: that of its class.
        forward: its forward.
        places: how many arguments it is given by place: x, t and c, and self of a method.
        takes_mask: whether it is given `mask`, too.

    Raises:
        ValueError: if it cannot.
    """
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):  # compiled code that does not tell
        return
    mask = {"mask": None} if takes_mask else {}
    try:
        signature.bind(*[None] * places, **mask)
    except TypeError as error:
        cure = "give it an argument c=None behind x and t: what is called without context gets None"
        if takes_mask and "'mask'" in str(error):
            cure = "give it an argument mask=None, or take takes_mask = True away"
        raise ValueError(
            f"{name} has forward{signature}, but is called as forward(x, t, c"
            f"{', mask=mask' if takes_mask else ''}): {error}; {cure}"
        ) from None


@functools.lru_cache(256)
def _mask_in_forward(
    kind: type, own: frozenset[str], forward: Callable[..., Any]
) -> Literal["declared", "named", "not named"]:
    """Return what is known of the mask in a field, by its class and its own attributes.

    `declared`: `takes_mask` stands beside this `forward` or in a subclass, so that it was meant for
    it; else whether `forward` names `mask`.
    """
    if "takes_mask" in own:
        return "declared"
    for cls in kind.__mro__:
        if "takes_mask" in vars(cls):
            return "declared"
        if "forward" in own or "forward" in vars(cls):
            break
    try:
        names = inspect.signature(forward).parameters
    except (TypeError, ValueError):  # compiled code that does not tell
        return "not named"
    return "named" if "mask" in names else "not named"


def _refuse_forgotten_mask(field: nn.Module, masked: bool) -> None:
    """Refuse a field that does not say whether it takes the mask where it might.

    Arguments:
        field: the field, which does not declare `takes_mask = True`.
        masked: whether there is a mask, which a part of the field would miss.

    Raises:
        ValueError: if it does not declare `takes_mask`, and `forward` names `mask`, or the field
            holds one that takes the mask.
    """
    kind: Any = type(field)
    name, own = kind.__name__, vars(field)
    found = _mask_in_forward(kind, frozenset(own), own.get("forward", kind.forward))
    if found == "named":
        raise ValueError(
            f"{name} does not declare takes_mask, but its forward names mask, without which it "
            "would be called; add takes_mask = True beside event_ndim, or takes_mask = False if "
            "mask is meant for something else"
        )
    inner = next((part for part in field.modules() if declares(part, "takes_mask")), None)
    if masked and found == "not named" and inner is not None:
        raise ValueError(
            f"{name} does not declare takes_mask, but holds a {type(inner).__name__} that takes "
            "the mask and would be called without it; add takes_mask = True and pass mask on in "
            "forward, or takes_mask = False if it is to be called without"
        )


def event_ndim_of(field: object, *, at_least: int = 0, given: int | None = None) -> int:
    """Return how many trailing dimensions form one event of `field`, whose declarations are read.

    Arguments:
        field: the field; or that number, of a field that was read before.
        at_least: the smallest number that will do.
        given: that number, for a field that does not say it itself.

    Raises:
        TypeError: if `field` is a class, or nothing that can be called.
        ValueError: if the field does not say, or it is fewer than `at_least`; if it does not
            declare `takes_mask` and its `forward` names `mask`, or declares something misspelt; or
            if its `forward` does not take what it is called with.
    """
    if isinstance(field, nn.Module) and not torch.compiler.is_compiling():
        written = getattr(field, "_orig_mod", field)  # of torch.compile
        kind: Any = type(written)
        own, takes_mask = vars(written), declares(written, "takes_mask")
        refuse_misspelt(kind, frozenset(own), _OF_FIELDS)
        if not takes_mask:
            _refuse_forgotten_mask(written, at_least >= 2)
        if getattr(field, "event_ndim", given) is not None:  # else it is no field, see below
            forward, places = own.get("forward", kind.forward), 3 if "forward" in own else 4
            _refuse_wrong_forward(kind.__name__, forward, places, takes_mask)
    event_ndim = field if isinstance(field, int) else getattr(field, "event_ndim", given)
    told = isinstance(event_ndim, int) and event_ndim >= 0
    if isinstance(field, type) or not (told or callable(field)):
        raise TypeError(
            f"field is {shown(field)}, expected a velocity field such as "
            "setflow.TransformerField(3); a base and a solver come after it"
        )
    if not isinstance(event_ndim, int) or event_ndim < 0:
        raise ValueError(
            f"{type(field).__name__} has no integer attribute event_ndim of at least 0, got "
            f"{event_ndim!r}; set it to the number of trailing dimensions that form one event (2 "
            "for a set of objects with features)"
        )
    if event_ndim < at_least:
        raise ValueError(
            f"{'the field' if isinstance(field, int) else type(field).__name__} has "
            f"event_ndim={event_ndim}, expected at least {at_least}: "
            "a mask needs an object dimension in front of the features; wrap the field so that "
            "it takes whole sets (N, D)"
        )
    return event_ndim
