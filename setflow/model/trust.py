"""What is looked at before the files of a model, which may come from a stranger, are used.

A class of a file is looked up in a table and never imported (`setflow.model.folder`). Here it is
made sure that reading costs no more than the files hold, and that what they say can be true: the
sizes that a configuration names are those of the weights beside it, which is known before anything
of that size is allocated; weights are numbers; probabilities sum to one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from setflow.data.scaling import Standardizer
from setflow.distributions.cardinality import EmpiricalCardinality
from setflow.distributions.composition import Composition
from setflow.fields.gaussian import GaussianSetField
from setflow.files import require_regular, shortened
from setflow.model.encoding import ContextEncoder
from setflow.model.finite import not_finite_weight

__all__ = ["Bounded", "Shapes", "read_shapes", "require_numbers", "require_sizes"]

_HEADER = 2**25  # bytes
_SMALL = 4096  # no size up to this one is refused for being larger than all weights
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes
_MAKERS = {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "zeros"}
_GIVEN = ("mean", "std", "lowest", "counts", "loc", "scale", "coupling")  # values and no sizes


class Shapes(NamedTuple):
    """What a file of weights holds.

    Attributes:
        of: the shape of each tensor by its name.
        elements: how many numbers they have together.
    """

    of: dict[str, tuple[int, ...]]
    elements: int


def read_shapes(path: Path) -> Shapes:
    """Return the shapes of a file of safetensors, from its header alone.

    Raises:
        ValueError: if the header is damaged, or does not fit the size of the file.
    """
    require_regular(path)
    size = path.stat().st_size
    shapes: dict[str, tuple[int, ...]] = {}
    elements = content = 0
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_HEADER, size - 8):
                raise ValueError(f"it is said to have {length:,} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, told in header.items():
            shape = tuple(map(int, told["shape"]))
            if min(shape, default=0) < 0:
                raise ValueError(f"{shortened(name)} has a negative size")
            number = math.prod(shape)
            elements += number
            content += number * _FLOATS[told["dtype"]]
            shapes[str(name)] = shape
        if 8 + length + content != size:
            raise ValueError(f"it tells of {content:,} bytes of {size - 8 - length:,}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read, for its header is wrong ({str(error)[:120]}): it was changed "
            "or damaged after it was written; fetch or train the model again"
        ) from error
    return Shapes(shapes, elements)


def require_sizes(node: Any, shapes: Shapes, where: str) -> None:
    """Refuse a node with a size that is larger than all weights of its model have numbers.

    Raises:
        ValueError: if there is one; it names the place.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key not in _GIVEN:
                require_sizes(value, shapes, f"{where}.{shortened(key)[1:-1]}")
    elif isinstance(node, list):
        for value in node:
            require_sizes(value, shapes, where)
    elif isinstance(node, int) and node > max(_SMALL, shapes.elements):
        raise ValueError(
            f"{where} is {shortened(node)}, but the weights beside it have "
            f"{shapes.elements:,} numbers in all, so they belong to another configuration"
        )


class Bounded(TorchFunctionMode):
    """While a block builds a model, no more is allocated than its weights have.

    Arguments:
        shapes: what the file of weights holds.

    Raises:
        ValueError: in the block, if more parameters or numbers are made than there are.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self._tensors, self._elements = len(shapes.of) + 16, 8 * shapes.elements + 2**20

    def __enter__(self) -> Self:
        self._hook = register_module_parameter_registration_hook(self._count)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hook.remove()
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]

    def _count(self, module: nn.Module, name: str, value: Any) -> None:
        self._tensors -= 1
        if self._tensors < 0:
            raise ValueError("it has more parameters than the file of weights")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _MAKERS and args:
            first = args[0]
            sizes = first if isinstance(first, (list, tuple)) else args
            self._elements -= math.prod(size for size in sizes if isinstance(size, int))
        if self._elements < 0:
            raise ValueError("it is larger than the file of weights")
        return func(*args, **(kwargs or {}))


def require_numbers(flow: nn.Module, where: str) -> None:
    """Refuse weights and statistics that cannot be those of a model.

    Arguments:
        flow: the model, with the weights that were read.
        where: the file, for the error message.

    Raises:
        ValueError: if a weight is not finite, a probability or a standard deviation cannot be one.
    """
    if (name := not_finite_weight(flow)) is not None:
        raise ValueError(
            f"{where}: {name} holds values that are not finite, as a training leaves them that has "
            "diverged; train the model again, with a smaller learning rate or clipped gradients"
        )
    for name, part in flow.named_modules():
        if (told := _impossible(part)) is not None:
            raise ValueError(f"{where}: {name}.{told}; fetch or train the model again")


def _impossible(part: nn.Module) -> str | None:
    """Return what cannot be of the statistics of a part, or None."""
    if isinstance(part, Standardizer):
        if not bool(part.mean.isfinite().all()):
            return "mean holds values that are not finite"
        if not bool((part.std.isfinite() & (part.std > 0)).all()):
            return f"std is {shortened(part.std.tolist())}, expected positive and finite values"
        if bool((part.lowest.isnan() | (part.lowest == torch.inf)).any()):
            return f"lowest is {shortened(part.lowest.tolist())}, expected numbers or -inf"
    elif isinstance(part, EmpiricalCardinality):
        p = part.probabilities.double()
        total = float(p.sum())
        exact = part.probabilities.dtype == torch.float64
        if not bool((p >= 0).all()) or abs(total - 1) > (1e-6 if exact else 2e-2):
            return (
                f"probabilities sum to {total:g} with a minimum of {float(p.min()):g}, expected 1"
            )
    elif isinstance(part, Composition):
        for name, value in part.named_buffers(recurse=False):
            shares = name == "compositions" or bool(((value >= 0) & (value < 1 + 1e-3)).all())
            if not (shares and bool(value.isfinite().all())):
                return f"{name} holds values that are no probabilities"
    elif not isinstance(part, ContextEncoder):  # of whose range NaN is the one that is unknown
        for name, value in part.named_buffers(recurse=False):
            if value.is_floating_point() and not bool(value.isfinite().all()):
                return f"{name} holds values that are not finite"
    if isinstance(part, GaussianSetField) and not bool((part.scale > 0).all()):
        return "scale holds values that are not positive"
    return None
