"""Random signs by counter: fair, independent, and a function of the event alone."""

from __future__ import annotations

import torch

from setflow.random import EventSeeds, counter_normal, counter_signs


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
