"""Many small cases in one test: `each` stands where `pytest.mark.parametrize` would.

A case costs nothing but its own arithmetic, while a test of its own costs a setup, a report and a
line. So what is cheap and alike is looped over, and what takes long is parametrised, to be run side
by side. A test with `each` runs all of its cases, and its error is that of the first that fails,
with a note that names all of them.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch

__all__ = ["each", "thinned"]

SHOWN = 20  # failing cases that are named; the others are counted


def each(
    names: str | Sequence[str], values: Iterable[Any], ids: Callable[[Any], str] = repr
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test once for each value of some of its arguments; several make all combinations.

    Every case starts from the same state of torch's random generator, as a test of its own does.
    Fixtures are shared by the cases: a test whose cases write to one folder is parametrised.

    Arguments:
        names: of one argument, or of several, which then take a tuple each.
        values: what they become in turn.
        ids: says how a value is called in an error.
    """
    single = isinstance(names, str)
    keys = (names,) if single else tuple(names)
    cases = [(value,) if single else tuple(value) for value in values]
    assert cases, "a test without cases passes whatever it judges"
    assert all(len(case) == len(keys) for case in cases), f"expected {len(keys)} values in a case"
    table = [(dict(zip(keys, case, strict=True)), _called(keys, case, ids)) for case in cases]

    def decorated(test: Callable[..., None]) -> Callable[..., None]:
        inner = getattr(test, "_each", [({}, "")])
        body = getattr(test, "_body", test)
        combined = [
            (outer | more, ", ".join(filter(None, (label, detail))))
            for outer, label in table
            for more, detail in inner
        ]

        @functools.wraps(test)
        def wrapper(**fixtures: Any) -> None:
            run_each(body, combined, fixtures)

        signature = inspect.signature(body)
        wanted = [p for name, p in signature.parameters.items() if name not in combined[0][0]]
        assert len(signature.parameters) - len(wanted) == len(combined[0][0]), "unknown argument"
        wrapper.__signature__ = signature.replace(parameters=wanted)  # type: ignore[attr-defined]
        wrapper._each, wrapper._body = combined, body  # type: ignore[attr-defined]
        return wrapper

    return decorated


def thinned(*choices: Iterable[Any]) -> list[Any]:
    """Return all combinations for `parametrize`, of which the default meets every pair of values.

    The others bear the mark `wide`, and run with `--all`. One combination in m is kept, m being the
    number of the fewest choices: that whose places sum to a multiple of m, as in a Latin square.

    Arguments:
        choices: the values of three or more arguments.
    """
    values = [list(choice) for choice in choices]
    fewest = min(len(choice) for choice in values)
    every, kept = list(itertools.product(*map(enumerate, values))), []
    for combination in every:
        if sum(place for place, _ in combination) % fewest == 0:
            kept.append(combination)
    for (one, a), (other, b) in itertools.combinations(enumerate(values), 2):
        met = {(combination[one][0], combination[other][0]) for combination in kept}
        assert len(met) == len(a) * len(b), "a pair of values is met by no default combination"
    return [
        pytest.param(
            *(value for _, value in combination),
            marks=() if combination in kept else pytest.mark.wide,
        )
        for combination in every
    ]


def run_each(
    body: Callable[..., None], cases: list[tuple[dict[str, Any], str]], fixtures: dict[str, Any]
) -> None:
    """Run all cases, then raise the first error with a note of every case that failed."""
    first: BaseException | None = None
    failed: list[str] = []
    for arguments, label in cases:
        torch.manual_seed(0)
        try:
            body(**arguments, **fixtures)
        except pytest.skip.Exception as error:
            raise RuntimeError(f"the case {label} may not skip the others") from error
        except (Exception, pytest.fail.Exception) as error:
            first = first or error
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            failed.append(f"{label}: {kind}{(str(error).splitlines() or ['failed'])[0]}")
    if first is not None:
        more = len(failed) - SHOWN
        lines = failed[:SHOWN] + ([f"and {more} more"] if more > 0 else [])
        first.add_note("\n  ".join([f"{len(failed)} of {len(cases)} cases fail:", *lines]))
        raise first


def _called(keys: tuple[str, ...], case: tuple[Any, ...], ids: Callable[[Any], str]) -> str:
    def called(value: Any) -> str:
        return getattr(value, "__name__", None) or ids(value)

    return ", ".join(f"{key}={called(value)}" for key, value in zip(keys, case, strict=True))
