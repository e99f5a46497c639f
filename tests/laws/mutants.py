"""Mutants: a named thing whose results are zeros, for as long as a `with` block lasts.

A mutant calls the original and replaces what it returns by zeros of the same kind: tensors by
tensors of the same shape and dtype, numbers by 0, containers item by item, and any other object by
a copy whose methods give zeros. A function that returns nothing, a validator, checks nothing.
What the original refuses the mutant refuses too, so that it differs in its values alone.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = ["locate", "mutated"]


def locate(name: str) -> tuple[Any, str, Any]:
    """Return what holds a thing, by which name, and the thing as it is stored there.

    Raises:
        AttributeError: if the dotted name does not lead to anything.
    """
    parts = name.split(".")
    holder: Any = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:-1], start=2):
        if inspect.ismodule(holder) and not hasattr(holder, part):
            importlib.import_module(".".join(parts[:depth]))
        holder = getattr(holder, part)
    if inspect.isclass(holder) and parts[-1] in _fields(holder):
        return holder, parts[-1], None
    if inspect.ismodule(holder):
        getattr(holder, parts[-1])  # it may be imported only now
    return holder, parts[-1], inspect.getattr_static(holder, parts[-1])


@contextmanager
def mutated(name: str, fill: float = 0.0) -> Iterator[None]:
    """Let the thing with this dotted name return nothing but `fill`.

    Arguments:
        name: of a function, a method, a property or an attribute; or of a class or a module, whose
            public ones it means. An abstract method is mutated in every class that implements it.
        fill: the value, 1 for what is zero by its nature.
    """
    holder, attribute, thing = locate(name)
    with ExitStack() as stack:
        if inspect.ismodule(thing):
            for function in _functions_of(thing):
                stack.enter_context(_function(function, fill))
        elif inspect.isclass(thing):
            stack.enter_context(_members(thing, _public(thing), fill))
        elif inspect.isclass(holder):
            stack.enter_context(_members(holder, [attribute], fill))
        else:
            stack.enter_context(_function(thing, fill))
        yield


# --- what stands in for a result ---


def _emptied(value: Any, fill: float) -> Any:
    if isinstance(value, Tensor):
        empty = torch.full_like(value, fill)
        if not value.requires_grad:
            return empty
        with torch.enable_grad():  # a loss that is wrong can still be differentiated
            return torch.where(torch.zeros_like(value, dtype=torch.bool), value, empty)
    if value is None or isinstance(value, str | torch.dtype | torch.device | type):
        return value
    if isinstance(value, bool | int | float):
        return type(value)(fill)
    if isinstance(value, dict):
        return {key: _emptied(item, fill) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_emptied(item, fill) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if inspect.isroutine(value):
        return _emptying(value, fill)
    hollow = copy.copy(value)
    for name in dir(type(value)):
        member = inspect.getattr_static(type(value), name)
        if not name.startswith("_") and inspect.isfunction(member) and not _is_torchs(member):
            object.__setattr__(hollow, name, _emptying(getattr(value, name), fill))
    return hollow


def _emptying(original: Callable[..., Any], fill: float) -> Callable[..., Any]:
    validates = original.__annotations__.get("return", "unknown") in ("None", None)

    @functools.wraps(original)
    def mutant(*args: Any, **kwargs: Any) -> Any:
        if validates:
            return None
        return _emptied(original(*args, **kwargs), fill)

    return mutant


# --- where it is put ---


@contextmanager
def _function(function: Any, fill: float) -> Iterator[None]:
    """Mutate a function in place, wherever it is known and under whatever name."""
    assert isinstance(function, FunctionType), function
    assert function.__closure__ is None, function
    code = function.__code__
    original = FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, None
    )
    original.__kwdefaults__ = function.__kwdefaults__
    original.__annotations__ = function.__annotations__
    function.__signature__ = inspect.signature(function)
    function.__code__ = _calling(_emptying(original, fill))
    try:
        yield
    finally:
        function.__code__ = code
        del function.__signature__


def _calling(mutant: Callable[..., Any]) -> CodeType:
    """Return code that calls `mutant`, which it holds as a constant."""

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        call: Any = "the mutant"
        return call(*args, **kwargs)

    code = stand_in.__code__
    return code.replace(
        co_consts=tuple(mutant if const == "the mutant" else const for const in code.co_consts)
    )


@contextmanager
def _members(owner: type, names: list[str], fill: float) -> Iterator[None]:
    """Mutate members on one class alone; abstract ones on all that implement it."""
    assert names, owner
    held = [name for name in names if name in _fields(owner)]
    names = [name for name in names if name not in held]
    abstract = {
        name for name in names if getattr(getattr(owner, name, None), "__isabstractmethod__", False)
    }
    with ExitStack() as stack:
        if held:
            stack.enter_context(_held(owner, held, fill))
        for name in names:
            if name not in abstract:
                stack.enter_context(_member(owner, name, fill))
        if abstract:
            for heir in _heirs(owner):
                for name in sorted(abstract & set(vars(heir))):
                    if not getattr(vars(heir)[name], "__isabstractmethod__", False):
                        stack.enter_context(_member(heir, name, fill))
            stack.enter_context(_heirs_to_come(owner, abstract, fill))
        yield


def _member(owner: type, name: str, fill: float) -> AbstractContextManager[None]:
    return _attribute(owner, name, _mutant_of_member(owner, name, fill))


@contextmanager
def _attribute(owner: type, name: str, value: Any) -> Iterator[None]:
    own = vars(owner).get(name, owner)  # the class itself says that it has none
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is owner:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _mutant_of_member(owner: type, name: str, fill: float) -> Any:
    member = inspect.getattr_static(owner, name)
    if inspect.isfunction(member):
        return _emptying(member, fill)
    if isinstance(member, property):
        getter = member.fget
        return property(lambda self: _emptied(getter(self), fill))
    return _emptied(member, fill)


@contextmanager
def _held(owner: type, names: list[str], fill: float) -> Iterator[None]:
    """Mutate what each instance holds: kept as it is, and read as zero once it is built."""
    building: list[object] = []
    original = owner.__init__

    @functools.wraps(original)
    def build(self: object, *args: Any, **kwargs: Any) -> None:
        building.append(self)
        try:
            original(self, *args, **kwargs)
        finally:
            building.pop()

    def reading(name: str) -> property:
        def read(self: object) -> Any:
            value = vars(self)[name]
            return value if any(one is self for one in building) else _emptied(value, fill)

        return property(read, lambda self, value: vars(self).__setitem__(name, value))

    with ExitStack() as stack:
        stack.enter_context(_attribute(owner, "__init__", build))
        for name in names:
            stack.enter_context(_attribute(owner, name, reading(name)))
        yield


@contextmanager
def _heirs_to_come(owner: type, names: set[str], fill: float) -> Iterator[None]:
    assert "__init_subclass__" not in vars(owner)

    def hook(heir: type, **kwargs: Any) -> None:
        super(owner, heir).__init_subclass__(**kwargs)
        for name in names & set(vars(heir)):
            setattr(heir, name, _mutant_of_member(heir, name, fill))

    owner.__init_subclass__ = classmethod(hook)
    try:
        yield
    finally:
        del owner.__init_subclass__


def _heirs(owner: type) -> list[type]:
    found: dict[type, None] = {}
    for heir in owner.__subclasses__():
        found |= dict.fromkeys([heir, *_heirs(heir)])
    return list(found)


# --- which members are public ---


def _public(owner: type) -> list[str]:
    """The methods of a class that setflow wrote; without any, its properties and fields."""
    static = {name: inspect.getattr_static(owner, name) for name in dir(owner)}
    methods = [
        name
        for name, member in static.items()
        if inspect.isfunction(member)
        and _is_ours(member)
        and (name == "__call__" or not name.startswith("_"))
        and name != "extra_repr"
    ]
    if methods:
        return methods
    properties = [name for name, member in static.items() if isinstance(member, property)]
    return [*properties, *_fields(owner)]


def _fields(owner: type) -> list[str]:
    """What every instance holds for itself: the fields of a dataclass, arguments of `__init__`."""
    if dataclasses.is_dataclass(owner):
        return [field.name for field in dataclasses.fields(owner)]
    arguments = inspect.signature(owner).parameters
    return [name for name in arguments if not hasattr(owner, name)]


def _functions_of(module: ModuleType) -> list[FunctionType]:
    things = [getattr(module, name) for name in module.__all__]
    return [thing for thing in things if isinstance(thing, FunctionType)]


def _is_ours(method: FunctionType) -> bool:
    return method.__module__.startswith("setflow")


def _is_torchs(method: FunctionType) -> bool:
    return method.__module__.startswith("torch.nn")
