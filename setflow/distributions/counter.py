"""Random numbers by counter: the value depends on where it is used, never on what was drawn before.

Philox 4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC11,
doi:10.1145/2063384.2063405), in integer arithmetic that is exact on every device. The key is the
seed; the counter is (event, rank or 0, feature and stream). So event k of a seed is the same event
whatever batch, shard or process computes it, and however long its padding is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from setflow.core.masks import rank_of_real, zero_padding
from setflow.core.specs import event_numel

__all__ = ["counter_normal", "counter_uniform", "philox"]

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_NOISE, _UNIFORM = 0, 1  # the stream: the two highest bits of the last counter word
_STREAM_SHIFT = 30


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, ...]:
    """Return four 32-bit words, as int64 tensors, for each counter of four 32-bit words.

    Arguments:
        counter: four int64 tensors that broadcast against each other, values in [0, 2^32).
        seed: the 64-bit key.

    >>> zero = torch.zeros((), dtype=torch.int64)
    >>> [f"{word.item():08x}" for word in philox((zero, zero, zero, zero), seed=0)]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    key = [seed & _LOW, (seed >> 32) & _LOW]
    for _ in range(_ROUNDS):
        # the product of two 32-bit words may wrap as a signed int64; its halves are right anyway
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (second >> 32 & _LOW) ^ c1 ^ key[0],
            second & _LOW,
            (first >> 32 & _LOW) ^ c3 ^ key[1],
            first & _LOW,
        )
        key = [(key[0] + _WEYL[0]) & _LOW, (key[1] + _WEYL[1]) & _LOW]
    return c0, c1, c2, c3


def _uniform(high: Tensor, low: Tensor) -> Tensor:
    """Return 53-bit uniforms in (0, 1) from two 32-bit words."""
    return ((high >> 5).to(torch.float64) * 67108864.0 + (low >> 6) + 0.5) * 2.0**-53


def _event_words(index: Tensor) -> tuple[Tensor, Tensor]:
    index = index.to(torch.int64)
    return index & _LOW, index >> 32 & _LOW


def counter_uniform(seed: int, index: Tensor) -> Tensor:
    """Return one uniform number in (0, 1) per event, a function of (seed, event index) only.

    Arguments:
        seed: the seed, 64 bits.
        index: the event indices, int64, of any shape.

    Returns:
        float64, with the shape of `index`.

    >>> counter_uniform(1, torch.arange(3))[2] == counter_uniform(1, torch.tensor([2]))[0]
    tensor(True)
    """
    low, high = _event_words(index)
    last = torch.full_like(low, _UNIFORM << _STREAM_SHIFT)
    words = philox((low, high, torch.zeros_like(low), last), seed)
    return _uniform(words[0], words[1])


def counter_normal(seed: int, index: Tensor, mask: Tensor, features: tuple[int, ...]) -> Tensor:
    """Return standard normal noise, a function of (seed, event, rank among real objects, feature).

    Arguments:
        seed: the seed, 64 bits.
        index: the event indices, int64, with shape `batch`.
        mask: boolean mask with shape `(*batch, N)`.
        features: the shape of one object.

    Returns:
        float64 noise with shape `(*batch, N, *features)`, zero in padded slots.

    >>> short = counter_normal(7, torch.tensor([5]), torch.ones(1, 2, dtype=torch.bool), (3,))
    >>> long = counter_normal(7, torch.tensor([5]), torch.ones(1, 9, dtype=torch.bool), (3,))
    >>> torch.equal(short, long[:, :2])
    True
    """
    low, high = (word[..., None, None] for word in _event_words(index))
    rank = rank_of_real(mask).clamp(min=0)[..., None]
    feature = torch.arange(event_numel(features), device=mask.device)
    last = feature + (_NOISE << _STREAM_SHIFT)
    words = philox((low, high, rank, last), seed)
    radius = torch.sqrt(-2.0 * torch.log(_uniform(words[0], words[1])))
    noise = radius * torch.cos((2.0 * math.pi) * _uniform(words[2], words[3]))
    return zero_padding(noise.reshape(*mask.shape, *features), mask)
