"""Random numbers by counter: the value depends on where it is used, never on what was drawn before.

One seed serves a whole run. `derive` gives each use of it a seed of its own, by name and number;
what is drawn for the events of one use parts by stream (noise, cardinality, signs), and independent
sets of signs for the same events by `EventSeeds.at`.

Philox 4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC11,
doi:10.1145/2063384.2063405), in integer arithmetic that is exact on every device. The key is the
seed; the counter is (event, rank or 0, feature and stream). So event k of a seed is the same event
whatever batch, shard or process computes it, and however long its padding is.
"""

from __future__ import annotations

import hashlib
import math
import operator
from dataclasses import dataclass

import torch
from torch import Tensor

from setflow.sets.arrays import check_generator
from setflow.sets.masks import rank_of_real, zero_padding
from setflow.sets.shapes import event_numel

__all__ = ["EventSeeds", "counter_normal", "counter_signs", "counter_uniform", "derive", "philox"]

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_BITS = 32  # of a word
_GOLDEN = 0x9E3779B97F4A7C15
_NOISE, _UNIFORM, _SIGNS = 0, 1, 2  # the stream: the two highest bits of the last counter word
_STREAM_SHIFT = 30


def derive(seed: int, *keys: int | str) -> int:
    """Return the seed, 64 bits, of one use of a seed, which the keys name.

    It is the BLAKE2b hash of the seed and the keys, each with its kind and its length, so that
    other keys, another order of them or another cut between them is another seed, and `1` is not
    `"1"`. The value is the same on every machine and in every release, so that a training may
    rely on it.

    Arguments:
        seed: the seed, any integer.
        keys: what the seed is for, integers and texts, from the general to the particular.

    Raises:
        TypeError: if a key is neither an integer nor a text.

    >>> derive(1, "training", 0)
    9556515370996078678
    >>> derive(1, "training", 0) == derive(1, "training0")
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for key in (seed, *keys):
        if isinstance(key, str):
            kind, content = b"text", key.encode()
        else:
            number = operator.index(key)
            kind = b"int "
            content = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
        digest.update(kind + len(content).to_bytes(8, "little") + content)
    return int.from_bytes(digest.digest(), "little")


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


@dataclass(frozen=True)
class EventSeeds:
    """What random numbers by counter depend on, for each event of a batch.

    Arguments:
        seed: the seed, 64 bits.
        index: the number of each event, int64, with the lead shape of the batch; an event keeps its
            number whatever batch it is in.
    """

    seed: int
    index: Tensor

    @classmethod
    def drawn(
        cls, lead: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None
    ) -> EventSeeds:
        """Draw the seed and number the events of a batch in their order."""
        check_generator(generator)
        source = torch.device("cpu") if generator is None else generator.device
        seed = torch.randint(2**62, (), generator=generator, device=source).item()
        return cls(int(seed), torch.arange(event_numel(lead), device=device).reshape(lead))

    def at(self, draw: int) -> EventSeeds:
        """Return the seeds of the `draw`-th independent set of numbers for the same events."""
        return EventSeeds((self.seed + draw * _GOLDEN) % 2**64, self.index)


def _uniform(high: Tensor, low: Tensor) -> Tensor:
    """Return 53-bit uniforms in (0, 1) from two 32-bit words."""
    return ((high >> 5).to(torch.float64) * 67108864.0 + (low >> 6) + 0.5) * 2.0**-53


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
    index = index.to(torch.int64)
    low, high = index & _LOW, index >> 32 & _LOW
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
    words = _coordinate_words(seed, index, mask, features, _NOISE)
    radius = torch.sqrt(-2.0 * torch.log(_uniform(words[0], words[1])))
    noise = radius * torch.cos((2.0 * math.pi) * _uniform(words[2], words[3]))
    return zero_padding(noise.reshape(*mask.shape, *features), mask)


def counter_signs(seeds: EventSeeds, mask: Tensor, features: tuple[int, ...], count: int) -> Tensor:
    """Return `count` independent sets of random signs, one sign for each real coordinate.

    Like the noise of `counter_normal` they depend on (seed, event, rank among real objects,
    feature) only, so that padding and company change nothing.

    Arguments:
        seeds: the seed and the event numbers, with shape `batch`.
        mask: boolean mask with shape `(*batch, N)`.
        features: the shape of one object.
        count: how many sets.

    Returns:
        int8, -1 and 1 with equal probability, with shape `(count, *batch, N, *features)`; zero in
        padded slots.

    >>> event = EventSeeds(7, torch.tensor([5]))
    >>> short = counter_signs(event, torch.ones(1, 2, dtype=torch.bool), (3,), 200)
    >>> long = counter_signs(event, torch.ones(1, 9, dtype=torch.bool), (3,), 200)
    >>> torch.equal(short, long[:, :, :2]), short.unique().tolist()
    (True, [-1, 1])
    """
    sets = []
    for block in range(-(-count // (4 * _BITS))):  # one call gives so many bits
        words = _coordinate_words(seeds.seed, seeds.index, mask, features, _SIGNS, block)
        for word in words[: -(-(count - block * 4 * _BITS) // _BITS)]:
            bits = torch.arange(_BITS, device=word.device).reshape(-1, *(1,) * word.ndim)
            sets.append(2 * (word >> bits & 1).to(torch.int8) - 1)
    signs = torch.cat(sets)[:count].reshape(count, *mask.shape, *features)
    return zero_padding(signs, mask.expand(count, *mask.shape))


def _coordinate_words(
    seed: int, index: Tensor, mask: Tensor, features: tuple[int, ...], stream: int, block: int = 0
) -> tuple[Tensor, ...]:
    """Return four words for each coordinate, with shape `(*batch, N, numel)`."""
    index = index.to(torch.int64)[..., None, None]
    low, high = index & _LOW, index >> 32 & _LOW
    rank = rank_of_real(mask).clamp(min=0)[..., None]
    numel = event_numel(features)
    last = torch.arange(numel, device=mask.device) + block * numel + (stream << _STREAM_SHIFT)
    return philox((low, high, rank, last), seed)
