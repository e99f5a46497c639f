"""Time densities against their distribution functions, shifts and weights against closed forms."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from each import each
from setflow.timesteps import (
    TimeSampling,
    compute_density_for_timestep_sampling,
    get_flow_match_loss_weight,
    time_shift,
)

N = 20_000
HALVES = (torch.float16, torch.bfloat16)

# the densities: arguments, and the distribution function P(t < a)
LARGEST = 7.23500773792828  # where mode touches 0 and 1 inside
DENSITIES = {
    "uniform": {"density": "uniform"},
    "logit-normal": {"density": "logit_normal"},
    "logit-normal, moved": {"density": "logit_normal", "logit_mean": -0.7, "logit_std": 1.6},
    "mode": {"density": "mode"},
    "mode, ends": {"density": "mode", "mode_scale": -1.0},
    "mode, flat in the middle": {"density": "mode", "mode_scale": 2 / (math.pi - 2)},
    "mode, folded": {"density": "mode", "mode_scale": 4.0},
}
SHIFTS = {
    "none": {},
    "constant": {"shift_type": "constant"},
    "constant, towards data": {"shift_type": "constant", "constant": 0.4},
    "linear": {"shift_type": "linear"},
    "linear, jets": {"shift_type": "linear", "base_shift": -0.5, "base_len": 10, "max_len": 150},
    "sqrt": {"shift_type": "sqrt"},
    "sqrt, jets": {"shift_type": "sqrt", "sqrt_len": 100},
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def density_cdf(a, density, logit_mean=0.0, logit_std=1.0, mode_scale=1.29):
    if density == "uniform":
        return a
    if density == "logit_normal":
        return scipy.stats.norm.cdf(scipy.special.logit(a), logit_mean, logit_std)
    u = np.linspace(0, 1, 200_001)
    mode = 1 - u - mode_scale * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
    return np.interp(a, np.sort(mode), u)  # in any order: it may rise and fall


def shift_of(
    L,
    shift_type=None,
    base_shift=0.5,
    max_shift=1.15,
    constant=3.0,
    base_len=0,
    max_len=4096,
    sqrt_len=16384,
):
    """The m of each length, from the formulas."""
    L = np.asarray(L, dtype=float)
    if shift_type is None:
        return np.ones_like(L)
    if shift_type == "constant":
        return np.full_like(L, constant)
    if shift_type == "linear":
        rise = (L - base_len) / (max_len - base_len)
        return np.exp(base_shift + (max_shift - base_shift) * rise)
    return np.maximum(1.0, 3 * np.sqrt(L / sqrt_len))


def quantiles(t, lengths, density, shift):
    """The distribution function at each time: uniform if, and only if, the times follow it."""
    m = shift_of(lengths, **shift)
    t = np.asarray(t, dtype=float)
    return density_cdf(t / (m - (m - 1) * t), **density)


def p_value(quantile):
    return scipy.stats.kstest(quantile, "uniform").pvalue


# --- densities ---


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("density", DENSITIES)
def test_sampled_times_have_their_distribution(density, shift):
    """For every density and shift, with lengths that differ from event to event; and the same
    times fail the same test for every other density, and without the shift."""
    density_args, shift_args = DENSITIES[density], SHIFTS[shift]
    lengths = torch.randint(0, 151, (N,), generator=generator(1))
    times = TimeSampling(**density_args, **shift_args)
    t = times.sample((N,), lengths=lengths, generator=generator(2))
    assert t.min() >= 0
    assert t.max() <= 1
    assert p_value(quantiles(t, lengths, density_args, shift_args)) > 1e-3
    for wrong, wrong_args in DENSITIES.items():
        if wrong != density:
            assert p_value(quantiles(t, lengths, wrong_args, shift_args)) < 1e-9, wrong
    if (shift_of(lengths, **shift_args) != 1).any():
        assert p_value(quantiles(t, lengths, density_args, {})) < 1e-9


@pytest.mark.parametrize("density", DENSITIES)
def test_compute_density_for_timestep_sampling_has_its_distribution(density):
    args = dict(DENSITIES[density])
    t = compute_density_for_timestep_sampling(
        args.pop("density"), N, **args, generator=generator(3)
    )
    assert t.shape == (N,)
    assert p_value(density_cdf(t.numpy(), **DENSITIES[density])) > 1e-3


def test_the_mode_density_stays_inside_at_its_ends():
    """u = 0 and 1 give t = 1 and 0; at the largest scale so do two others inside."""
    for scale in (-1.0, 0.0, 1.29, 2 / (math.pi - 2), 4.0, LARGEST):
        t = compute_density_for_timestep_sampling(
            "mode", 200_000, mode_scale=scale, dtype=torch.float32, generator=generator(4)
        )
        assert t.min() >= 0
        assert t.max() <= 1
        assert t.max() - t.min() > 0.999


@pytest.mark.parametrize("scheme", ["uniform", "logit_normal", "mode"])
def test_densities_follow_generator_device_and_dtype(scheme, device):
    def draw(seed, **options):
        g = torch.Generator(device).manual_seed(seed)
        return compute_density_for_timestep_sampling(
            scheme, 64, generator=g, device=device, **options
        )

    before = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert draw(1).device.type == device.type
    assert draw(1).dtype == torch.get_default_dtype()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        t = draw(1, dtype=dtype)
        assert t.dtype == dtype
        assert ((t >= 0) & (t <= 1)).all()
        assert t.std() > 0.1
    meta = compute_density_for_timestep_sampling(scheme, 3, device="meta")
    assert meta.device.type == "meta"
    assert compute_density_for_timestep_sampling(scheme, 0).shape == (0,)


def test_half_precision_times_are_rounded_from_a_finer_draw():
    """Drawn in bfloat16 itself, times would be multiples of 1 / 256 only."""
    t = compute_density_for_timestep_sampling(
        "uniform", 5_000, dtype=torch.bfloat16, generator=generator()
    )
    assert (t[t < 1 / 64].double() * 256 % 1 != 0).any()


@each(
    ("arguments", "message"),
    [
        ({"weighting_scheme": "sigmoid"}, "uniform, logit_normal, mode"),
        ({"batch_size": -1}, "non-negative integer, got -1"),
        ({"batch_size": 2.0}, "non-negative integer, got 2.0"),
        ({"batch_size": True}, "non-negative integer, got True"),
        ({"logit_mean": math.inf}, "logit_mean must be a finite number, got inf"),
        ({"logit_std": 0.0}, "logit_std must be a finite number above 0, got 0.0"),
        ({"logit_std": math.nan}, "logit_std"),
        ({"logit_std": None}, "logit_std"),
        ({"mode_scale": -1.01}, "mode_scale must lie between -1 and 7.2350, got -1.01"),
        ({"mode_scale": 7.2351}, "mode_scale must lie between"),
        ({"dtype": torch.int64}, "floating dtype, got torch.int64"),
    ],
)
def test_bad_densities_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        compute_density_for_timestep_sampling(
            **({"weighting_scheme": "mode", "batch_size": 3} | arguments)
        )


def test_beyond_the_limits_of_the_mode_scale_times_would_leave_the_interval():
    u = np.linspace(0, 1, 100_001)
    for scale, inside in ((-1.0, True), (-1.001, False), (LARGEST, True), (7.2351, False)):
        mode = 1 - u - scale * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
        assert (mode.min() >= -1e-12 and mode.max() <= 1 + 1e-12) == inside


@pytest.mark.parametrize("scale", [0.8, 3.5, 5.0, LARGEST])
def test_the_mode_density_is_the_sum_over_its_branches(scale):
    """Where the map turns, several u give one time; each adds 1 / |dt/du|."""

    def mode(u):
        return 1 - u - scale * (np.cos(np.pi * u / 2) ** 2 - 1 + u)

    def slope(u):
        return -1 + scale * (np.pi / 2 * np.sin(np.pi * u) - 1)

    def density(a):
        grid = np.linspace(0, 1, 2001)
        crossed = np.flatnonzero(np.diff(np.sign(mode(grid) - a)))
        roots = [scipy.optimize.brentq(lambda u: mode(u) - a, *grid[k : k + 2]) for k in crossed]
        return sum(1 / abs(slope(root)) for root in roots), len(roots)

    centres = np.linspace(0.05, 0.95, 19)
    turns = mode(np.arcsin(np.clip(2 * (1 + scale) / (np.pi * scale), 0, 1)) / np.pi)
    smooth = [c for c in centres if min(abs(c - turns), abs(1 - c - turns)) > 0.06]
    t = compute_density_for_timestep_sampling(
        "mode", 400_000, mode_scale=scale, dtype=torch.float64, generator=generator(5)
    ).numpy()
    width = 0.01
    for centre in smooth:
        expected, branches = density(centre)
        assert branches in ((1,) if scale < 1.75 else (1, 3))
        count = (np.abs(t - centre) < width / 2).sum()
        mean = expected * width * len(t)
        assert abs(count - mean) < 5 * np.sqrt(mean) + 0.02 * mean
    assert len(smooth) > 8
    assert scale < 1.75 or any(density(centre)[1] == 3 for centre in smooth)


# --- the shift ---

T = torch.linspace(0, 1, 101, dtype=torch.float64)
LENGTHS = (0, 1, 10, 150, 1000, 4096, 16384, 20_000)


@each("length", LENGTHS)
@each("shift", [name for name in SHIFTS if name != "none"])
def test_time_shift_is_its_closed_form(shift, length):
    m = shift_of(length, **SHIFTS[shift])
    sigma = time_shift(T, length, **SHIFTS[shift])
    expected = torch.from_numpy(m / (m + 1 / T[1:].numpy() - 1))
    torch.testing.assert_close(sigma[1:], expected, rtol=1e-14, atol=0)
    assert sigma[0] == 0
    assert sigma[-1] == 1
    rises = sigma.diff() > 0 if m < 1e6 else sigma.diff() >= 0  # an m of e^47 rounds to 1 at once
    assert rises.all()
    counts = torch.full((101,), length)
    assert torch.equal(time_shift(T, counts, **SHIFTS[shift]), sigma)
    assert torch.equal(time_shift(T, counts[0], **SHIFTS[shift]), sigma)


def test_time_shift_defaults_to_a_constant_of_three():
    torch.testing.assert_close(time_shift(T, 4096), 3 * T / (1 + 2 * T), rtol=1e-15, atol=0)


def test_image_constants_do_nothing_at_the_sizes_of_jets():
    half = torch.tensor([0.5, 0.5])
    sigma = time_shift(half, torch.tensor([10, 150]), "linear")
    assert [round(s, 3) for s in sigma.tolist()] == [0.623, 0.628]
    own = time_shift(half, torch.tensor([10, 150]), "linear", base_len=10, max_len=150)
    assert [round(s, 3) for s in own.tolist()] == [0.622, 0.760]
    assert time_shift(half, 150, "sqrt").tolist() == [0.5, 0.5]
    assert [round(s, 12) for s in time_shift(half, 150, "sqrt", sqrt_len=150).tolist()] == [
        0.75
    ] * 2


@pytest.mark.parametrize("shift_type", ["linear", "sqrt"])
def test_longer_events_are_shifted_further_towards_the_noise(shift_type):
    lengths = torch.arange(20, 200)
    sigma = time_shift(torch.full((180,), 0.3), lengths, shift_type, max_len=200, sqrt_len=150)
    assert (sigma.diff() > 0).all()
    assert (sigma > 0.3).all()


@each("dtype", [*HALVES, torch.float32, torch.float64])
@each("shift_type", ["constant", "linear", "sqrt"])
def test_ends_and_empty_events_are_exact_in_every_dtype(shift_type, dtype):
    t = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5], dtype=dtype)
    for length in (0, torch.tensor([0, 0, 10, 10_000_000, 0])):
        sigma = time_shift(t, length, shift_type)
        assert sigma.dtype == dtype
        assert sigma[:4].tolist() == [0.0, 1.0, 0.0, 1.0]
        assert 0.5 <= sigma[4] < 0.8


@pytest.mark.parametrize("shift", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shifts_beyond_the_range_of_the_dtype_stay_finite(shift, dtype):
    t = torch.tensor([0.0, 0.25, 1.0], dtype=dtype)
    sigma = time_shift(t, 0, "linear", base_shift=shift, max_shift=0.0)
    middle = 1.0 if shift > 0 else 0.0
    torch.testing.assert_close(sigma, torch.tensor([0.0, middle, 1.0], dtype=dtype))
    assert sigma[0] == 0
    assert sigma[2] == 1


@pytest.mark.parametrize("constant", [0.2, 1.0, 3.0])
def test_slopes_at_the_ends_are_m_and_its_inverse(constant):
    t = torch.tensor([0.0, 1.0], requires_grad=True)
    time_shift(t, 0, constant=constant).sum().backward()
    torch.testing.assert_close(t.grad, torch.tensor([constant, 1 / constant]))


def test_a_shift_of_one_changes_no_bit():
    t = torch.rand(N, generator=generator())
    for wide in (t, t.float()):
        assert torch.equal(time_shift(wide, 7, constant=1.0), wide)
        assert torch.equal(time_shift(wide, 7, "sqrt"), wide)


@each(
    ("arguments", "message"),
    [
        (
            {"shift_type": "cosine"},
            "shift_type is 'cosine', expected one of constant, linear, sqrt",
        ),
        ({"shift_type": None}, "shift_type is None, expected one of"),
        ({"t": 0.5}, "tensor of a floating dtype, got float"),
        ({"t": torch.tensor([0, 1])}, "floating dtype, got torch.int64"),
        ({"image_seq_len": -1}, "non-negative integer, got -1"),
        ({"image_seq_len": 2.5}, "non-negative integer, got 2.5"),
        ({"image_seq_len": torch.tensor([3, -1, 2, 2])}, "a number of objects is -1"),
        ({"image_seq_len": torch.ones(4)}, "expected integers"),
        ({"image_seq_len": torch.ones(4, dtype=torch.bool)}, "expected integers"),
        ({"image_seq_len": torch.ones(4, 1, dtype=torch.int64)}, r"\(4, 1\), expected \(4,\)"),
        ({"image_seq_len": torch.ones(1, dtype=torch.int64)}, r"\(1,\), expected \(4,\)"),
        ({"constant": 0.0}, "constant must be a finite number above 0"),
        ({"base_shift": math.nan}, "base_shift"),
        ({"max_shift": math.inf}, "max_shift"),
        ({"base_len": 4096}, "max_len must be larger than base_len=4096, got 4096"),
        ({"sqrt_len": 0}, "sqrt_len must be a finite number above 0, got 0"),
    ],
)
def test_bad_shifts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        time_shift(**({"t": torch.full((4,), 0.5), "image_seq_len": 10} | arguments))


# --- the weight ---


@pytest.mark.parametrize("shift", [3.0, 0.0, -1.0])
def test_get_flow_match_loss_weight_is_linear_in_sigma(shift):
    sigma = torch.rand(4, 5, generator=generator())
    weight = get_flow_match_loss_weight(sigma, shift)
    torch.testing.assert_close(weight, torch.ones(4, 5) + shift * sigma, rtol=0, atol=0)
    assert (weight >= 0).all()


def test_get_flow_match_loss_weight_defaults_to_three():
    weight = get_flow_match_loss_weight(torch.tensor([0.0, 0.25, 1.0], dtype=torch.float32))
    assert torch.equal(weight, torch.tensor([1.0, 1.75, 4.0], dtype=torch.float32))


@pytest.mark.parametrize("shift", [-1.1, math.nan, None])
def test_weights_are_never_negative(shift):
    with pytest.raises(ValueError, match="shift must be"):
        get_flow_match_loss_weight(torch.rand(3), shift)


# --- the object ---


def test_time_sampling_keeps_its_arguments():
    given = {
        "density": "mode",
        "logit_mean": 0.1,
        "logit_std": 0.9,
        "mode_scale": 0.8,
        "shift_type": "sqrt",
        "base_shift": 0.2,
        "max_shift": 0.7,
        "constant": 2.0,
        "base_len": 3,
        "max_len": 40,
        "sqrt_len": 50,
        "weight_shift": 1.5,
    }
    assert list(inspect.signature(TimeSampling).parameters) == list(given)
    times = TimeSampling(**given)
    assert vars(times) == given
    assert repr(times) == "TimeSampling(density='mode', shift_type='sqrt', weight_shift=1.5)"


def test_time_sampling_is_density_then_shift_event_by_event():
    lengths = torch.tensor([[0, 7, 30], [150, 7, 1]])
    times = TimeSampling("logit_normal", shift_type="linear", max_len=150, logit_mean=0.3)
    t = times.sample((2, 3), lengths=lengths, generator=generator())
    u = compute_density_for_timestep_sampling(
        "logit_normal", 6, logit_mean=0.3, generator=generator()
    )
    for key in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)):
        alone = time_shift(u.reshape(2, 3)[key], int(lengths[key]), "linear", max_len=150)
        torch.testing.assert_close(t[key], alone, rtol=1e-15, atol=0)


@pytest.mark.parametrize("shift_type", ["linear", "sqrt"])
def test_the_time_of_an_event_knows_only_its_own_length(shift_type):
    times = TimeSampling(shift_type=shift_type, max_len=150, sqrt_len=20)
    lengths = torch.tensor([40, 30, 20, 10])
    others = torch.tensor([40, 0, 150, 99])
    one = times.sample((4,), lengths=lengths, generator=generator())
    other = times.sample((4,), lengths=others, generator=generator())
    assert one[0] == other[0]
    assert (one[1:] != other[1:]).all()


@pytest.mark.parametrize("lead", [(), (5,), (2, 3), 4])
def test_time_sampling_gives_one_time_per_event(lead):
    shape = (lead,) if isinstance(lead, int) else lead
    for shift_type in (None, "constant", "linear", "sqrt"):
        times = TimeSampling(shift_type=shift_type)
        for lengths in (12, torch.full(shape, 12)):
            t = times.sample(lead, lengths=lengths, generator=generator())
            assert t.shape == shape
            assert len(t.unique()) == t.numel()
            assert (t > 0).all()


def test_empty_events_get_a_time_too():
    for shift_type in (None, "constant", "linear", "sqrt"):
        times = TimeSampling(shift_type=shift_type)
        t = times.sample((N,), lengths=torch.zeros(N, dtype=torch.int64), generator=generator())
        assert t.isfinite().all()
        m = float(shift_of(0, shift_type))
        assert p_value((t / (m - (m - 1) * t)).numpy()) > 1e-3


def test_times_need_lengths_where_the_shift_depends_on_them():
    for shift_type in ("linear", "sqrt"):
        with pytest.raises(ValueError, match=r"lengths=None; expected lengths=mask.sum\(-1\)"):
            TimeSampling(shift_type=shift_type).sample((3,))
        with pytest.raises(ValueError, match=r"\(4,\), expected \(3,\)"):
            TimeSampling(shift_type=shift_type).sample((3,), lengths=torch.ones(4).long())
    for shift_type in (None, "constant"):
        assert (TimeSampling(shift_type=shift_type).sample((3,)) > 0).all()


def test_time_sampling_follows_device_and_dtype():
    times = TimeSampling(shift_type="linear")
    assert times.sample((3,), lengths=5, device="meta").device.type == "meta"
    on_meta = torch.zeros(3, dtype=torch.int64, device="meta")
    assert times.sample((3,), lengths=on_meta).device.type == "meta"
    assert times.sample((3,), lengths=5).dtype == torch.get_default_dtype()
    for dtype in (*HALVES, torch.float32):
        t = times.sample((1000,), lengths=5, dtype=dtype, generator=generator())
        assert t.dtype == dtype
        assert ((t >= 0) & (t <= 1)).all()


def test_time_sampling_weighs():
    t = torch.rand(3, 4, generator=generator())
    assert torch.equal(TimeSampling().weight(t), torch.ones(3, 4))
    torch.testing.assert_close(TimeSampling(weight_shift=2.0).weight(t), 1 + 2 * t)
    assert TimeSampling(weight_shift=0.0).weight(t.half()).dtype == torch.float16


@each(
    ("arguments", "message"),
    [
        ({"density": "cosine"}, "the time density is 'cosine', expected one of uniform"),
        ({"logit_std": -1.0}, "logit_std"),
        ({"mode_scale": 7.3}, "mode_scale"),
        ({"shift_type": "image"}, "shift_type is 'image', expected one of constant, linear, sqrt"),
        ({"constant": -1.0}, "constant"),
        ({"base_len": 10, "max_len": 10}, "larger than base_len=10, got 10"),
        ({"sqrt_len": -3}, "sqrt_len"),
        ({"max_shift": "big"}, "max_shift must be a finite number, got 'big'"),
        ({"weight_shift": -2.0}, "weight_shift must be at least -1, got -2.0"),
    ],
)
def test_bad_time_samplings_are_refused_when_they_are_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimeSampling(**arguments)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shift", SHIFTS)
def test_times_from_uniform_numbers_have_the_law_of_drawn_ones(density, shift):
    times = TimeSampling(**DENSITIES[density], **SHIFTS[shift])
    lengths = torch.full((N,), 40)
    u = (torch.arange(N) + 0.5) / N
    got = times.from_uniform(u, lengths=lengths)
    assert got.shape == u.shape
    assert 0 <= got.min() <= got.max() <= 1
    drawn = times.sample((N,), lengths=lengths, generator=generator(1))
    assert scipy.stats.kstest(drawn.numpy(), got.numpy()).pvalue > 1e-3


def test_a_uniform_number_gives_its_event_one_time():
    times = TimeSampling("logit_normal", shift_type="linear", base_len=0, max_len=150)
    u, lengths = torch.rand(9, generator=generator()), torch.arange(9) * 10
    got = times.from_uniform(u, lengths=lengths)
    torch.testing.assert_close(times.from_uniform(u[3:5], lengths=lengths[3:5]), got[3:5])
    torch.testing.assert_close(times.from_uniform(u[:1], lengths=0), got[:1])
    assert TimeSampling().from_uniform(u) is u
    with pytest.raises(ValueError, match="depends on the number of real objects"):
        times.from_uniform(u)
