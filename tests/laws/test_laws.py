"""The laws of the mask, over every verb, field and base; and the saboteurs that they must catch."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
import torch

import setflow
from each import each
from laws import saboteurs
from laws.laws import LAWS, cases, law_content, law_same, redraw, to_device
from laws.subjects import (
    NoiseOfItsObject,
    ObjectConditioned,
    Pointwise,
    adaptive_sample_of,
    coupled_loss_of,
    denoising_loss_of,
    density_of,
    diffusion_sample_of,
    estimated_log_prob_of,
    log_prob_of,
    log_prob_on_circles_of,
    loss_of,
    loss_on_circles_of,
    sample_of,
    sample_on_circles_of,
    scored_sample_of,
    stochastic_loss_of,
    velocity_of,
)
from setflow.divergence import exact, hutchinson
from setflow.sets import planning


def _gaussian(coupling: float, *features: int) -> setflow.GaussianSetField:
    generator = torch.Generator().manual_seed(2)
    loc = torch.randn(features, generator=generator)
    scale = 0.5 + torch.rand(features, generator=generator)
    return setflow.GaussianSetField(loc, scale, coupling=coupling)


@pytest.fixture(autouse=True)
def _plan_small_batches(monkeypatch):
    """Let the verbs cut batches as small as those of the laws, which they leave as they are."""
    for module in (planning, exact, hutchinson):
        monkeypatch.setattr(module, "_CPU_OVERHEAD", 4)


# name: (field, features, options of the cases). Of one layer, in which objects meet already, since
# a verb calls a field many times; `test_fields` judges all families, of two layers, called directly
FIELDS = {
    "transformer": lambda: (
        redraw(setflow.TransformerField(3, hidden=16, layers=1, heads=2), seed=7),
        (3,),
        {},
    ),
    "transformer with context": lambda: (
        redraw(setflow.TransformerField(3, hidden=16, layers=1, heads=4, condition_dim=2)),
        (3,),
        {"context": 2},
    ),
    "epic": lambda: (redraw(setflow.EPiCField(3, hidden=8, latent=4, layers=1)), (3,), {}),
    "graph": lambda: (
        redraw(setflow.GraphField(3, hidden=8, layers=1, messages=8, k=2)),
        (3,),
        {},
    ),
    "gaussian": lambda: (_gaussian(0.0, 3), (3,), {}),
    "coupled gaussian": lambda: (_gaussian(2.0, 3), (3,), {}),
    "coupled gaussian, 3-D events": lambda: (_gaussian(2.0, 2, 2), (2, 2), {}),
    "probability flow": lambda: (
        setflow.ProbabilityFlowField(
            redraw(setflow.TransformerField(3, hidden=16, layers=1, heads=2), seed=7),
            setflow.VPSchedule(beta_max=2.0),
            "x0",
            guidance_fn=lambda x, t, eps: eps + 0.1,
        ),
        (3,),
        {},
    ),
    "denoiser": lambda: (
        setflow.EDMDenoiser(
            redraw(setflow.TransformerField(3, hidden=16, layers=1, heads=2)),
            setflow.VESchedule(0.1, 2.0),
        ),
        (3,),
        {},
    ),
    "coupled gaussian, cosine path": lambda: (
        setflow.GaussianSetField(
            torch.ones(3), torch.full((3,), 0.7), coupling=2.0, path=setflow.CosinePath()
        ),
        (3,),
        {},
    ),
}
# fields without a density; the context of a guided one has the strength in its last column
SAMPLES_ONLY = {
    "self-conditioned": lambda: (
        setflow.SelfConditionedField(
            redraw(setflow.TransformerField(6, hidden=16, layers=1, heads=4, condition_dim=2))
        ),
        (3,),
        {"context": 2},
    ),
    "guided": lambda: (
        setflow.fields.GuidedField(
            redraw(setflow.TransformerField(3, hidden=16, layers=1, heads=4, condition_dim=2)),
            torch.tensor([0.3, -0.4]),
        ),
        (3,),
        {"context": 3},
    ),
}
# fields of users: they enter through the verbs only
USER_FIELDS = {
    "pointwise": lambda: (redraw(Pointwise()), (3,), {}),
    "per-object context": lambda: (redraw(ObjectConditioned()), (3,), {"object_context": 2}),
}
MIXING = [name for name in FIELDS if name != "gaussian"]


def _matching_cases(options, features, law, device):
    for name, case in cases(features, **options):
        if law == "emptiness" and name == "lead0":
            continue  # its one event has objects
        yield to_device(case, device)


VERBS = {
    "loss": loss_of,
    "coupled loss": coupled_loss_of,
    "stochastic loss": stochastic_loss_of,
    "eps loss": denoising_loss_of("eps"),
    "score loss": denoising_loss_of("score"),
    "x0 loss": denoising_loss_of("x0"),
    "velocity loss": denoising_loss_of("velocity"),
    "sample": sample_of,
    "adaptive sample": adaptive_sample_of,
    "probability flow": diffusion_sample_of(setflow.Heun(steps=3)),
    "reverse equation": diffusion_sample_of(NoiseOfItsObject()),
    "log_prob": log_prob_of,
    "estimated log_prob": estimated_log_prob_of,
    "scored sample": scored_sample_of,
}


# every field goes with these verbs and every verb with these fields; `--all` takes all pairs
COMMON_VERBS = ("loss", "sample", "log_prob")
COMMON_FIELDS = ("transformer with context", "coupled gaussian")
PAIRS = [
    pytest.param(
        name, verb, marks=() if name in COMMON_FIELDS or verb in COMMON_VERBS else pytest.mark.wide
    )
    for name in (*FIELDS, *USER_FIELDS)
    for verb in VERBS
]


@pytest.mark.parametrize(("name", "verb"), PAIRS)
@each("law", LAWS)
def test_verbs_keep_the_law(name, verb, law, device):
    field, features, options = (FIELDS | USER_FIELDS)[name]()
    for case in _matching_cases(options, features, law, device):
        LAWS[law](VERBS[verb](field.to(device)), case)


@each("name", SAMPLES_ONLY)
@each("verb", ("loss", "sample", "adaptive sample"))
@each("law", LAWS)
def test_verbs_keep_the_law_with_fields_that_only_sample(name, verb, law, device):
    field, features, options = SAMPLES_ONLY[name]()
    for case in _matching_cases(options, features, law, device):
        LAWS[law](VERBS[verb](field.to(device)), case)


@pytest.mark.parametrize(
    "verb",
    [
        "loss", "coupled loss", "stochastic loss", "velocity loss", "score loss", "sample",
        "adaptive sample", "log_prob", "estimated log_prob", "scored sample",
    ],
)  # fmt: skip
@each("law", LAWS)
def test_verbs_keep_the_law_where_features_are_absent(verb, law, device):
    field, features, options = FIELDS["transformer with context"]()
    for case in _matching_cases(options | {"absent": True}, features, law, device):
        LAWS[law](VERBS[verb](field.to(device)), case)


@each("law", LAWS)
def test_bases_keep_the_law_where_features_are_absent(law):
    if law == "agreement":
        return  # without a mask a base of one object scores each object
    for base in (
        setflow.StandardNormal((3,)),
        setflow.DiagonalNormal(torch.ones(3), torch.ones(3)),
    ):
        for case in _matching_cases({"absent": True}, (3,), law, torch.device("cpu")):
            LAWS[law](density_of(base.log_prob), case)


@pytest.mark.parametrize("verb", ["loss", "sample", "log_prob"])
def test_a_verb_that_does_not_ask_what_is_present_is_caught(verb):
    def deaf(*arguments, present, **options):
        verbs = {
            "loss": setflow.masked_fm_loss, "sample": setflow.masked_sample,
            "log_prob": setflow.masked_log_prob,
        }  # fmt: skip
        return verbs[verb](*arguments, **options)

    subject = {"loss": loss_of, "sample": sample_of, "log_prob": log_prob_of}[verb]
    case = dict(cases(absent=True))["lead1"]
    with pytest.raises((AssertionError, ValueError)):
        law_content(subject(redraw(Pointwise()), deaf), case)


@pytest.mark.parametrize("name", [*FIELDS, *SAMPLES_ONLY])
@each("law", LAWS)
def test_fields_keep_the_law_when_called_directly(name, law, device):
    field, features, options = (FIELDS | SAMPLES_ONLY)[name]()
    for case in _matching_cases(options, features, law, device):
        LAWS[law](velocity_of(field.to(device)), case)


@pytest.mark.parametrize(
    "base",
    [
        lambda: setflow.StandardNormal((3,)),
        lambda: setflow.DiagonalNormal(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 1, 2])),
        lambda: setflow.as_base(
            torch.distributions.Independent(
                torch.distributions.Laplace(torch.zeros(3), torch.ones(3)), 1
            )
        ),
        lambda: setflow.WrappedNormal(torch.tensor([1.0, 0.4, 2.0]), angles=[1, 2]),
        lambda: setflow.as_base(torch.distributions.LogNormal(torch.zeros(3), torch.ones(3))),
    ],
    ids=["standard", "diagonal", "torch", "wrapped", "torch away from zero"],
)
@each("law", LAWS)
def test_bases_keep_the_law(base, law):
    for case in _matching_cases({}, (3,), law, torch.device("cpu")):
        case = replace(case, x=case.x.abs() + 1.5)  # within the support of each
        if law == "agreement":  # without a mask a base of one object scores each object
            full = torch.ones(case.x.shape[:-1], dtype=torch.bool)
            per_object = base().log_prob(case.x)
            torch.testing.assert_close(base().log_prob(case.x, mask=full), per_object.sum(-1))
        else:
            LAWS[law](density_of(base().log_prob), case)


# fields and verbs on circles: noise of a `WrappedNormal`, a path that goes the shorter way round
ON_CIRCLES = {
    "transformer": lambda: setflow.TransformerField(3, hidden=16, layers=1, heads=2, angles=[1, 2]),
    "epic": lambda: setflow.EPiCField(3, hidden=8, latent=4, layers=1, angles=[1, 2]),
    "graph": lambda: setflow.GraphField(3, hidden=8, layers=1, messages=8, k=2, angles=[1, 2]),
}
CIRCLE_VERBS = {
    "loss": loss_on_circles_of,
    "coupled loss": lambda field: loss_on_circles_of(field, coupling="event"),
    "sample": sample_on_circles_of,
    "log_prob": log_prob_on_circles_of,
}


@pytest.mark.parametrize("name", ON_CIRCLES)
@each("verb", CIRCLE_VERBS)
@each("law", LAWS)
def test_verbs_keep_the_law_on_circles(name, verb, law, device):
    field = redraw(ON_CIRCLES[name](), seed=7).to(device)
    for case in _matching_cases({}, (3,), law, device):
        LAWS[law](CIRCLE_VERBS[verb](field), case)


@each("verb", VERBS)
def test_training_and_use_treat_padding_alike(verb):
    for _, case in cases():
        law_same(VERBS[verb], case)


@each("name", MIXING)
def test_the_judged_fields_mix_objects(name):
    """A field that does not mix would pass laws that it might break."""
    field, features, options = FIELDS[name]()
    case = dict(cases(features, **options))["lead1"]
    moved = case.x.clone()
    moved[1, 0] += 1.0
    before, after = (field(x, case.t, case.c, mask=case.mask) for x in (case.x, moved))
    assert (after - before)[1, 1:].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("law", "subject"),
    [
        ("content", lambda: loss_of(redraw(Pointwise()), saboteurs.loss_multiplies)),
        ("length", lambda: loss_of(redraw(Pointwise()), saboteurs.loss_means_over_slots)),
        ("order", lambda: loss_of(_gaussian(2.0, 3), saboteurs.loss_reads_first_slots)),
        ("content", lambda: loss_of(_gaussian(2.0, 3), saboteurs.loss_reads_first_slots)),
        ("emptiness", lambda: loss_of(_gaussian(2.0, 3), saboteurs.loss_divides_by_count)),
        ("agreement", lambda: loss_of(redraw(Pointwise()), saboteurs.loss_counts_one_more)),
        ("company", lambda: loss_of(redraw(Pointwise()), saboteurs.loss_weighs_by_company)),
        ("length", lambda: loss_of(_gaussian(2.0, 3), saboteurs.loss_couples_padding)),
        (
            "content",
            lambda: sample_of(redraw(Pointwise()), saboteurs.sample_starts_from_garbage),
        ),
        # the verbs leave padding out where they can: it comes with a longer event in the batch
        ("company", lambda: loss_of(redraw(saboteurs.UnmaskedAttention()))),
        ("company", lambda: sample_of(redraw(saboteurs.UnmaskedAttention()))),
        ("length", lambda: velocity_of(redraw(saboteurs.UnmaskedAttention()))),
        ("order", lambda: sample_of(saboteurs.OrderedField())),
        ("order", lambda: log_prob_of(saboteurs.OrderedField())),
        # alone it never meets the padding that a longer event brings
        ("company", lambda: log_prob_of(redraw(saboteurs.UnmaskedAttention()))),
        ("company", lambda: scored_sample_of(redraw(saboteurs.UnmaskedAttention()))),
        ("order", lambda: scored_sample_of(saboteurs.OrderedField())),
        *(
            (
                law,
                lambda: scored_sample_of(
                    redraw(Pointwise()), saboteurs.scored_sample_with_padding_in_the_base
                ),
            )
            for law in ("length", "emptiness")
        ),
        (
            "length",
            lambda: log_prob_of(redraw(Pointwise()), saboteurs.log_prob_with_padding_in_the_base),
        ),
        ("emptiness", lambda: log_prob_of(redraw(Pointwise()), saboteurs.log_prob_per_object)),
        ("length", lambda: density_of(saboteurs.log_prob_over_padding)),
        ("emptiness", lambda: density_of(saboteurs.log_prob_over_padding)),
    ],
)
def test_a_saboteur_is_caught(law, subject, monkeypatch):
    caught = 0
    monkeypatch.setattr(exact, "_CPU_OVERHEAD", 300)  # cut by every length no event meets padding
    for case in _matching_cases({}, (3,), law, torch.device("cpu")):
        try:
            LAWS[law](subject(), case)
        except AssertionError:
            caught += 1
        except ValueError as error:  # NaN of a padded slot, taken for an object's
            caught += "is not finite, for x_target" in str(error)
    assert caught > 0, f"the law of {law} accepts its saboteur"


def test_a_verb_that_leaves_the_padded_velocity_is_caught():
    def leaking(field):
        def verb(field, x_target, x_source, mask, t, c=None, *, reduction):
            zero = x_target.new_zeros(())
            x = torch.where(mask[..., None], x_target, zero)
            return field(x, t, c, mask=mask).mean((-1, -2))

        return loss_of(field, verb)

    with pytest.raises(AssertionError, match="leaked"):
        law_same(leaking, dict(cases())["lead1"])


def test_the_content_law_refuses_a_case_without_padding():
    case = dict(cases())["lead1"]
    with pytest.raises(AssertionError, match="bite"):
        law_content(loss_of(Pointwise()), case.event((1,)))


# --- what is run ---


def _judged(root, *options):
    """The pairs of field and verb that pytest runs with these options."""

    class Collected:
        def pytest_collection_finish(self, session):
            self.pairs = [tuple(item.callspec.params.values()) for item in session.items]

    plugin = Collected()
    quiet = ("-pno:terminal", "-pno:cacheprovider", "-pno:benchmark", "-pno:faulthandler")
    settings = ("-o", "addopts=--import-mode=importlib", f"--rootdir={root}")
    test = f"{__file__}::{test_verbs_keep_the_law.__name__}"
    pytest.main([test, "--collect-only", *settings, *quiet, *options], plugins=[plugin])
    return plugin.pairs


def test_no_field_and_no_verb_is_left_out(request):
    """Neither by default, where pairs are thinned out, nor with `--all`, which takes every pair."""
    root, fields, verbs = request.config.rootpath, {*FIELDS, *USER_FIELDS}, set(VERBS)
    default, everything = _judged(root), _judged(root, "--all")
    assert len(COMMON_VERBS) == 3
    assert len(COMMON_FIELDS) == 2
    for name in fields:
        assert {verb for field, verb in default if field == name} >= set(COMMON_VERBS), name
    for verb in verbs:
        assert {field for field, other in default if other == verb} >= set(COMMON_FIELDS), verb
    assert sorted(everything) == sorted(itertools.product(fields, verbs))


def test_every_saboteur_is_in_a_test(request):
    """Else nobody would know whether it is still caught."""
    tests = (request.config.rootpath / "tests").rglob("test_*.py")
    words = {word for path in tests for word in re.findall(r"\w+", path.read_text())}
    own = {
        name
        for name, thing in vars(saboteurs).items()
        if getattr(thing, "__module__", "") == saboteurs.__name__ and not name.startswith("_")
    }
    assert len(own) > 10
    assert own - words == set()
