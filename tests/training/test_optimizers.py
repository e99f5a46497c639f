"""Muon: what its iteration returns, and that it descends, resumes and takes every parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from setflow.training import Muon
from setflow.training.optimizers import orthogonalised


@pytest.mark.parametrize("shape", [(3, 20, 20), (2, 48, 16), (2, 16, 48)])
def test_the_iteration_keeps_directions_and_levels_their_sizes(shape):
    matrices = torch.randn(shape)
    result = orthogonalised(matrices)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    inner = u.mT @ result @ vh.mT
    sizes = torch.diagonal(inner, dim1=-2, dim2=-1)
    assert (inner - torch.diag_embed(sizes)).abs().max() < 1e-8
    assert sizes.median() == pytest.approx(1.0, abs=0.3)
    assert sizes.max() < 1.3
    assert sizes.min() > 0.1


def _problem():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
    )
    x = torch.randn(256, 4)
    y = (x[:, :1] * x[:, 1:2]).sin()
    return model, lambda: (model(x) - y).square().mean()


def test_it_descends_and_moves_every_parameter():
    model, loss = _problem()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = Muon(model.parameters(), lr=1e-2)
    first = loss().item()
    for _ in range(100):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    assert value.item() < 0.1 * first
    assert all((p != q).any() for p, q in zip(model.parameters(), before, strict=True))


def test_small_and_flat_parameters_follow_adamw():
    model, loss = _problem()
    twin, twin_loss = _problem()
    ours = Muon(model.parameters(), lr=1e-3, weight_decay=0.1)
    theirs = torch.optim.AdamW(twin.parameters(), lr=1e-3, weight_decay=0.1)
    loss().backward()
    twin_loss().backward()
    ours.step()
    theirs.step()
    for name, p in model.named_parameters():
        q = twin.get_parameter(name)
        if name == "2.weight":
            assert (p - q).abs().max() > 1e-5
        else:
            torch.testing.assert_close(p, q)


def test_a_restored_optimizer_goes_on():
    def steps(model, loss, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    model, loss = _problem()
    optimizer = Muon(model.parameters(), lr=1e-2)
    steps(model, loss, optimizer, 6)
    broken, broken_loss = _problem()
    first = Muon(broken.parameters(), lr=1e-2)
    steps(broken, broken_loss, first, 3)
    second = Muon(broken.parameters(), lr=1e-2)
    second.load_state_dict(first.state_dict())
    steps(broken, broken_loss, second, 3)
    for p, q in zip(model.parameters(), broken.parameters(), strict=True):
        assert torch.equal(p, q)


def test_parameters_without_a_gradient_stay():
    layer = nn.Linear(32, 32)
    weight = layer.weight.detach().clone()
    layer.bias.sum().backward()
    Muon(layer.parameters()).step()
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="expected lr"):
        Muon(nn.Linear(2, 2).parameters(), **options)
