"""Compiled fields: the same numbers, the same model, and an error where nothing can compile."""

from __future__ import annotations

import copy
import shutil

import h5py
import pytest
import torch
from torch import nn

import setflow
from laws.laws import redraw
from setflow.cli import main
from setflow.model.compiled import compile_field


def _flow():
    field = redraw(setflow.TransformerField(3, hidden=8, layers=1, heads=2))
    flow = setflow.SetFlow(field, cardinality=setflow.EmpiricalCardinality(12)).float()
    x = torch.randn(64, 12, 3, dtype=torch.float32)
    mask = torch.arange(12) < torch.randint(1, 13, (64, 1))
    return flow.fit_statistics(setflow.SetBatch(x, mask)), setflow.SetBatch(x, mask)


def test_without_a_compiler_a_field_on_a_cpu_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler.*no-such-compiler"):
        compile_field(_flow()[0])


@pytest.mark.wide
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of inductor's own imports
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_compiled_field_gives_the_same_numbers_and_stays_what_it_was(tmp_path):
    flow, data = _flow()
    plain = copy.deepcopy(flow)
    torch.compiler.reset()
    compile_field(flow)
    noise = torch.randn_like(data.x)
    for size in (64, 40):  # other shapes, too
        for model in (flow, plain):
            model.zero_grad()
            model.loss(data[:size], t=torch.full((size,), 0.3), noise=noise[:size]).backward()
        for mine, theirs in zip(flow.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)
        samples = [
            model.sample(size, seed=1, solver=setflow.Midpoint(2)) for model in (flow, plain)
        ]
        torch.testing.assert_close(samples[0].x, samples[1].x, atol=1e-5, rtol=1e-4)
    loaded = setflow.SetFlow.load(flow.save(tmp_path / "model"))
    assert type(loaded.field) is setflow.TransformerField
    assert loaded.field._compiled_call_impl is None


def test_sample_and_fit_compile_where_they_are_asked_to(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **given: asked.append((self, given)))
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    few = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "1"]
    main(["fit", "--config", "demo", "--name", "tiny", "--compile", *few])
    command = ["sample", "runs/tiny/model", "--events", "3", "--steps", "1", "--out"]
    main([*command, "plain.h5"])
    assert len(asked) == 1
    main([*command, "compiled.h5", "--compile"])
    assert [type(field) for field, _ in asked] == [setflow.TransformerField] * 2
    assert [given for _, given in asked] == [{"dynamic": True}] * 2
    with h5py.File("plain.h5") as plain, h5py.File("compiled.h5") as compiled:
        assert (plain["particle_features"][()] == compiled["particle_features"][()]).all()
    # an order for this run, and not for who trains from its configuration
    assert "compile" not in (tmp_path / "runs/tiny/config.yaml").read_text()
