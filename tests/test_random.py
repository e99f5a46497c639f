"""Seeds for each use, and random signs by counter, a function of the event alone."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from setflow.random import EventSeeds, counter_normal, counter_signs, derive

# --- one seed for each use ---

KNOWN = {
    (0,): 942255719006415262,
    (-1,): 9399484824691385223,
    (2**64, "a"): 15585912008914632864,
    (1, "training", 0): 9556515370996078678,
}


@pytest.mark.parametrize("keys", KNOWN, ids=str)
def test_derived_seeds_are_those_of_every_release(keys):
    assert derive(*keys) == KNOWN[keys]


def test_a_derived_seed_is_the_hash_that_is_documented():
    text = b"text" + (2).to_bytes(8, "little") + "é".encode()
    number = b"int " + (2).to_bytes(8, "little") + (200).to_bytes(2, "little")
    seed = b"int " + (1).to_bytes(8, "little") + (7).to_bytes(1, "little")
    digest = hashlib.blake2b(seed + text + number, digest_size=8).digest()
    assert derive(7, "é", 200) == int.from_bytes(digest, "little")


def test_no_two_uses_share_a_seed():
    """Other keys, another order, another cut between them, another kind: another seed."""
    words = ["", "a", "b", "ab", "1", "12", 0, 1, 2, 12, -1, 255, 256, 2**63, 2**64, -(2**63)]
    keys = [key for count in range(4) for key in itertools.product(words, repeat=count)]
    seeds = {derive(seed, *key) for seed in (0, 1, 12) for key in keys}
    assert len(seeds) == 3 * len(keys)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_derived_seeds_are_spread_evenly():
    seeds = np.array([derive(0, "event", k) for k in range(4000)], dtype=np.uint64)
    bits = (seeds[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 4.5 * 0.5 / 4000**0.5


def test_a_derived_seed_takes_integers_of_any_kind_and_nothing_else():
    assert derive(np.int64(3), torch.tensor(4).item()) == derive(3, 4)
    for wrong in (1.0, None, b"a", (1, 2)):
        with pytest.raises(TypeError):
            derive(0, wrong)


def test_a_derived_seed_is_the_same_in_every_process():
    code = "from setflow.random import derive; print(derive(3, 'here and there', 4))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == derive(3, "here and there", 4)


# --- signs ---


def test_signs_are_fair_and_independent_of_each_other():
    mask = torch.ones(40, 10, dtype=torch.bool)
    seeds = EventSeeds(5, torch.arange(40))
    signs = counter_signs(seeds, mask, (3,), 300).double().flatten(1)  # (300, 1200)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / signs.numel() ** 0.5
    # sets 0 and 128 come from different calls of the generator, 0 and 1 from bits of one word
    for first, second in ((0, 1), (0, 32), (0, 127), (0, 128), (1, 129), (127, 128), (0, 256)):
        assert abs((signs[first] * signs[second]).mean()) < 4 / 1200**0.5
    correlation = signs.T @ signs / 300 - torch.eye(1200)
    assert correlation.abs().max() < 6.5 / 300**0.5  # 720,000 pairs of coordinates


def test_signs_do_not_depend_on_padding_or_company():
    mask = torch.tensor([[True, False, True, True], [False, False, False, True]])
    seeds = EventSeeds(2**63, torch.tensor([7, 2**33]))
    signs = counter_signs(seeds, mask, (2,), 130)
    assert (signs[:, ~mask] == 0).all()
    alone = counter_signs(EventSeeds(2**63, torch.tensor([2**33])), mask[1:, 3:], (2,), 130)
    assert torch.equal(signs[:, 1, 3], alone[:, 0, 0])
    few = counter_signs(seeds, mask, (2,), 3)
    assert torch.equal(signs[:3], few)


def test_other_draws_are_other_numbers():
    mask, index = torch.ones(1, 200, dtype=torch.bool), torch.tensor([0])
    seeds = EventSeeds(1, index)
    first, second = (counter_signs(seeds.at(k), mask, (), 1).double() for k in (1, 2))
    assert abs((first * second).mean()) < 4 / 200**0.5
    noise = counter_normal(1, index, mask, ())
    assert abs((noise * counter_normal(seeds.at(1).seed, index, mask, ())).mean()) < 4 / 200**0.5


def test_the_seed_of_a_batch_comes_from_the_generator():
    device = torch.device("cpu")
    one, same, other = (
        EventSeeds.drawn((2, 3), device, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert one.seed == same.seed != other.seed
    assert one.index.tolist() == [[0, 1, 2], [3, 4, 5]]
