"""What a caller may give for a tensor: an array of NumPy, or numbers in lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Array", "as_tensor", "check_generator", "shown"]

Array = Tensor | NDArray[Any] | Sequence[Any]


def as_tensor(value: Any, name: str, numbers: torch.dtype | None = None) -> Tensor:
    """Return a tensor of what a caller gives for one; a tensor is returned as it is.

    Entrances call it for what is no real tensor, so that nothing behind asks again. An array keeps
    its dtype (unsigned integers of more than 8 bits become int64) and, where it can, its memory;
    Python's real numbers get torch's default dtype.

    Arguments:
        value: a tensor, an array of NumPy or what NumPy reads as one, or numbers in lists.
        name: what it is, for the error message.
        numbers: the dtype of Python's real numbers; None takes torch's default.

    Raises:
        TypeError: if it does not hold plain numbers, holds complex ones, or is a masked array of
            NumPy or a batch of sets.

    >>> as_tensor([[1.0, 0.5]], "x")
    tensor([[1.0000, 0.5000]])
    >>> import numpy as np
    >>> as_tensor(np.arange(3), "lengths")
    tensor([0, 1, 2])
    """
    if isinstance(value, Tensor) and not value.is_complex():
        return value
    dtype: Any = getattr(value, "dtype", None)
    if getattr(dtype, "is_complex", False) or getattr(dtype, "kind", "") == "c":
        raise TypeError(
            f"{name} has dtype {dtype}, expected real numbers: an imaginary part would be lost; "
            "give real and imaginary parts as two features, torch.view_as_real makes them"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array of NumPy, whose own mask would be lost; give {name}.data, "
            "and which objects are real as mask= (True = real)"
        )
    if hasattr(value, "mask") and hasattr(value, "x"):
        raise TypeError(
            f"{name} is a {type(value).__name__}, expected one array: give its parts, its x, its "
            "mask and its c"
        )
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        instead = "events of different size become a batch by setflow.SetBatch.from_ragged"
        if isinstance(value, str | Path):
            instead = "setflow.data.read_jets and setflow.data.read_events read files"
        elif isinstance(value, Mapping):
            instead = f"its keys are {', '.join(map(repr, value)) or 'none'}: give one value of it"
        raise TypeError(
            f"{name} is of type {type(value).__name__} and holds no plain numbers, expected a "
            f"tensor, a NumPy array, or lists of numbers of equal length; {instead}"
        )
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "u" and dtype.itemsize > 1:
        dtype = np.dtype(np.int64)
    elif dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    array = array.astype(dtype, copy=not array.flags.writeable or min(array.strides, default=0) < 0)
    python = array.dtype.kind == "f" and isinstance(value, (float, list, tuple))
    numbers = torch.get_default_dtype() if numbers is None else numbers
    return torch.as_tensor(array, dtype=numbers if python else None)


def shown(value: object) -> str:
    """Return how an error tells what was given: an array by its shape, all else by its `repr`.

    >>> shown(torch.zeros(4, 3)), shown([[0.0]]), shown("midpoint")
    ('a Tensor of shape (4, 3)', '[[0.0]]', "'midpoint'")
    """
    if shape := getattr(value, "shape", None):
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    return repr(value)


def check_generator(generator: object) -> None:
    """Raise unless something is a random generator of torch, or None.

    Raises:
        TypeError: if it is something else, such as a seed.

    >>> check_generator(3)
    Traceback (most recent call last):
        ...
    TypeError: generator is 3, expected ... torch.Generator().manual_seed(3) makes one of a seed
    """
    if generator is None or isinstance(generator, torch.Generator):
        return
    seed = generator if isinstance(generator, int) else 0
    raise TypeError(
        f"generator is {generator!r}, expected a torch.Generator or None; "
        f"torch.Generator().manual_seed({seed:d}) makes one of a seed"
    )
