"""The contract of every field on sets: laws, derivatives, compilation, files, totals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch.func import functional_call, jvp, vjp, vmap

import setflow
from each import each
from families import FAMILIES
from laws.laws import LAWS, Case, cases, redraw, to_device
from laws.subjects import velocity_of
from setflow.data import Standardizer
from setflow.fields import transformer
from setflow.model.folder import build, describe

DTYPES = {"float64": torch.float64, "float32": torch.float32}
ALL = pytest.mark.parametrize("name", FAMILIES)
PLAIN = ("transformer", "epic", "graph")


def field_of(name: str, dim: int = 3, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """Return a field with weights that leave no gate shut."""
    field = redraw(FAMILIES[name].make(dim))
    if dtype != torch.float64:  # rounding must not be magnified a thousand times
        with torch.no_grad():
            for parameter in field.parameters():
                parameter.mul_(0.5)
    return field.to(dtype)


def cases_of(name: str, dtype: torch.dtype = torch.float64) -> dict[str, Case]:
    def cast(value):
        return value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value

    return {
        case_name: Case(*(cast(getattr(case, part)) for part in Case.__dataclass_fields__))
        for case_name, case in cases((3,), **FAMILIES[name].cases)
    }


def context_of(case: Case) -> torch.Tensor | None:
    return case.c if case.c_object is None else case.c_object


def velocity(field, case: Case, x=None, mask=...):
    mask = case.mask if mask is ... else mask
    return field(case.x if x is None else x, case.t, context_of(case), mask=mask)


@each("law", LAWS)
@pytest.mark.parametrize("dtype", DTYPES)
@ALL
def test_fields_keep_the_law(name, law, dtype, device):
    field = field_of(name, dtype=DTYPES[dtype]).to(device)
    for case_name, case in cases_of(name, DTYPES[dtype]).items():
        if law != "emptiness" or case_name != "lead0":  # its one event has objects
            LAWS[law](velocity_of(field), to_device(case, device))


@ALL
def test_objects_meet(name, device):
    """A field that does not mix would pass laws that it might break."""
    field, case = field_of(name).to(device), to_device(cases_of(name)["lead1"], device)
    moved = case.x.clone()
    moved[1, 0] += 0.3
    difference = velocity(field, case, moved) - velocity(field, case)
    assert difference[1, 1:].abs().max() > 1e-3
    assert difference[[0, 2, 3, 4, 5]].abs().max() == 0


@ALL
def test_the_context_is_heard_and_time_too(name):
    field, case = field_of(name), cases_of(name)["lead1"]
    v = velocity(field, case)
    later = velocity(field, replace(case, t=case.t + 0.1))
    assert (later - v)[1].abs().max() > 1e-3
    for part in ("c", "c_object"):
        if (value := getattr(case, part)) is not None:
            other = velocity(field, replace(case, **{part: value + 0.1}))
            assert (other - v)[1].abs().max() > 1e-3


@ALL
def test_forward_and_reverse_mode_agree_with_differences(name, device):
    """Along two directions, together and one by one."""
    field, case = field_of(name).to(device), to_device(cases_of(name)["lead1"], device)
    generator = torch.Generator().manual_seed(1)
    u, w = (torch.randn(case.x.shape, generator=generator).to(case.x) for _ in range(2))
    real = case.mask[..., None]

    def f(x):
        return velocity(field, case, x)

    v, forward = jvp(f, (case.x,), (u,))
    step = 1e-6
    difference = (f(case.x + step * u) - f(case.x - step * u)) / (2 * step)
    scale = forward.abs().max().item()
    torch.testing.assert_close(forward, difference, rtol=0, atol=1e-6 * scale)
    _, pull = vjp(f, case.x)
    back = pull(w)[0]
    torch.testing.assert_close((w * forward).sum(), (back * u).sum(), rtol=1e-9, atol=1e-9)
    assert (back[~case.mask] == 0).all()
    several = torch.stack([u, w, u - w])
    together = vmap(lambda vector: jvp(f, (case.x,), (vector,))[1])(several)
    torch.testing.assert_close(together[0], forward)
    torch.testing.assert_close(together[0] - together[1], together[2])
    reverse = vmap(lambda vector: pull(vector)[0])(several)
    torch.testing.assert_close(reverse[1], back)
    assert v.isfinite().all()
    assert (forward[~case.mask] == 0).all()
    assert forward[real.expand_as(forward)].abs().max() > 1e-3


@ALL
def test_events_one_by_one_are_events_together(name):
    """`vmap` over events: each then has a lead shape of no dimension."""
    field, case = field_of(name), cases_of(name)["lead1"]
    c = context_of(case)

    def one(x, t, mask, c=None):
        return field(x, t, c, mask=mask)

    arguments = (case.x, case.t, case.mask) + (() if c is None else (c,))
    got = vmap(one)(*arguments)
    torch.testing.assert_close(got, velocity(field, case), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "backend"),
    [*((name, "eager") for name in FAMILIES), *((name, "aot_eager") for name in PLAIN)],
)
def test_it_compiles_as_one_graph(name, backend):
    """Traced with a mask for all; with its backward pass and without a mask for the plain ones."""
    field, case = field_of(name), cases_of(name)["lead1"]
    mask = case.mask if backend == "eager" else None
    torch.compiler.reset()
    compiled = torch.compile(field, fullgraph=True, backend=backend)
    x = case.x.clone().requires_grad_()
    got, expected = velocity(compiled, case, x, mask), velocity(field, case, x, mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(v.square().sum(), x)[0] for v in (got, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_choosing_the_kernels_of_a_gpu_breaks_no_graph(monkeypatch):
    choose = transformer._attention_backends
    monkeypatch.setattr(transformer, "_attention_backends", lambda on_cuda: choose(True))
    field, case = field_of("transformer"), cases_of("transformer")["lead1"]
    torch.compiler.reset()
    compiled = torch.compile(field, fullgraph=True, backend="eager")
    torch.testing.assert_close(velocity(compiled, case), velocity(field, case), rtol=0, atol=1e-10)


@ALL
def test_other_dtypes_are_taken_or_refused(name):
    """A context of NumPy's float64 is rounded to the state's; a state is not."""
    field = field_of(name, dtype=torch.float32)
    wide, case = cases_of(name)["lead1"], cases_of(name, torch.float32)["lead1"]
    expected = velocity(field, case)
    context = {part: getattr(wide, part) for part in ("c", "c_object", "t")}
    torch.testing.assert_close(velocity(field, replace(case, **context)), expected)
    with pytest.raises(ValueError, match=r"x with dtype torch.float64, but its weights have"):
        velocity(field, wide)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_another_dtype_is_the_same_from_its_file(name, dtype, tmp_path):
    field, scaler = redraw(FAMILIES[name].make(3)).float(), Standardizer(3, mean=0, std=1)
    flow = setflow.SetFlow(field, scaler=scaler, features=["a", "b", "c"])
    flow.field.to(dtype)
    batch = setflow.SetBatch(torch.randn(4, 5, 3), torch.rand(4, 5) > 0.3)
    flow.loss(batch).backward()
    flow.save(tmp_path / "model")
    again = setflow.SetFlow.load(tmp_path / "model")
    got, expected = (
        each.sample(4, seed=1, lengths=batch.lengths, solver=setflow.Midpoint(2))
        for each in (again, flow)
    )
    assert torch.equal(got.x, expected.x)


@ALL
def test_short_arithmetic_stays_within_its_tolerance(name, device):
    """Autocast to bfloat16, 8 bits: a few of its steps, whatever stands in the padding."""
    field = field_of(name, dtype=torch.float32).to(device)
    case = to_device(cases_of(name, torch.float32)["lead1"], device)
    expected = velocity(field, case)
    with torch.autocast(device.type, torch.bfloat16):
        got = velocity(field, case)
        filled = case.x.masked_fill(~case.mask[..., None], float("nan"))
        again = velocity(field, case, filled)
    assert torch.equal(got, again)
    assert got.isfinite().all()
    scale = expected.abs().max()
    assert (got.float() - expected).abs().max() < 0.05 * scale
    assert (got.float() - expected).square().mean().sqrt() < 0.01 * scale
    assert (got[~case.mask] == 0).all()


@ALL
def test_gradients_are_finite_and_reach_every_weight(name):
    """With NaN in the padding, empty events and objects on top of each other."""
    field, case = field_of(name), cases_of(name)["lead1"]
    x = case.x.masked_fill(~case.mask[..., None], float("nan"))
    x[1] = x[1, :1]  # all objects of this event in one place
    x[5, 4] = x[5, 5]
    x.requires_grad_()
    if case.c is not None:
        case = replace(case, c=case.c.masked_fill(~case.mask.any(-1)[..., None], float("nan")))
    value = velocity(field, case, x).square().sum()
    named = dict(field.named_parameters())
    *gradients, of_x = torch.autograd.grad(value, [*named.values(), x])
    for parameter, gradient in zip(named, gradients, strict=True):
        assert gradient.isfinite().all(), parameter
        assert gradient.abs().max() > 0, parameter
    assert of_x.isfinite().all()
    assert (of_x[~case.mask] == 0).all()


@ALL
def test_training_and_evaluation_are_the_same_velocity(name):
    field, case = field_of(name), cases_of(name)["lead1"]
    assert torch.equal(velocity(field.train(), case), velocity(field.eval(), case))


@ALL
def test_it_is_zero_before_training_but_for_what_it_has_to_learn_from(name):
    """Gates are shut, and the last layer gets a gradient."""
    torch.manual_seed(0)
    field, case = FAMILIES[name].make(3).double(), cases_of(name)["lead1"]
    v = velocity(field, case)
    assert (v == 0).all()
    gradients = torch.autograd.grad(
        (v - case.x_source)[case.mask].square().sum(), list(field.parameters()), allow_unused=True
    )
    assert sum(g is not None and bool(g.abs().max() > 0) for g in gradients) > 0


@ALL
def test_it_is_described_saved_and_built_again(name):
    field = getattr(field_of(name), "field", field_of(name))  # without the wrapper of a context set
    described = describe(field)
    assert set(described["init_args"]) >= {"dim", "hidden", "layers"}
    again = build(described, expected=setflow.VectorField, where="test").double()
    again.load_state_dict(load(save(field.state_dict())))
    assert describe(again) == described
    outer, case = field_of(name), cases_of(name)["lead1"]
    weights = {
        key: again.state_dict()[key.removeprefix("field.") if outer is not field else key]
        for key in (key for key in outer.state_dict())
    }
    zeros = {key: torch.zeros_like(value) for key, value in weights.items()}
    got = functional_call(outer, weights, (case.x, case.t, context_of(case)), {"mask": case.mask})
    torch.testing.assert_close(got, velocity(outer, case), rtol=0, atol=1e-12)
    nothing = functional_call(outer, zeros, (case.x, case.t, context_of(case)), {"mask": case.mask})
    assert (nothing - got).abs().max() > 1e-3


@ALL
def test_any_batch_shape_and_none(name):
    field, case = field_of(name), cases_of(name)["lead1"]
    v = velocity(field, case)
    shaped = Case(
        *(
            None if value is None else value.reshape(3, 1, 2, *value.shape[1:])
            for value in (getattr(case, part) for part in Case.__dataclass_fields__)
        )
    )
    torch.testing.assert_close(velocity(field, shaped).reshape(v.shape), v, rtol=0, atol=1e-12)
    none = Case(
        *(
            None if value is None else value[:0]
            for value in (getattr(case, part) for part in Case.__dataclass_fields__)
        )
    )
    assert velocity(field, none).shape == (0, *v.shape[1:])
    no_slot = case.per_slot(lambda value: value[:, :0])
    assert velocity(field, no_slot).shape == (6, 0, 3)


@ALL
def test_what_does_not_fit_is_refused(name):
    field, case = field_of(name), cases_of(name)["lead1"]
    c = context_of(case)

    def refused(message, x=case.x, t=case.t, c=c, mask=case.mask):
        with pytest.raises(ValueError, match=message):
            field(x, t, c, mask=mask)

    refused("expected features", x=case.x[..., :2])
    refused("expected a scalar or", t=case.t[:1])
    refused("mask has shape", mask=case.mask[:1])
    refused("mask has shape", mask=case.mask[:, :-1])
    if c is None:
        refused("takes none", c=torch.zeros(6, 1))
        refused("takes none", c=setflow.SetBatch(torch.zeros(6, 2, 1), torch.ones(6, 2)))
    elif not hasattr(field, "field"):
        refused("got no context", c=None)
        refused("expected", c=c[..., :1])
        refused("expected", c=c[:1])
        refused("expected", c=c[..., None, :] if c.ndim == 2 else c[:, 0])
        refused("takes none", c=setflow.SetBatch(torch.zeros(6, 2, 1), torch.ones(6, 2)))


@pytest.mark.parametrize(
    "field", [setflow.GaussianSetField(torch.zeros(3), torch.ones(3)), setflow.VelocityField(3)]
)
def test_a_context_set_is_refused_by_other_fields_too(field):
    x = torch.zeros(6, 4, 3) if field.event_ndim == 2 else torch.zeros(6, 3)
    context = setflow.SetBatch(torch.zeros(6, 2, 1), torch.ones(6, 2))
    with pytest.raises(ValueError, match="got a SetBatch as context but takes none"):
        field(x, 0.5, context)
    with pytest.raises(ValueError, match="got a SetBatch as context but takes none"):
        setflow.fm_loss(field, x, x, c=context)


def test_ensembles_of_weights():
    """`vmap` over one parameter alone: nothing may be written into what is not mapped."""
    field, case = field_of("graph"), cases_of("graph")["lead1"]
    for key, value in field.named_parameters():
        weights = torch.stack([value, 2 * value]).detach()

        def one(weight, key=key):
            return functional_call(field, {key: weight}, (case.x, case.t), {"mask": case.mask})

        with torch.no_grad():
            torch.testing.assert_close(vmap(one)(weights)[0], one(weights[0]))
        torch.testing.assert_close(vmap(one)(weights)[1], one(weights[1]))


@each(
    ("make", "message"),
    [
        (lambda: setflow.TransformerField("3"), "got dim='3'"),
        (lambda: setflow.TransformerField(3.0), r"positive integers, got dim=3\.0"),
        (
            lambda: setflow.TransformerField(3, hidden="16"),
            "got hidden='16', layers=4, expansion=2",
        ),
        (
            lambda: setflow.TransformerField(3, condition_dim=1.5),
            r"of at least 0, got cond",
        ),
        (lambda: setflow.EPiCField("3"), "got dim='3'"),
        (lambda: setflow.EPiCField(3, latent=None), "got hidden=128, latent=None, layers=6"),
        (lambda: setflow.GraphField(3, messages=64.0), r"messages=64\.0"),
        (lambda: setflow.GraphField(3, k="16"), "k must be a positive integer, got '16'"),
        (lambda: setflow.VelocityField("3"), "got dim='3', hidden=128"),
        (lambda: setflow.VelocityField(3, layers=True), "got condition_dim=0, layers=True"),
        (
            lambda: setflow.FourierFeatures("3", 4),
            "in_features must be a positive",
        ),
        (lambda: setflow.FourierFeatures(3, "4"), "features must be a positive integer, got '4'"),
    ],
)
def test_a_size_that_is_no_integer_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["VelocityField", "EPiCField", "GraphField", "TransformerField"])
def test_layers_that_would_be_built_for_hours_are_refused_at_once(name):
    with pytest.raises(ValueError, match="layers is 1000000, expected at most 10,000"):
        getattr(setflow, name)(3, layers=1_000_000)
