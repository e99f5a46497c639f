"""Kept values: what the verbs gave on fixed input, so that a restructuring shows what it changes.

`kept.json` holds the values, which stay equal to 1e-10 in float64 and 1e-5 in float32, relative to
max(1, |value|). Only public names are used here. Parameters and input are numpy's numbers and
depend on names and shapes alone, not on torch's random generators; only the noise of `SetFlow.loss`
is drawn by torch. To write the values anew::

    python tests/test_kept.py

It replaces the file by a rename, leaves what is equal as it was, and tells what is not. A
difference must be explained in the commit that brings it.

The values of `models/top30` belong to the weights whose sha256 is kept with them, and are not
looked at while another model stands there.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import setflow
from setflow.data import Standardizer
from setflow.model import OutsideTrainingWarning

KEPT = Path(__file__).with_name("kept.json")
MODEL = Path(__file__).resolve().parents[1] / "models/top30"
WEIGHTS = "sha256 of models/top30/weights.safetensors"
TOLERANCES = {"float64": 1e-10, "float32": 1e-5}
# numbers of fair condition: the rounding of float32 stays well below its tolerance
SEED = 24
SCALE = 0.2  # of parameters

Context = Tensor | setflow.SetBatch | None
Kept = dict[str, Any]  # the sha256, and lists of numbers by "name/dtype/what"

MASK = torch.tensor(
    [
        [0, 1, 1, 0, 1, 0, 1],
        [1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1],
        [1, 0, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 1],
    ],
    dtype=torch.bool,
)
CONTEXT_MASK = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]] * 2)
EVENTS, SLOTS = MASK.shape


# --- fixed input ---


@contextmanager
def default_dtype(name: str) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def normal(name: str, *shape: int) -> Tensor:
    """Return standard normal numbers of that name, the same in both dtypes."""
    generator = np.random.Generator(np.random.Philox([SEED, *name.encode()]))
    numbers = generator.standard_normal(shape).astype(np.float32)
    return torch.from_numpy(numbers).to(torch.get_default_dtype())


def redrawn(module: nn.Module) -> Any:
    """Draw every parameter anew, by its name."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(SCALE * normal(name, *parameter.shape))
    return module


def times() -> Tensor:
    return (torch.arange(EVENTS) + 0.5) / EVENTS


def no_context() -> Context:
    return None


def event_context() -> Context:
    return normal("context", EVENTS, 2)


def object_context() -> Context:
    return normal("object context", EVENTS, SLOTS, 2)


def context_set() -> Context:
    return setflow.SetBatch(normal("context set", *CONTEXT_MASK.shape, 2), CONTEXT_MASK)


def context_set_with_context() -> Context:
    objects = normal("context set", *CONTEXT_MASK.shape, 2)
    return setflow.SetBatch(objects, CONTEXT_MASK, normal("context", EVENTS, 2))


# --- the families, as in families.py ---


def _transformer(**options: Any) -> setflow.TransformerField:
    return setflow.TransformerField(3, hidden=8, layers=2, heads=2, **options)


def _epic(**options: Any) -> setflow.EPiCField:
    return setflow.EPiCField(3, hidden=8, latent=4, layers=2, **options)


def _graph(k: int | None = 2, **options: Any) -> setflow.GraphField:
    return setflow.GraphField(3, hidden=8, layers=2, messages=8, k=k, **options)


def _gaussian() -> setflow.GaussianSetField:
    return setflow.GaussianSetField([0.5, -0.25, 0.0], [0.5, 1.0, 2.0], coupling=0.5)


GAUSSIAN = "gaussian"
FIELDS: dict[str, tuple[Callable[[], setflow.VectorField], Callable[[], Context]]] = {
    "transformer": (_transformer, no_context),
    "transformer, context": (lambda: _transformer(condition_dim=2), event_context),
    "transformer, object context": (
        lambda: _transformer(object_condition_dim=2, qk_norm=True),
        object_context,
    ),
    "transformer, context set": (lambda: _transformer(set_condition_dim=2), context_set),
    "transformer, context set with context": (
        lambda: _transformer(set_condition_dim=2, condition_dim=2, qk_norm=True),
        context_set_with_context,
    ),
    "transformer, pairs": (
        lambda: _transformer(pair_features=setflow.PairFeatures(columns=[0, 1, 2])),
        no_context,
    ),
    "transformer, angles": (lambda: _transformer(angles=[2]), no_context),
    "transformer, relative angles": (
        lambda: _transformer(angles=[0, 2], relative_angles=[2]),
        no_context,
    ),
    "epic": (_epic, no_context),
    "epic, context": (lambda: _epic(condition_dim=2), event_context),
    "epic, object context": (lambda: _epic(object_condition_dim=2), object_context),
    "epic, angles": (lambda: _epic(angles=[2]), no_context),
    "graph": (_graph, no_context),
    "graph, edgeconv": (
        lambda: _graph(k=1, aggregation="edgeconv", condition_dim=2, coordinates=[0]),
        event_context,
    ),
    "graph, angles": (lambda: _graph(angles=[2]), no_context),
    "graph, complete": (lambda: _graph(k=None, object_condition_dim=2), object_context),
    "graph, fixed": (
        lambda: _graph(object_condition_dim=2, graph_from="context"),
        object_context,
    ),
    GAUSSIAN: (_gaussian, no_context),
}


# --- values ---


def summary(x: Tensor, mask: Tensor) -> Tensor:
    """Return sum, norm and the first eight numbers of real slots."""
    real = x[mask].flatten().double()
    return torch.cat([real.sum()[None], real.norm()[None], real[:8]])


def verbs(field: setflow.VectorField, c: Context) -> dict[str, Tensor]:
    """What every family is asked for."""
    x, noise = normal("data", EVENTS, SLOTS, 3), normal("noise", EVENTS, SLOTS, 3)
    base = setflow.StandardNormal((3,))
    loss = setflow.masked_fm_loss(field, x, noise, MASK, times(), c, reduction="none")
    values = {"masked_fm_loss": loss}
    if list(field.parameters()):
        loss.mean().backward()
        squares = [p.grad.double().square().sum() for p in field.parameters() if p.grad is not None]
        values["norm of the gradient"] = torch.stack(squares).sum().sqrt()
    with torch.no_grad():
        z = setflow.masked_sample(field, base, setflow.Midpoint(3), MASK, c=c, x_source=noise)
        values["masked_sample"] = summary(z, MASK)
        values["masked_log_prob"] = setflow.masked_log_prob(
            field, base, setflow.RK4(2), x, MASK, c=c
        )
    return values


@torch.no_grad()
def further_verbs(field: setflow.VectorField) -> dict[str, Tensor]:
    """What a single family is asked for besides."""
    x, noise = normal("data", EVENTS, SLOTS, 3), normal("noise", EVENTS, SLOTS, 3)
    t, base, schedule = times(), setflow.StandardNormal((3,)), setflow.VPSchedule()
    estimate = setflow.masked_log_prob(
        field, base, setflow.RK4(2), x, MASK, return_standard_error=True,
        estimator=setflow.HutchinsonDivergence(n_probes=4),
        generator=torch.Generator().manual_seed(SEED),
    )  # fmt: skip
    return {
        "fm_loss": setflow.fm_loss(field, x, noise, t, reduction="none"),
        "masked_stochastic_fm_loss": setflow.masked_stochastic_fm_loss(
            field, x, noise, MASK, t, z=normal("z", EVENTS, SLOTS, 3), reduction="none"
        ),
        "masked_diffusion_loss": setflow.masked_diffusion_loss(
            field, x, schedule, MASK, t, noise=noise, reduction="none"
        ),
        "masked_log_prob, Hutchinson": estimate.log_prob,
        "masked_log_prob, Hutchinson, standard error": estimate.standard_error,
    }


@torch.no_grad()
def model(
    flow: setflow.SetFlow, batch: setflow.SetBatch, c: Tensor | None = None
) -> dict[str, Tensor]:
    """What a generative model is asked for; `c` is the context of 64 events to sample."""
    generator = torch.Generator().manual_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideTrainingWarning)  # normal contexts are
        sample = flow.sample(64, c, seed=1, solver=setflow.Midpoint(4))
    terms = flow.log_prob_terms(batch, solver=setflow.RK4(2))
    return {
        "SetFlow.loss": flow.loss(batch, t=times(), generator=generator),
        "SetFlow.sample": summary(sample.x, sample.mask),
        "SetFlow.sample, lengths": sample.lengths,
        **{f"SetFlow.log_prob_terms, {name}": term for name, term in terms._asdict().items()},
    }


def values_of_field(name: str) -> dict[str, Tensor]:
    """Return what a family gives, and a model with such a field if a model can have it."""
    make, context = FIELDS[name]
    c = context()
    values = verbs(redrawn(make()), c)
    if name == "transformer":
        values |= further_verbs(redrawn(make()))
    if context not in (no_context, event_context) or "angles" in name:
        return values
    with_context = context is event_context
    flow = setflow.SetFlow(
        make(),
        scaler=Standardizer(kinds=["real", "positive", "positive(boxcox=0.3)"]),
        cardinality=(
            setflow.ConditionalCardinality(SLOTS, 2, hidden=8)
            if with_context
            else setflow.EmpiricalCardinality(SLOTS)
        ),
        conditions=("mass", "pt") if with_context else (),
    )
    batch = setflow.SetBatch((0.25 * normal("data", EVENTS, SLOTS, 3)).exp(), MASK, c)
    redrawn(flow.fit_statistics(batch))
    return values | model(flow, batch, normal("contexts", 64, 2) if with_context else None)


def values_of_top30() -> dict[str, Tensor]:
    """Return what `models/top30` gives, for events about as wide as jets."""
    flow = setflow.SetFlow.load(MODEL).to(torch.get_default_dtype())
    width = torch.tensor([0.15, 0.15, 0.8])
    x = width * normal("jets", EVENTS, 30, 3)
    x = torch.cat([x[..., :2], 0.02 * x[..., 2:].exp()], -1)
    known = flow.cardinality.log_prob(torch.arange(31)).isfinite().nonzero().flatten()
    lengths = torch.cat([known[: EVENTS - 1], known[-1:]])  # short ones: they take little time
    return model(flow, setflow.SetBatch(x, torch.arange(30) < lengths[:, None]))


TOP30 = "top30"


def computed(name: str, dtype: str) -> dict[str, list[float]]:
    """Return the values of a family, or of `models/top30`, as lists of numbers."""
    with default_dtype(dtype):
        values = values_of_top30() if name == TOP30 else values_of_field(name)
    return {
        f"{name}/{dtype}/{what}": value.detach().double().reshape(-1).tolist()
        for what, value in values.items()
    }


def distance(got: list[float], kept: Kept, key: str) -> float:
    """Return the largest difference to the kept values, relative to max(1, |value|).

    Of a total it is relative to the largest of its terms, which rounding is proportional to: they
    have both signs, and how float32 rounds them depends on the processor.
    """
    if len(got) != len(kept[key]):
        return float("inf")
    term, _, what = key.rpartition(", ")
    parts = [other for other in kept if other.startswith(f"{term}, ")] if what == "total" else [key]
    scale = np.max([np.abs(kept[part]) for part in parts], axis=0)
    return float(np.max(np.abs(np.array(got) - kept[key]) / np.maximum(1, scale)))


def changes(got: dict[str, list[float]], kept: Kept, name: str, dtype: str) -> dict[str, str]:
    """Return what the values of one name and dtype differ in, in words."""
    found = {
        key: "no longer computed"
        for key in kept
        if key.startswith(f"{name}/{dtype}/") and key not in got
    }
    for key, value in got.items():
        if key not in kept:
            found[key] = "not kept"
        elif not (apart := distance(value, kept, key)) <= TOLERANCES[dtype]:  # a NaN, too
            found[key] = f"differs by {apart:.1e}"
    return found


def sha256_of_weights() -> str:
    return hashlib.sha256((MODEL / "weights.safetensors").read_bytes()).hexdigest()


# --- tests ---


@pytest.fixture(scope="module")
def kept() -> Kept:
    return json.loads(KEPT.read_text())


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", FIELDS)
def test_the_values_of_a_family_are_those_kept(name, dtype, kept):
    assert changes(computed(name, dtype), kept, name, dtype) == {}


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_values_of_top30_are_those_kept(dtype, kept):
    if sha256_of_weights() != kept[WEIGHTS]:
        pytest.skip("another model stands there: write the values anew")
    assert changes(computed(TOP30, dtype), kept, TOP30, dtype) == {}


def test_values_of_every_family_are_kept(kept):
    from families import FAMILIES

    assert set(FIELDS) == {*FAMILIES, GAUSSIAN}
    assert {key.split("/")[0] for key in kept if key != WEIGHTS} == {*FIELDS, TOP30}


def test_a_value_that_changed_is_found():
    one = "epic/float64/loss"
    assert changes({one: [100.0, 0.5]}, {one: [100.0 + 5e-9, 0.5]}, "epic", "float64") == {}
    for wrong in ([100.0, 0.5 + 2e-10], [100.0, float("nan")], [100.0]):
        assert set(changes({one: wrong}, {one: [100.0, 0.5]}, "epic", "float64")) == {one}
    assert set(changes({}, {one: [0.5]}, "epic", "float64")) == {one}
    assert set(changes({one: [0.5]}, {}, "epic", "float64")) == {one}


# --- writing ---


def write() -> None:
    """Write the values anew, and tell on the standard output which of them changed."""
    before: Kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    after: Kept = {WEIGHTS: sha256_of_weights()}
    if before and before.get(WEIGHTS) != after[WEIGHTS]:
        sys.stdout.write("models/top30: other weights\n")
    for name in [*FIELDS, TOP30]:
        for dtype in TOLERANCES:
            got = computed(name, dtype)
            changed = changes(got, before, name, dtype)
            after |= {key: got[key] if key in changed else before[key] for key in got}
            sys.stdout.writelines(f"{key}: {what}\n" for key, what in changed.items())
    for name in sorted({key.split("/")[0] for key in before if key != WEIGHTS} - {*FIELDS, TOP30}):
        sys.stdout.write(f"{name}: no longer computed\n")
    lines = [f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in after.items()]
    new = KEPT.with_suffix(".json.tmp")
    new.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    new.replace(KEPT)


if __name__ == "__main__":
    write()
