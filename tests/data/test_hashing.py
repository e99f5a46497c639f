"""Events are known again by their hashes, and shared out by them."""

from __future__ import annotations

import numpy as np

from each import each
from setflow.data.hashing import Seen, hash_of_events, hash_of_numbers, shares_of

RNG = np.random.default_rng(1)
X = RNG.normal(size=(200, 6, 3)).astype("f4")
REAL = RNG.random((200, 6)) < 0.6
REAL[:, 0] = True


def test_the_same_event_has_the_same_hash_however_it_stands():
    hashes = hash_of_events(X, REAL, ["a", "b", "c"])
    assert len({*hashes.tolist()}) == 200
    order = RNG.permutation(6)
    padded = np.where(REAL[..., None], X, np.nan)
    wide = np.concatenate([padded, np.full((200, 4, 3), 1e30)], 1)
    for x, real, names in (
        (X[:, order], REAL[:, order], ["a", "b", "c"]),
        (X[..., [2, 0, 1]].astype("f8"), REAL, ["c", "a", "b"]),
        (wide, np.pad(REAL, ((0, 0), (0, 4))), ["a", "b", "c"]),
    ):
        assert (hash_of_events(x, real, names) == hashes).all()


def test_another_event_has_another_hash():
    hashes = hash_of_events(X, REAL)
    for change in ("value", "sign", "columns", "objects"):
        x, real = X.copy(), REAL.copy()
        if change == "value":
            x[:, 0, 1] = np.nextafter(x[:, 0, 1], 9, dtype="f4")
        elif change == "sign":
            x[:, 0, 0] *= -1
        elif change == "columns":
            x[:, 0] = x[:, 0, ::-1]
        else:
            real[:, 1] = ~real[:, 1]
        assert not (hash_of_events(x, real) == hashes).any(), change
    # a value that moves from one object to another is not lost in a sum
    x = np.zeros((2, 2, 2), "f4")
    x[0], x[1] = [[1, 2], [3, 4]], [[1, 4], [3, 2]]
    first, second = hash_of_events(x, np.ones((2, 2), bool))
    assert first != second
    assert hash_of_events(x, np.zeros((2, 2), bool)).tolist() == [0, 0]
    assert hash_of_events(-0.0 * x, x[..., 0] > 0).tolist() == [
        *hash_of_events(0.0 * x, x[..., 0] > 0)
    ]


@each("fractions", [(0.5, 0.5), (0.8, 0.15, 0.05), (1.0,)])
def test_parts_have_their_fractions(fractions):
    """Also of numbers in a row, and each number goes to one part."""
    n = 100_000
    parts = shares_of(hash_of_numbers(np.arange(n)), fractions)
    counts = np.bincount(parts, minlength=len(fractions))
    sigma = np.sqrt(n * np.array(fractions) * (1 - np.array(fractions)))
    assert (np.abs(counts - n * np.array(fractions)) <= 5 * sigma).all()
    again = shares_of(hash_of_numbers(np.arange(n)[::-1].astype("u8")), fractions)
    assert (again[::-1] == parts).all()


def test_events_that_come_twice_are_counted():
    numbers = np.array([1, 2, 2, 3, 3, 3])
    seen, other = Seen(), Seen()
    for number in numbers:
        seen.add(hash_of_numbers(np.array([number])))
    other.add(hash_of_numbers(np.array([3, 3, 4])))
    assert (seen.again, other.again) == (3, 1)
    assert (seen.also_in(other), other.also_in(seen)) == (3, 2)
    assert seen.is_exact


def test_many_events_are_sampled_in_bounded_memory():
    numbers = np.arange(40_000)
    seen, other = Seen(kept=2000), Seen()
    for block in np.split(np.concatenate([numbers, numbers[:10_000]]), 50):
        seen.add(hash_of_numbers(block))
    other.add(hash_of_numbers(numbers[:20_000]))
    assert not seen.is_exact
    assert len(seen._codes) <= 2000
    assert abs(seen.again - 10_000) < 2000
    assert abs(other.also_in(seen) - 20_000) < 3000
    assert abs(seen.also_in(other) - 30_000) < 4000
