"""Mask algebra: which slots of a padded set hold a real object.

A mask is a boolean tensor with shape `(*batch, N)`: True is a real object, False is padding. Real
objects need not come first. What stands in a padded slot is never read: it is *selected* away with
`torch.where` and not multiplied by zero, because `0 * nan` is `nan`, in values and in gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from setflow.sets.arrays import Array, as_tensor

__all__ = [
    "as_mask",
    "as_present",
    "count_real",
    "current_transform",
    "is_at_hand",
    "is_readable",
    "over_features",
    "rank_of_real",
    "zero_padding",
]

# the innermost transform of torch.func that is under way, None outside of all; no public function
# tells it
current_transform: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack


_AT_HAND = ("cpu",)  # kinds of devices whose values need no waiting
_OF_COUNTS = (
    "; numbers of objects become the mask of events that are filled from the first slot on by "
    "torch.arange(x.shape[-2]) < lengths[..., None]"
)


def as_mask(mask: Array, shape: Iterable[int] | None = None) -> Tensor:
    """Return `mask` as a boolean tensor, checked.

    Arguments:
        mask: the mask, a tensor, an array of NumPy or lists, with shape `(*batch, N)`; boolean, or
            integer or float with values 0 and 1 (only these are inspected: looking at values on a
            GPU costs a synchronisation), and not inside `torch.func.vmap`, which shows no values.
        shape: the shape that the mask must have; None accepts any.

    Raises:
        TypeError: if `mask` holds no plain numbers.
        ValueError: if the shape differs, or a value is neither 0 nor 1.

    >>> import torch
    >>> as_mask(torch.tensor([1.0, 0.0, 1.0]), shape=(3,))
    tensor([ True, False,  True])
    """
    if not isinstance(mask, Tensor) or mask.is_complex():
        mask = as_tensor(mask, "mask")
    if shape is not None and mask.shape != torch.Size(shape):
        counts = mask.dtype != torch.bool and mask.shape == torch.Size(shape)[:-1]
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, expected {tuple(shape)}: one entry for each "
            "object of each event (1 = real, 0 = padding), without feature dimensions"
            + (_OF_COUNTS if counts else "")
        )
    if mask.ndim == 0:
        raise ValueError("mask is a scalar, expected shape (*batch, N)")
    if mask.dtype == torch.bool:
        return mask
    seen = current_transform() is None or is_readable(mask)
    if seen and not bool(((mask == 0) | (mask == 1)).all()):
        bad = mask[(mask != 0) & (mask != 1)].flatten()[0].item()
        raise ValueError(
            f"mask holds the value {bad}, expected only 0 (padding) and 1 (real); "
            "a probability or a weight is not a mask: threshold it first"
            + (_OF_COUNTS if bad > 1 and float(bad).is_integer() else "")
        )
    return mask != 0


def as_present(present: Array, shape: Iterable[int], mask: Tensor | None) -> Tensor:
    """Return which features of real objects are there, checked, with the shape of the states.

    Arguments:
        present: which features each object has, with shape `shape`, or without some of its first
            dimensions; boolean, or 0 and 1. Padded slots may hold anything.
        shape: that of the states, `(*lead, N, ...)`.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.

    Raises:
        ValueError: if the shape differs, or a value is neither 0 nor 1.

    >>> import torch
    >>> as_present([[1, 0], [1, 1]], (2, 2), torch.tensor([True, False]))
    tensor([[ True, False],
            [False, False]])
    """
    present, shape = as_tensor(present, "present"), tuple(shape)
    if present.ndim < 2 or tuple(present.shape) != shape[len(shape) - present.ndim :]:
        raise ValueError(
            f"present has shape {tuple(present.shape)}, expected {shape}, that of the states: "
            "whether each object has each of its features"
        )
    if mask is not None:  # before a look at the values
        present = zero_padding(present.to(mask.device).expand(shape), mask)
    return as_mask(present.expand(shape))


def over_features(mask: Tensor, ndim: int) -> Tensor:
    """Append dimensions of size one to `mask` until it has `ndim`, so that it meets the features.

    >>> import torch
    >>> over_features(torch.ones(8, 30, dtype=torch.bool), 3).shape
    torch.Size([8, 30, 1])
    """
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return `x` with zeros in its padded slots, whatever stood there, NaN and Inf included.

    Arguments:
        x: values with shape `(*batch, N, ...)`.
        mask: boolean mask whose shape is that of the first dimensions of `x`; None means all real.

    >>> import torch
    >>> zero_padding(torch.tensor([[1.0], [float("nan")]]), torch.tensor([True, False]))
    tensor([[1.],
            [0.]])
    """
    if mask is None:
        return x
    # False is the zero of every dtype and changes none
    return torch.where(mask[(..., *(None,) * (x.ndim - mask.ndim))], x, False)


def count_real(mask: Tensor) -> Tensor:
    """Return the number of real objects of each event, with shape `batch` and dtype int64."""
    return mask.sum(-1)


def rank_of_real(mask: Tensor) -> Tensor:
    """Return the position of each real object among the real objects of its event, from 0.

    The value in a padded slot is that of the last real object before it (-1 if there is none) and
    must not be used. Shape and meaning are those of `mask`, dtype int64.

    >>> import torch
    >>> rank_of_real(torch.tensor([False, True, False, True]))
    tensor([-1,  0,  0,  1])
    """
    return mask.cumsum(-1) - 1


def is_at_hand(values: Tensor) -> bool:
    """Return whether a look at the values of a tensor waits for no accelerator.

    A check that a training step can do without looks only then.
    """
    return values.device.type in _AT_HAND


def is_readable(values: Tensor) -> bool:
    """Return whether the values of a tensor are at hand, and what they decide is not recorded."""
    if torch.compiler.is_compiling() or values.is_meta:
        return False
    # no public function asks for transforms, tracers and fake tensors
    functorch: Any = torch._C._functorch
    if torch._C._len_torch_dispatch_stack():
        return False
    while functorch.is_functorch_wrapped_tensor(values):
        if functorch.is_batchedtensor(values):
            return False
        values = functorch.get_unwrapped(values)
    return not (values.is_cuda and torch.cuda.is_current_stream_capturing())
