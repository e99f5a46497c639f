"""What fields cost on a GPU: time per jet, and the share of its measured peak.

Notation. The peak is the rate of a large bf16 matrix product on the same GPU. The operations of a
field are those of its matrix products on real objects alone, a quadratic function of N, so that
what is spent on padding lowers the share; a training step counts three evaluations. Events have the
numbers of objects of real top jets, padded to 150; bf16 autocast. "graph" is the planned and
compiled evaluation captured as one CUDA graph, which a solver replays.

`make bench-cuda` keeps the tables.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import setflow
from bench.machine import described
from bench.setups import SLOTS, awake, top_jets
from setflow.core.calling import call_field
from setflow.core.planning import _GPU_OBJECTS, _GPU_OVERHEAD, cut_by_length, planned

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

DEVICE = torch.device("cuda")
BATCHES = (256, 512, 1024, 2048, 4096, 8192, 16384)
TRAINING_BATCHES = (256, 512, 1024, 2048, 4096)
EVALUATIONS = 200  # of the midpoint rule with 100 steps
ROUNDS = 5
PEAK_SIZES = (4096, 8192, 16384)

MODELS: dict[str, Callable[[], nn.Module]] = {
    "EPiCField 6 x 128, latent 10": lambda: setflow.EPiCField(3),
    "TransformerField 3 x 256, 16 heads": lambda: setflow.TransformerField(
        3, hidden=256, layers=3, heads=16
    ),
    "TransformerField 8 x 512, 8 heads": lambda: setflow.TransformerField(
        3, hidden=512, layers=8, heads=8
    ),
}
_AIMS = {
    "EPiCField 6 x 128, latent 10": "sampling: 100 microseconds a jet (published: 6,075)",
    "TransformerField 8 x 512, 8 heads": "training: 40% of the peak",
}


class Best(NamedTuple):
    """The batch at which one event costs least, and its time per event in microseconds."""

    batch: int
    microseconds: float


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def document(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Lines of the document, which is written when the last measurement is done."""
    lines: list[str] = []
    yield lines
    folder: Path | None = request.config.getoption("--keep")
    if folder is None or not lines:
        return
    name = re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-")
    head = ["# Speeds on a GPU", "", *(f"- {line}" for line in described())]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"cuda-{name}.md").write_text("\n".join([*head, *lines, ""]))


@pytest.fixture(scope="module")
def peak(document: list[str]) -> float:
    """The rate of bf16 matrix products, in operations per second."""
    best = 0.0
    for n in PEAK_SIZES:
        a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))

        def ten_products(a: Tensor = a, b: Tensor = b) -> None:
            for _ in range(10):
                a @ b

        best = max(best, 20 * n**3 / min(seconds(ten_products)))
    document.append(f"- peak of bf16 matrix products: {best / 1e12:.0f} TFLOP/s")
    return best


@pytest.mark.parametrize("name", MODELS)
def bench_sampling(document, report, peak, name):
    model = awake(MODELS[name]())
    operations = operations_per_event(model)
    model.to(DEVICE)
    compiled = torch.compile(model, dynamic=True)
    modes: dict[str, Callable[[Tensor], nn.Module]] = {
        "eager": lambda mask: model,
        "compile": lambda mask: compiled,
        "graph": lambda mask: Captured(compiled, mask),
    }
    with torch.no_grad(), autocast():
        mask = mix(BATCHES[0])
        x, t = torch.randn(*mask.shape, 3, device=DEVICE), torch.rand(len(mask), device=DEVICE)
        first, *others = (call_field(make(mask), x, t, None, mask) for make in modes.values())
        for other in others:
            torch.testing.assert_close(other, first, atol=0.03 * float(first.abs().max()), rtol=0)
        for mode, make in modes.items():
            sweep = sweep_batches(lambda mask, make=make: evaluation(make(mask), mask), BATCHES)
            best = cheapest(sweep)
            per_jet = [1e6 * s / best.batch for s in seconds(solve(make, mix(best.batch)))]
            middle = statistics.median(per_jet)
            share = operations * EVALUATIONS / (1e-6 * middle) / peak
            line = (
                f"sampling, {name}, {mode}: {middle:.1f} microseconds a jet at {EVALUATIONS} "
                f"evaluations ({min(per_jet):.1f} to {max(per_jet):.1f} in {ROUNDS} rounds), "
                f"{share:.1%} of the peak, batch {best.batch}"
            )
            report(line)
            document += [f"- {line}", f"  - {told(sweep)}", f"  - {overhead(sweep)}"]
    document.append(f"  - aim: {_AIMS.get(name, 'none')}")


@pytest.mark.parametrize("name", MODELS)
def bench_training(document, report, peak, name):
    operations = 3 * operations_per_event(MODELS[name]())
    for mode in ("eager", "compile"):
        model = awake(MODELS[name]()).to(DEVICE)
        field = torch.compile(model, dynamic=True) if mode == "compile" else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def step(mask: Tensor, field=field, optimizer=optimizer) -> Callable[[], None]:
            x, noise = (torch.randn(*mask.shape, 3, device=DEVICE) for _ in range(2))
            t = torch.rand(len(mask), device=DEVICE)

            def run() -> None:
                optimizer.zero_grad()
                with autocast():
                    loss = setflow.masked_fm_loss(field, x, noise, mask, t)
                loss.backward()
                optimizer.step()

            return run

        sweep = sweep_batches(step, TRAINING_BATCHES)
        best = cheapest(sweep)
        share = operations / (1e-6 * best.microseconds) / peak
        rate = float(mix(best.batch).sum()) / best.batch / best.microseconds
        line = (
            f"training, {name}, {mode}: {best.microseconds:.1f} microseconds a jet, "
            f"{rate:.2f} million real particles a second, {share:.1%} of the peak, "
            f"batch {best.batch}"
        )
        report(line)
        document += [f"- {line}", f"  - {told(sweep)}"]
    document.append(f"  - aim: {_AIMS.get(name, 'none')}")


@pytest.mark.parametrize(("heads", "width"), [(16, 16), (8, 64)])
def bench_attention(document, report, heads, width):
    """Whether packed sequences would be worth a path of their own, beside batches of like length.

    Projections are left out: they cost the same per row, and rows are padded as the tokens are.
    """
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch has no varlen_attn")
    lengths = mix(1024).sum(-1) + 1  # one token stands for the event
    longest = int(lengths.max())
    ends = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    tokens = torch.randn(3, int(lengths.sum()), heads, width, device=DEVICE).bfloat16()
    real = torch.arange(longest, device=DEVICE) < lengths[:, None]

    def in_groups(groups: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        parts = []
        for group in groups:
            part = real[group][:, : int(lengths[group].max())]
            rows = torch.cat([torch.arange(int(ends[e]), int(ends[e + 1])) for e in group])
            qkv = tokens.new_zeros(3, *part.shape, heads, width)
            qkv[:, part] = tokens[:, rows.to(DEVICE)]
            qkv = qkv.transpose(2, 3).contiguous().requires_grad_()
            parts.append((qkv, part[:, None, None, :].contiguous()))
        return parts

    def padded(parts: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return [F.scaled_dot_product_attention(*qkv, attn_mask=part) for qkv, part in parts]

    packed_tokens = tokens.clone().requires_grad_()

    def packed() -> list[Tensor]:
        return [varlen.varlen_attn(*packed_tokens, ends, ends, longest, longest)]

    whole = in_groups([list(range(len(lengths)))])
    sorted_groups = in_groups(
        cut_by_length(lengths.tolist(), overhead=_GPU_OVERHEAD, largest=lambda n: _GPU_OBJECTS // n)
    )
    (ours,), (theirs,) = packed(), padded(whole)
    theirs = theirs.transpose(1, 2)[real]
    torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0.03)
    contenders: dict[str, Callable[[], list[Tensor]]] = {
        f"padded to {longest}": lambda: padded(whole),
        f"{len(sorted_groups)} groups of like length": lambda: padded(sorted_groups),
        "packed, varlen_attn": packed,
    }
    for name, attend in contenders.items():
        with torch.no_grad():
            forward = statistics.median(seconds(attend))

        def both(attend=attend) -> None:
            torch.autograd.backward([part.float().square().sum() for part in attend()])

        line = (
            f"attention, {heads} heads of {width}, {len(lengths)} jets, {name}: forward "
            f"{1e3 * forward:.3f} ms, with backward {1e3 * statistics.median(seconds(both)):.3f} ms"
        )
        report(line)
        document.append(f"- {line}")


class Captured(nn.Module):
    """One evaluation of a planned field with its mask, captured as a CUDA graph."""

    event_ndim = 2

    def __init__(self, field: nn.Module, mask: Tensor) -> None:
        super().__init__()
        whole = planned(field, mask)
        self.x = torch.zeros(*mask.shape, 3, device=mask.device)
        self.t = torch.zeros(len(mask), device=mask.device)

        def evaluate() -> Tensor:
            # casts of weights that are kept for later must not be made inside the graph
            with torch.no_grad(), autocast(cache_enabled=False):
                return call_field(whole, self.x, self.t, None, mask)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                evaluate()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.v = evaluate()

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        self.x.copy_(x)
        self.t.copy_(t)
        self.graph.replay()
        return self.v.clone()


def autocast(*, cache_enabled: bool = True) -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, cache_enabled=cache_enabled)


def mix(events: int) -> Tensor:
    """Return the mask of so many top jets, with shape `(events, 150)`; the file is read in turn."""
    mask = top_jets(min(events, 8192)).mask
    return mask.repeat(-(-events // len(mask)), 1)[:events].to(DEVICE)


def evaluation(field: nn.Module, mask: Tensor) -> Callable[[], Tensor]:
    """Return one evaluation as a solver does it: the plan is made before."""
    whole = planned(field, mask)
    x, t = torch.randn(*mask.shape, 3, device=DEVICE), torch.rand(len(mask), device=DEVICE)
    return lambda: call_field(whole, x, t, None, mask)


def solve(make: Callable[[Tensor], nn.Module], mask: Tensor) -> Callable[[], Tensor]:
    """Return the sampling of all events of a mask."""
    field, base = make(mask), setflow.StandardNormal((3,))
    solver = setflow.Midpoint(EVALUATIONS // 2)
    noise = torch.randn(*mask.shape, 3, device=DEVICE)
    return lambda: setflow.masked_sample(field, base, solver, mask, x_source=noise)


def sweep_batches(
    prepare: Callable[[Tensor], Callable[[], object]], batches: tuple[int, ...]
) -> dict[int, float]:
    """Return the seconds of what is prepared for each batch, until the memory is full."""
    times: dict[int, float] = {}
    for batch in batches:
        try:
            times[batch] = statistics.median(seconds(prepare(mix(batch))))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    return times


def cheapest(sweep: dict[int, float]) -> Best:
    batch = min(sweep, key=lambda batch: sweep[batch] / batch)
    return Best(batch, 1e6 * sweep[batch] / batch)


def told(sweep: dict[int, float]) -> str:
    """Return the whole sweep in one line."""
    return "milliseconds by batch: " + ", ".join(f"{b}: {1e3 * s:.3g}" for b, s in sweep.items())


def overhead(sweep: dict[int, float]) -> str:
    """Return what a batch costs besides its objects, which the planner must know."""
    if len(sweep) < 2:
        return "one batch alone tells no overhead"
    objects = [float(mix(batch).sum()) for batch in sweep]
    slope, intercept = statistics.linear_regression(objects, list(sweep.values()))
    return f"an evaluation of no objects would cost as much as {intercept / slope:,.0f} objects"


def operations_per_event(field: nn.Module) -> float:
    """Return the operations of the matrix products of one evaluation, the mean over top jets."""
    points, counts = (30, 90, SLOTS), []
    for n in points:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            field(torch.zeros(1, n, 3), torch.zeros(1))
        counts.append(counter.get_total_flops())
    lengths = top_jets(8192).mask.sum(-1).numpy()
    return float(np.polyval(np.polyfit(points, counts, 2), lengths).mean())


def seconds(function: Callable[[], object]) -> list[float]:
    """Return the wall times of several rounds, each with all that it queued."""
    function()
    function()
    times = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times
