"""The stage `speeds`: time per jet and shares of the peak, of fields, likelihoods and plans.

Notation. The peak is the rate of a large bf16 matrix product on the same device. The operations of
a field are those of its matrix products on real objects alone, a quadratic function of their
number, so that what is spent on padding lowers the share; a training step counts three evaluations.
Jets have the numbers of particles of real top jets, either their 30 hardest or all, padded to 150.
Sampling and training are bf16 autocast, likelihoods float32. "CUDA graph" is one planned evaluation
captured, which a solver replays; its plan is made before the clock starts, and that of an eager
solve by the solve, which few evaluations make look dearer than a whole one is.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import setflow
from bench.campaign.record import Record, Stage
from bench.setups import SLOTS, Padded, awake, plain_divergence, top_jets
from setflow.divergence.base import Evaluation
from setflow.sets.events import Events, call_field
from setflow.sets.planning import _GPU_OBJECTS, _GPU_OVERHEAD, cut_by_length, plan_velocity

__all__ = ["run"]

SEED = 1
JETS = 8192  # read from the file; more are the same again
HARDEST = 30
EVALUATIONS = 100  # of the midpoint rule with 50 steps
PLANNED_JETS = 2048
PEAK_SIZES = (4096, 8192, 16384)
BATCHES = {HARDEST: (512, 2048, 8192), SLOTS: (256, 1024, 4096)}
TRAINING_BATCHES = {HARDEST: (1024, 4096), SLOTS: (512, 2048)}
EAGER, GRAPH = "eager", "CUDA graph"

_ROUND_SECONDS = 0.4  # what one timed round may take, by fewer evaluations or more steps
_ROUNDS = 3
_T = 0.5
_REHEARSED = 0.1  # the share of the expected seconds that a rehearsal takes
_SHARE, _TIME = "share of the peak", "microseconds a jet"
_LEAST, _MOST = "least", "most"


class Size(NamedTuple):
    """The size of a field: the family `epic`, or `transformer` with heads of 32 features."""

    family: str
    layers: int
    hidden: int

    def __str__(self) -> str:
        if self.family == "epic":
            return f"EPiCField {self.layers} x {self.hidden}, latent 10"
        return f"TransformerField {self.layers} x {self.hidden}"

    def field(self) -> nn.Module:
        """Return a new field with its gates open."""
        torch.manual_seed(SEED)
        if self.family == "epic":
            return awake(setflow.EPiCField(3, hidden=self.hidden, layers=self.layers))
        heads = self.hidden // 32
        return awake(
            setflow.TransformerField(3, hidden=self.hidden, layers=self.layers, heads=heads)
        )


SIZES = (Size("epic", 6, 128), Size("transformer", 3, 256), Size("transformer", 8, 512))
_REHEARSAL_SIZES = (Size("epic", 2, 16), Size("transformer", 1, 32), Size("transformer", 2, 64))


class Part(NamedTuple):
    """What is measured together: its name, the seconds it should take on a GPU, and how."""

    name: str
    seconds: float
    measure: Callable[[], None]


class Planned(nn.Module):
    """A field that is evaluated by the plan of one mask."""

    event_ndim, takes_mask = 2, True

    def __init__(self, field: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.field, self.mask = field, mask
        like = torch.zeros(*mask.shape, 3, device=mask.device)
        self.start = Events.of(field, like, mask, t=0.0)
        self.plan = plan_velocity(field, self.start)

    def forward(self, x: Tensor, t: Tensor, c: None = None, *, mask: Tensor) -> Tensor:
        return self.plan.each(self.start.at(x, t), lambda part: part.velocity(self.field))


class Captured(nn.Module):
    """One evaluation of a planned field with its mask, captured as a CUDA graph."""

    event_ndim, takes_mask = 2, False

    def __init__(self, field: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.whole, self.mask = Planned(field, mask), mask  # a replay reads their tensors
        self.x = torch.zeros(*mask.shape, 3, device=mask.device)
        self.t = torch.zeros(len(mask), device=mask.device)

        def evaluate() -> Tensor:
            # casts of weights that are kept for later must not be made inside the graph
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                return call_field(self.whole, self.x, self.t, None, self.mask)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                evaluate()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph):
                self.v = evaluate()
        except Exception:  # a capture that fails leaves its stream current
            torch.cuda.set_stream(torch.cuda.default_stream())
            raise

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        self.x.copy_(x)
        self.t.copy_(t)
        self.graph.replay()
        return self.v.clone()


class Bench:
    """The device, the jets, the fields and the clock.

    Arguments:
        stage: the stage.
        record: where rows go.
    """

    def __init__(self, stage: Stage, record: Record) -> None:
        self.stage, self.record = stage, record
        self.device = torch.device(stage.device)
        self.on_cuda = self.device.type == "cuda"
        self.sizes = SIZES if self.on_cuda else _REHEARSAL_SIZES
        self.peak = math.nan  # operations a second
        self.generator = torch.Generator(self.device).manual_seed(SEED)
        self._mask = top_jets(stage.scaled(JETS, least=100)).mask
        self._fields: dict[Size, nn.Module] = {}
        self._operations: dict[Size, np.ndarray] = {}

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)

    def field(self, size: Size) -> nn.Module:
        """Return the field of a size on the device, the same each time."""
        if size not in self._fields:
            self._fields[size] = size.field().to(self.device)
        return self._fields[size]

    def mask(self, jets: int, columns: int) -> Tensor:
        """Return the mask of so many jets, at the scale of the stage, with so many columns."""
        jets = self.stage.scaled(jets, least=4)
        mask = self._mask.repeat(-(-jets // len(self._mask)), 1)[:jets, :columns]
        return mask.contiguous().to(self.device)

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, generator=self.generator)

    def times(self, jets: int) -> Tensor:
        return torch.rand(jets, device=self.device, generator=self.generator)

    def operations(self, size: Size, mask: Tensor) -> float:
        """Return the operations of one evaluation on the real objects of a mask, a mean per jet."""
        if size not in self._operations:
            field, points, counts = size.field(), (10, 20, 40), []
            for n in points:
                counter = FlopCounterMode(display=False)
                with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
                    field(torch.zeros(1, n, 3), torch.zeros(1))
                counts.append(counter.get_total_flops())
            self._operations[size] = np.polyfit(points, counts, 2)
        lengths = mask.sum(-1).cpu().numpy()
        return float(np.polyval(self._operations[size], lengths).mean())

    def wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()

    def seconds(
        self, *functions: Callable[[], object], rounds: int = _ROUNDS, warmups: int = 1
    ) -> list[tuple[float, ...]]:
        """Return the wall times of functions called in turn, with all they queue, by round."""
        for function in functions * warmups:
            function()
        times = []
        for _ in range(rounds):
            found = []
            for function in functions:
                self.wait()
                start = time.perf_counter()
                function()
                self.wait()
                found.append(time.perf_counter() - start)
            times.append(tuple(found))
        return times

    def sweep(
        self,
        prepare: Callable[[Tensor], Callable[[], object]],
        batches: tuple[int, ...],
        columns: int,
    ) -> dict[int, float]:
        """Return the seconds of what is prepared for each batch, until the memory is full."""
        times: dict[int, float] = {}
        for batch in batches:
            try:
                call = prepare(self.mask(batch, columns))
                times[batch] = statistics.median(s for (s,) in self.seconds(call))
            except torch.OutOfMemoryError:
                self.record.note(f"the memory is full at batch {batch} of {columns} columns")
                break
            del call  # with its tensors, before those of the next batch are made
        if not times:
            raise MemoryError("the smallest batch does not fit")
        return times

    def freed(self) -> None:
        """Free what is no longer used, also tensors of frames that an exception kept."""
        gc.collect()
        if self.on_cuda:
            with contextlib.suppress(RuntimeError):  # after a capture that failed
                torch.cuda.empty_cache()

    def round_seconds(self) -> float:
        return _ROUND_SECONDS if self.on_cuda else _ROUND_SECONDS / 10


def run(stage: Stage) -> None:
    """Measure part by part, most valuable first, while the time allows.

    Raises:
        SystemExit: if any part failed.
    """
    record = Record(stage, f"Speeds on {stage.device}")
    bench = Bench(stage, record)
    record.note(
        f"aims: EPiCField 6 x 128 at {SLOTS} columns in 50 microseconds a jet per 100 evaluations "
        "(published: 6,075 at 200); 40% of the peak in training of TransformerField 8 x 512"
    )
    parts, failed = list(_parts(bench)), []
    for place, part in enumerate(parts):
        if stage.left() < part.seconds * (1 if bench.on_cuda else _REHEARSED):
            left_out = "; ".join(other.name for other in parts[place:])
            record.note(f"left out with {stage.left():.0f} s left: {left_out}")
            break
        try:
            part.measure()
        except Exception as error:
            first = (str(error).splitlines() or [""])[0][:200]
            record.note(f"{part.name} failed: {type(error).__name__}: {first}")
            failed.append(part.name)
        bench.freed()
    if failed:
        raise SystemExit(1)


def _parts(bench: Bench) -> Iterator[Part]:
    _, middle, large = bench.sizes
    modes = (EAGER, GRAPH) if bench.on_cuda else (EAGER,)
    cases = [(size, columns) for columns in (HARDEST, SLOTS) for size in bench.sizes]

    def sampling(mode: str) -> Iterator[Part]:
        for size, columns in cases:
            name = f"sampling, {size}, {columns} columns, {mode}"
            yield Part(name, 5, lambda s=size, n=columns: sample(bench, s, n, mode))

    yield Part("peak", 5, lambda: find_peak(bench))
    if bench.on_cuda:
        yield from sampling(GRAPH)
    else:
        bench.record.note(f"no CUDA graphs, since the device is a {bench.device.type}")
    for size, columns in cases:
        name = f"training, {size}, {columns} columns"
        yield Part(name, 4, lambda s=size, n=columns: train(bench, s, n))
    for mode in modes:
        for size in bench.sizes:
            name = f"plan, {size}, {mode}"
            yield Part(name, 3, lambda s=size, mode=mode: compare_plan(bench, s, mode))
    yield Part("exact divergence", 6, lambda: compare_exact(bench, middle))
    for columns in (HARDEST, SLOTS):
        name = f"Hutchinson, {columns} columns"
        yield Part(name, 3, lambda n=columns: compare_hutchinson(bench, middle, n))
    varlen = _varlen(bench)
    for heads in (middle.hidden // 32, large.hidden // 32):
        name = f"attention, {heads} heads"
        yield Part(name, 4, lambda h=heads: compare_attention(bench, varlen, h))
    yield from sampling(EAGER)
    yield Part("sampling, compiled", 60, lambda: sample_compiled(bench, middle))


def find_peak(bench: Bench) -> None:
    """Measure the rate of bf16 matrix products, the best of some sizes."""
    for size in PEAK_SIZES:
        n = bench.stage.scaled(size, least=64)
        a, b = (bench.noise(n, n).bfloat16() for _ in range(2))

        def ten_products(a: Tensor = a, b: Tensor = b) -> None:
            for _ in range(10):
                a @ b

        rates = [20 * n**3 / s for (s,) in bench.seconds(ten_products, rounds=5, warmups=2)]
        if not bench.peak >= max(rates):
            bench.peak = max(rates)
        bench.record.add(
            part="bf16 matrix products", size=n, **{"TFLOP/s": max(rates) / 1e12},
            median=statistics.median(rates) / 1e12,
        )  # fmt: skip


def sample(
    bench: Bench,
    size: Size,
    columns: int,
    mode: str,
    *,
    field: nn.Module | None = None,
    batches: tuple[int, ...] | None = None,
) -> None:
    """Measure sampling at the batch of a sweep that costs least a jet.

    Arguments:
        bench: the bench.
        size: of the field.
        columns: how many particles a jet has at most.
        mode: what the row says of the mode; one that ends in `CUDA graph` is captured.
        field: that is to be used in the place of the field of the size.
        batches: of the sweep; None takes those of the number of columns.
    """
    plain, batches = bench.field(size), batches or BATCHES[columns]
    field = plain if field is None else field

    def made(mask: Tensor) -> nn.Module:
        return Captured(field, mask) if mode.endswith(GRAPH) else field

    with torch.no_grad(), bench.autocast():
        if mode != EAGER:
            mask = bench.mask(batches[0], columns)
            x, t = bench.noise(*mask.shape, 3), bench.times(len(mask))
            agree(*(call_field(f, x, t, None, mask) for f in (made(mask), plain)), 0.03)
        sweep = bench.sweep(lambda mask: _evaluation(bench, made(mask), mask), batches, columns)
        best = cheapest(sweep)
        mask = bench.mask(best, columns)
        fitting = 2 * int(bench.round_seconds() / sweep[best] / 2)
        evaluations = min(EVALUATIONS, max(4, fitting))
        noise, solver = bench.noise(*mask.shape, 3), setflow.Midpoint(evaluations // 2)
        ready, base = made(mask), setflow.StandardNormal((3,))
        found = bench.seconds(
            lambda: setflow.masked_sample(ready, base, solver, mask, x_source=noise)
        )
    per_jet = [1e6 * s / len(mask) * EVALUATIONS / evaluations for (s,) in found]
    middle = statistics.median(per_jet)
    rate = EVALUATIONS * bench.operations(size, mask) / (1e-6 * middle)
    bench.record.add(
        part="sampling", field=str(size), columns=columns, mode=mode, batch=len(mask),
        evaluations=evaluations, **{f"{_TIME} per {EVALUATIONS} evaluations": middle},
        **{_LEAST: min(per_jet), _MOST: max(per_jet), _SHARE: rate / bench.peak},
    )  # fmt: skip
    told = f"sampling, {size}, {columns} columns, {mode}: {_told(bench, sweep)}"
    bench.record.note(told + (_overhead(bench, sweep, columns) if columns == HARDEST else ""))


def _evaluation(bench: Bench, field: nn.Module, mask: Tensor) -> Callable[[], Tensor]:
    """Return one evaluation as a solver does it: the plan is made before."""
    whole = Planned(field, mask)
    x, t = bench.noise(*mask.shape, 3), bench.times(len(mask))
    return lambda: call_field(whole, x, t, None, mask)


def sample_compiled(bench: Bench, size: Size) -> None:
    """Measure sampling with a field that is compiled, here without a sweep."""
    backend = "inductor" if bench.on_cuda else "aot_eager"
    compiled = torch.compile(bench.field(size), dynamic=True, backend=backend)
    for mode in (EAGER, GRAPH) if bench.on_cuda else (EAGER,):
        name = "compiled" if mode == EAGER else f"compiled, {mode}"
        sample(bench, size, HARDEST, name, field=compiled, batches=BATCHES[HARDEST][-1:])


def train(bench: Bench, size: Size, columns: int) -> None:
    """Measure a training step at the batch of a sweep that costs least a jet."""
    field = size.field().to(bench.device)
    optimizer = torch.optim.AdamW(field.parameters(), lr=1e-4, fused=True)

    def step(mask: Tensor) -> Callable[[], None]:
        x, noise = (bench.noise(*mask.shape, 3) for _ in range(2))
        t = bench.times(len(mask))

        def once() -> None:
            optimizer.zero_grad()
            with bench.autocast():
                loss = setflow.masked_fm_loss(field, x, noise, mask, t)
            loss.backward()
            optimizer.step()

        return once

    sweep = bench.sweep(step, TRAINING_BATCHES[columns], columns)
    best = cheapest(sweep)
    mask = bench.mask(best, columns)
    once, steps = step(mask), min(20, max(1, int(bench.round_seconds() / sweep[best])))

    def several() -> None:
        for _ in range(steps):
            once()

    per_jet = [1e6 * s / steps / len(mask) for (s,) in bench.seconds(several)]
    middle = statistics.median(per_jet)
    rate = 3 * bench.operations(size, mask) / (1e-6 * middle)
    bench.record.add(
        part="training", field=str(size), columns=columns, mode=EAGER, batch=len(mask),
        steps=steps, **{_TIME: middle, _LEAST: min(per_jet), _MOST: max(per_jet)},
        **{_SHARE: rate / bench.peak},
    )  # fmt: skip
    bench.record.note(f"training, {size}, {columns} columns: {_told(bench, sweep)}")


def compare_plan(bench: Bench, size: Size, mode: str) -> None:
    """Compare a planned evaluation with one of all 150 columns, after a check in float32."""
    field, mask = bench.field(size), bench.mask(PLANNED_JETS, SLOTS)
    plan, padded = Planned(field, mask), Padded(field, mask)
    x, t = bench.noise(*mask.shape, 3), bench.times(len(mask))
    with torch.no_grad():
        agree(*(call_field(f, x, t, None, mask) for f in (plan, padded)), 1e-4)
        if mode == GRAPH:
            plan, padded = Captured(field, mask), Captured(padded, mask)
        with bench.autocast():
            found = bench.seconds(
                lambda: call_field(padded, x, t, None, mask),
                lambda: call_field(plan, x, t, None, mask),
                rounds=7,
                warmups=2,
            )
    _add_ratio(
        bench, found, "planned evaluation", "all columns at once",
        field=str(size), columns=SLOTS, mode=f"{mode}, bf16", jets=len(mask),
    )  # fmt: skip


def compare_exact(bench: Bench, size: Size) -> None:
    """Compare the exact divergence with a loop over all padded coordinates."""
    field, mask = bench.field(size), bench.mask(128, HARDEST)
    x = bench.noise(*mask.shape, 3)
    events = Events.of(field, x, mask, t=_T)
    evaluate = setflow.ExactDivergence().for_solve(field, events)

    def ours() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            v, divergence = evaluate(events)
            return v, divergence[..., 0].to(v)

    def loop() -> tuple[Tensor, Tensor]:
        return plain_divergence(field, x, _T, mask)

    for got, expected in zip(ours(), loop(), strict=True):
        agree(got, expected, 1e-3)
    found = bench.seconds(loop, ours, warmups=0)
    _add_ratio(
        bench, found, "exact divergence", "a reverse pass per padded coordinate",
        field=str(size), columns=HARDEST, mode=f"{EAGER}, float32", jets=len(mask),
    )  # fmt: skip


def compare_hutchinson(bench: Bench, size: Size, columns: int) -> None:
    """Compare one probe, planned once as in a solve, with a product by hand on all columns."""
    field, mask = bench.field(size), bench.mask(512, columns)
    x, t = bench.noise(*mask.shape, 3), torch.full((len(mask),), _T, device=bench.device)
    probe = torch.where(mask[..., None], bench.noise(*x.shape).sign(), 0.0)
    events = Events.of(field, x, mask, t=t)
    given = setflow.divergence.FixedProbeDivergence(probe[None]).for_solve(field, events)
    drawn = setflow.HutchinsonDivergence().for_solve(field, events, bench.generator)

    def estimated(evaluate: Evaluation) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            v, divergence = evaluate(events)
            return v, divergence[..., 0].to(v)

    def by_hand() -> tuple[Tensor, Tensor]:
        state = x.detach().requires_grad_()
        v = field(state, t, mask=mask)
        (product,) = torch.autograd.grad(v, state, probe)
        return v.detach(), (product * probe).flatten(1).sum(1)

    for got, expected in zip(estimated(given), by_hand(), strict=True):
        agree(got, expected, 1e-3)
    found = bench.seconds(by_hand, lambda: estimated(drawn), rounds=5)
    _add_ratio(
        bench, found, "Hutchinson, one probe", "one product by hand, all columns",
        field=str(size), columns=columns, mode=f"{EAGER}, float32", jets=len(mask),
    )  # fmt: skip


def _add_ratio(
    bench: Bench, found: list[tuple[float, ...]], part: str, reference: str, **case: Any
) -> None:
    """Add the row of a reference and a contender, timed in turn on `case["jets"]` jets."""
    ratios = [first / second for first, second in found]
    first, second = (1e6 * statistics.median(s) / case["jets"] for s in zip(*found, strict=True))
    bench.record.add(
        part=part, reference=reference, **case, rounds=len(found),
        **{_TIME: second, "of the reference": first, "ratio": statistics.median(ratios)},
        **{_LEAST: min(ratios), _MOST: max(ratios)},
    )  # fmt: skip


class Tokens(NamedTuple):
    """The queries, keys and values of jets, one behind the other.

    Attributes:
        qkv: with shape `(3, tokens, heads, width)`.
        ends: where each jet starts, and where the last ends, with shape `(jets + 1,)`.
        real: which tokens of the jets are real if they are padded, with shape `(jets, longest)`.
    """

    qkv: Tensor
    ends: Tensor
    real: Tensor

    def grouped(self, groups: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        """Return the tokens of each group, padded, as leaves, and which of them are real."""
        parts = []
        for group in groups:
            rows = torch.tensor(group, device=self.real.device)
            real = self.real[rows]
            real = real[:, : int(real.sum(-1).max())]
            place = self.ends[rows, None] + torch.arange(real.shape[1], device=real.device)
            qkv = self.qkv.new_zeros(3, *real.shape, *self.qkv.shape[2:])
            qkv[:, real] = self.qkv[:, place[real].long()]
            parts.append((qkv.requires_grad_(), real))
        return parts


def compare_attention(
    bench: Bench, varlen: Callable[..., Tensor] | None, heads: int, width: int = 32
) -> None:
    """Compare packed jets with padded ones and with groups of like length.

    Projections are left out: they cost the same per row, and rows are padded as the tokens are.
    """
    lengths = bench.mask(1024, SLOTS).sum(-1) + 1  # one token stands for the event
    ends = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    tokens = Tokens(
        bench.noise(3, int(ends[-1]), heads, width).bfloat16(),
        ends,
        torch.arange(longest, device=bench.device) < lengths[:, None],
    )
    groups = cut_by_length(
        lengths.tolist(), overhead=_GPU_OVERHEAD, largest=lambda n: _GPU_OBJECTS // n
    )
    whole, alike = tokens.grouped([list(range(len(lengths)))]), tokens.grouped(groups)

    def add(how: str, attend: Callable[[], list[Tensor]], leaves: list[Tensor]) -> None:
        gradients = [torch.ones_like(out) for out in attend()]
        with torch.no_grad():
            forward = bench.seconds(attend, rounds=5)
        both = bench.seconds(lambda: torch.autograd.grad(attend(), leaves, gradients), rounds=5)
        forward, both = (1e3 * statistics.median(s for (s,) in t) for t in (forward, both))
        bench.record.add(
            part=f"attention, {heads} heads of {width}", jets=len(lengths), how=how,
            **{"forward, ms": forward, "with backward, ms": both},
        )  # fmt: skip

    for how, parts in {f"padded to {longest}": whole, f"{len(groups)} groups": alike}.items():
        add(how, lambda parts=parts: _padded_attention(parts), [qkv for qkv, _ in parts])
    if varlen is None:
        return
    leaf = tokens.qkv.clone().requires_grad_()

    def packed() -> list[Tensor]:
        return [varlen(*leaf, ends, ends, longest, longest)]

    with torch.no_grad():
        agree(packed()[0], _padded_attention(whole)[0][tokens.real], 0.03)
    add("packed, varlen_attn", packed, [leaf])


def _padded_attention(parts: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return the attention of each group, with shape `(jets, longest, heads, width)`."""
    # as the field chooses
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    found = []
    with sdpa_kernel(kernels):
        for qkv, real in parts:
            attend = real[:, None, None, :]
            v = F.scaled_dot_product_attention(*qkv.transpose(2, 3), attn_mask=attend)
            found.append(v.transpose(1, 2))
    return found


def _varlen(bench: Bench) -> Callable[..., Tensor] | None:
    """Return the attention of packed sequences, or None and a note why there is none."""
    if not bench.on_cuda:
        bench.record.note(f"no packed attention: varlen_attn does not run on a {bench.device}")
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        bench.record.note(f"no packed attention: torch {torch.__version__} lacks it, {error}")
        return None
    return varlen_attn


def agree(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Check that two tensors are equal but for a share of the largest value.

    Raises:
        ValueError: if they differ by more.
    """
    largest = float(expected.abs().max())
    share = float((got.float() - expected.float()).abs().max()) / max(largest, 1e-30)
    if not share <= tolerance:
        raise ValueError(f"values differ by {share:.2g} of the largest, more than {tolerance:g}")


def cheapest(sweep: dict[int, float]) -> int:
    """Return the batch at which one jet costs least."""
    return min(sweep, key=lambda batch: sweep[batch] / batch)


def _told(bench: Bench, sweep: dict[int, float]) -> str:
    """Return a whole sweep in one line."""
    batches = {bench.stage.scaled(batch, least=4): 1e3 * s for batch, s in sweep.items()}
    return "milliseconds by batch: " + ", ".join(f"{b}: {ms:.3g}" for b, ms in batches.items())


def _overhead(bench: Bench, sweep: dict[int, float], columns: int) -> str:
    """Return what an evaluation costs besides its objects, which the planner must know."""
    if len(sweep) < 2:
        return ""
    objects = [float(bench.mask(batch, columns).sum()) for batch in sweep]
    slope, intercept = statistics.linear_regression(objects, list(sweep.values()))
    return f"; an evaluation of no objects would cost as much as {intercept / slope:,.0f} objects"
