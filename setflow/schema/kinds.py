"""The kinds of a feature: which values it takes, and how they are scaled for a model.

A kind is written as its name, with arguments in brackets where it has some: `real`, `positive`,
`positive(low=1)`, `bounded(0, 1)`, `angle`, `category(top, gluon)`. In Python it may be an object
instead, such as `Bounded(0, 1)`; `str` gives the text again.

Notation. A kind maps values x onto the line, f(x), on which features are shifted and scaled; its
density needs log|df/dx|. Where f ends at a boundary, generated values obey it.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from setflow.spelling import nearest

__all__ = ["KINDS", "Angle", "Bounded", "Category", "Kind", "Positive", "Real", "kind_of"]


@dataclass(frozen=True)
class Kind:
    """What values a feature takes; one of `KINDS`.

    Attributes:
        name: how it is written.
        is_generated: whether a model can generate its values: numbers on a line, and angles.
        on_a_line: whether its values are numbers on a line, so that they can be scaled.
        low: the values lie above it.
        high: the values lie below it.
        inside: a value at which the transform and its derivatives are finite.
    """

    name: ClassVar[str]
    is_generated: ClassVar[bool] = True
    on_a_line: ClassVar[bool] = True
    inside: ClassVar[float] = 0.0

    def __str__(self) -> str:
        told = [field for field in fields(self) if getattr(self, field.name) != field.default]
        if not told:
            return self.name
        return f"{self.name}({', '.join(self._written(field.name) for field in told)})"

    def _written(self, argument: str) -> str:
        return f"{argument}={getattr(self, argument)!r}"

    @property
    def is_identity(self) -> bool:
        """Whether f(x) = x, with nothing to be obeyed."""
        return True

    @property
    def is_angle(self) -> bool:
        """Whether it is an angle in radians, which files hold in [-pi, pi)."""
        return False

    @property
    def bounds(self) -> tuple[float, float]:
        """The values between which it lies, themselves left out."""
        return -math.inf, math.inf

    def forward(self, x: Any) -> Any:
        """Return f(x) of a tensor."""
        return x

    def inverse(self, f: Any) -> Any:
        """Return x of a tensor f(x); rounding may put it onto a bound."""
        return f

    def log_slope(self, x: Any) -> Any:
        """Return log|df/dx| of a tensor x."""
        return x * 0.0


@dataclass(frozen=True)
class Real(Kind):
    """A number: f(x) = x.

    Arguments:
        wrapped: it is an angle in radians that is kept as a number, since it is narrow, such as an
            azimuth relative to that of a jet: files hold it in [-pi, pi).
    """

    name = "real"
    wrapped: bool = False

    @property
    def is_angle(self) -> bool:
        return self.wrapped


@dataclass(frozen=True)
class Positive(Kind):
    """A number above `low`: f(x) = log(x - low), or a Box-Cox transform where one is asked for.

    The transform with lambda > 0, f(x) = ((x - low)^lambda - 1) / lambda (Box and Cox, "An Analysis
    of Transformations", J. R. Stat. Soc. B 26, 211, 1964), ends at -1 / lambda: a model generates
    the smallest value of the training sample for all that it puts below, so that it has no proper
    density there.

    Arguments:
        low: the bound.
        boxcox: lambda, from 0, the logarithm, to below 1.
    """

    name = "positive"
    low: float = 0.0
    boxcox: float = 0.0

    def __post_init__(self) -> None:
        _numbers(self, "low", "boxcox")
        if not 0 <= self.boxcox < 1:
            raise ValueError(f"boxcox is {self.boxcox:g}, expected at least 0 and below 1")

    @property
    def is_identity(self) -> bool:
        return False

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, math.inf

    @property
    def inside(self) -> float:  # type: ignore[override]
        return self.low + max(1.0, abs(self.low))

    def forward(self, x: Any) -> Any:
        x = x - self.low if self.low else x
        return (x**self.boxcox - 1) / self.boxcox if self.boxcox else x.log()

    def inverse(self, f: Any) -> Any:
        if self.boxcox:
            return (self.boxcox * f + 1).clamp(min=0) ** (1 / self.boxcox) + self.low
        return f.exp() + self.low

    def log_slope(self, x: Any) -> Any:
        return (self.boxcox - 1) * (x - self.low).log()


@dataclass(frozen=True)
class Bounded(Kind):
    """A number between `low` and `high`: f(x) is the logit of its place between them.

    Arguments:
        low: the lower bound.
        high: the upper bound.
    """

    name = "bounded"
    low: float
    high: float

    def __post_init__(self) -> None:
        _numbers(self, "low", "high")
        if not self.low < self.high:
            raise ValueError(
                f"bounded has low={self.low:g} and high={self.high:g}, expected low below high"
            )

    @property
    def is_identity(self) -> bool:
        return False

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def inside(self) -> float:  # type: ignore[override]
        return self.low + (self.high - self.low) / 2

    def _written(self, argument: str) -> str:
        return repr(getattr(self, argument))

    def forward(self, x: Any) -> Any:
        return (x - self.low).log() - (self.high - x).log()

    def inverse(self, f: Any) -> Any:
        return self.low + (self.high - self.low) * f.sigmoid()

    def log_slope(self, x: Any) -> Any:
        return math.log(self.high - self.low) - (x - self.low).log() - (self.high - x).log()


@dataclass(frozen=True)
class Angle(Kind):
    """An angle in radians on the whole circle, kept in [-pi, pi).

    A model centres it and never scales it, so that it keeps its period.
    """

    name = "angle"
    on_a_line = False

    @property
    def is_identity(self) -> bool:
        return False

    @property
    def is_angle(self) -> bool:
        return True


@dataclass(frozen=True)
class Category(Kind):
    """One of a few names; files and contexts hold its position among them, from 0.

    Arguments:
        names: the names, all different.
    """

    name = "category"
    is_generated = False
    on_a_line = False
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        names = tuple(self.names)
        object.__setattr__(self, "names", names)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"category has the names {names}, expected at least one text")
        if len(set(names)) < len(names):
            raise ValueError(f"category has the names {', '.join(names)}, expected different ones")

    def __str__(self) -> str:
        told = (name if name.isidentifier() else repr(name) for name in self.names)
        return f"{self.name}({', '.join(told)})"

    def code(self, name: str) -> int:
        """Return the position of a name.

        Raises:
            ValueError: if there is none; it tells the nearest.
        """
        if name in self.names:
            return self.names.index(name)
        raise ValueError(
            f"there is no '{name}' among {', '.join(self.names)}" + nearest(name, self.names)
        )


KINDS: dict[str, type[Kind]] = {cls.name: cls for cls in (Real, Positive, Bounded, Angle, Category)}
"""The kinds by their names."""


def kind_of(kind: Kind | str) -> Kind:
    """Return the kind that a text names.

    Arguments:
        kind: a text such as `positive(low=1)`, or a kind.

    Raises:
        TypeError: if it is neither.
        ValueError: if the text names no kind, or its arguments are none that the kind has.

    >>> kind_of("bounded(0, 1)"), str(kind_of("positive")), str(Positive(boxcox=0.3))
    (Bounded(low=0.0, high=1.0), 'positive', 'positive(boxcox=0.3)')
    >>> kind_of("category(top, 'b or c')").names
    ('top', 'b or c')
    """
    if isinstance(kind, Kind):
        return kind
    if not isinstance(kind, str):
        raise TypeError(f"a kind is {kind!r}, expected one of {', '.join(KINDS)}, as a text")
    name = kind.partition("(")[0].strip()
    if name not in KINDS:
        raise ValueError(
            f"there is no kind '{name}'; expected one of {', '.join(KINDS)}" + nearest(name, KINDS)
        )
    try:
        call = ast.parse(kind.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            return KINDS[name]()
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("expected a name with arguments in brackets")
        given = [_value(argument) for argument in call.args]
        named = {str(word.arg): _value(word.value) for word in call.keywords}
        if name == Category.name:
            return Category(tuple(given), **named)
        return KINDS[name](*given, **named)
    except (SyntaxError, TypeError, ValueError) as error:
        written = {
            "real": "real",
            "positive": "positive, positive(low=1) or positive(boxcox=0.3)",
            "bounded": "bounded(0, 1)",
            "angle": "angle",
            "category": "category(top, gluon)",
        }[name]
        why = f" ({error})" if type(error) is ValueError else ""  # not what Python says of a call
        raise ValueError(f"the kind {kind!r} cannot be read: expected {written}{why}") from None


def _value(node: ast.expr) -> Any:
    """Return a literal, or a bare word as a text."""
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _numbers(kind: Any, *arguments: str) -> None:
    for argument in arguments:
        value = getattr(kind, argument)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{argument} is {value!r}, expected a number")
        if not math.isfinite(value):
            raise ValueError(f"{argument} is {value}, expected a finite number")
        object.__setattr__(kind, argument, float(value))
