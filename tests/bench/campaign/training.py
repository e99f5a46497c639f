"""The stage `training`: as good a model of top jets as the time allows, its jets and their metrics.

The data stand on the device, scaled once. A step draws its noise and times there and is replayed as
a CUDA graph; a trial of some seconds chooses size and batch, and compiles the blocks if that is
faster and right. Where graphs fail, the stage starts anew without them. The learning rate follows
the time that is left. After a step that is not finite the last good weights go on at half the rate.
The weights that are kept and sampled are their moving
average; `model.safetensors` holds them with the configuration and the story of the training, and is
overwritten by rename every minute.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

import setflow
from bench.campaign.jets import OBJECTS, unpacked
from bench.campaign.record import HELD_OUT, Record, Stage
from bench.machine import described
from setflow.data import Standardizer, read_jets
from setflow.files import NewFile
from setflow.report.outcome import Report
from setflow.report.page import compare
from setflow.training import Muon, warmup_cosine

__all__ = ["MODEL", "run"]

MODEL = "model.safetensors"

SAMPLES = 20_000
EVALUATIONS = (50, 16, 8)
BATCHES = (2048, 4096, 8192)
LR, WEIGHT_DECAY, WARMUP, CLIP, DECAY = 5e-3, 1e-4, 0.03, 1.0, 0.999
SEED = 1

_EAGER = "CAMPAIGN_EAGER"  # in the environment of a stage that starts anew: why
_AVERAGE_FROM = 0.2  # of the time
_JETS_WANTED = 40e6  # that a model should see in the time: the largest that does is taken
_SAVE_EVERY = 60.0  # seconds
_LOOK_EVERY = 0.2  # seconds between looks at loss and clock, which wait for the device
_COMPILE_SECONDS = 60
_SHOWN = ("w1m", "w1_tau21", "w1_pt", "w1p", "w1p_ptrel", "w1_multiplicity", "w1efp")


class Size(NamedTuple):
    """The size of a transformer with heads of 32 features."""

    hidden: int
    layers: int

    def field(self) -> setflow.TransformerField:
        return setflow.TransformerField(
            3, hidden=self.hidden, layers=self.layers, heads=self.hidden // 32
        )


SIZES = (Size(128, 6), Size(128, 5), Size(96, 8))  # 1.44, 1.21 and 1.07 million parameters


class Whole(nn.Module):
    """A field whose batch stays whole: jets are full, and a captured step cannot read its mask."""

    takes_mask = True
    holds_context = True
    event_ndim = 2

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(
        self, x: Tensor, t: Tensor, c: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        v: Tensor = self.field(x, t, c, mask=mask)
        return v


class Jets:
    """Scaled jets on the device, and the rows of the next batch, epoch by epoch."""

    def __init__(self, flow: setflow.SetFlow, batch: setflow.SetBatch, device: str) -> None:
        flow.fit_statistics(batch)
        self.z = flow.scaler(batch.x, batch.mask).float().to(device)
        self.mask = batch.mask.to(device)
        self._generator = torch.Generator(device).manual_seed(SEED)
        self._order = torch.empty(0, dtype=torch.long, device=device)
        self._next = 0

    def rows(self, batch: int) -> Tensor:
        """Return the rows of the next batch; every jet once an epoch, the last ones of it apart."""
        if self._next + batch > len(self._order):
            self._order = torch.randperm(
                len(self.z), generator=self._generator, device=self.z.device
            )
            self._next = 0
        self._next += batch
        return self._order[self._next - batch : self._next]


class Step:
    """One training step, on a CUDA device captured once and replayed.

    Arguments:
        size: of the field, which is made anew.
        jets: the data.
        batch: the number of jets in a step.
        compiled: whether the field is compiled.
    """

    def __init__(self, size: Size, jets: Jets, batch: int, *, compiled: bool) -> None:
        device = jets.z.device
        self.size, self.compiled, self.device = size, compiled, device
        self.jets, self.batch = jets, min(batch, len(jets.z))
        torch.manual_seed(SEED)
        self.field = size.field().to(device)
        self.weights = list(self.field.parameters())
        self.parameters = sum(weight.numel() for weight in self.weights)
        self.average = [weight.detach().clone() for weight in self.weights]
        self.rate = torch.tensor(0.0, device=device)
        self.optimizer = Muon(self.weights, lr=self.rate, weight_decay=WEIGHT_DECAY)
        self.loss = torch.zeros((), device=device)
        self.count = 0
        if compiled:
            _compile_blocks(self.field)
        self._whole = Whole(self.field)
        self._rows = jets.rows(self.batch).clone()
        self._generator = torch.Generator(device).manual_seed(SEED)
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda" and _EAGER not in os.environ:
            self._capture()

    def draw_loss(self) -> Tensor:
        """Return the loss of the rows with new noise and times."""
        z = self.jets.z.index_select(0, self._rows)
        mask = self.jets.mask.index_select(0, self._rows)
        noise = torch.randn(z.shape, device=self.device, generator=self._generator)
        t = torch.rand(len(z), device=self.device, generator=self._generator)
        # casts of weights that are kept for later must not be made inside a graph
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            return setflow.masked_fm_loss(self._whole, z, noise, mask, t)

    def __call__(self, rate: float) -> None:
        """Make one step at a learning rate; the device may still be at it when this returns."""
        self.rate.fill_(rate)
        self._rows.copy_(self.jets.rows(self.batch))
        if self._graph is None:
            self._once()
        else:
            self._graph.replay()
        self.count += 1

    def _once(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.draw_loss()
        loss.backward()
        clip_grad_norm_(self.weights, CLIP)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, 1 - DECAY)
            self.loss.copy_(loss.detach())

    def _capture(self) -> None:
        """Warm up at a rate of zero, which leaves the weights, and record a step."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._once()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._once()
        self._graph = graph

    def is_finite(self) -> bool:
        """Return whether all weights are finite."""
        norms = torch._foreach_norm([weight.detach() for weight in self.weights])
        return bool(torch.stack(norms).isfinite().all())

    def start_from(self, weights: list[Tensor]) -> None:
        """Take these weights, in place, as a recorded step reads them, and forget all momenta."""
        with torch.no_grad():
            torch._foreach_copy_(self.weights, weights)
            torch._foreach_copy_(self.average, weights)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def forget(self) -> None:
        """Begin the moving average of the weights anew: the first ones are no part of it."""
        torch._foreach_copy_(self.average, [weight.detach() for weight in self.weights])

    def jets_per_second(self, seconds: float) -> float:
        """Return how many jets it trains on a second, measured for about so many seconds."""
        self(0.0)
        self._wait()
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds or not steps:
            for _ in range(5 if self._graph is not None else 1):
                self(0.0)
                steps += 1
            self._wait()
        return steps * self.batch / (time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def run(stage: Stage) -> None:
    """Train, keep the weights, sample and compare with held-out jets."""
    record = Record(stage, "Training of top jets")
    torch.set_float32_matmul_precision("high")  # of what bf16 leaves; sampling is without it
    begin = time.time()
    if _EAGER in os.environ:
        record.note(f"without CUDA graphs, after {os.environ[_EAGER]}")
    batch = unpacked(stage.data, None if stage.scale == 1 else stage.scaled(150_000))
    flow = setflow.SetFlow(
        SIZES[-1].field(),
        scaler=Standardizer(kinds=["real", "real", "positive(boxcox=0.3)"]),
        cardinality=setflow.EmpiricalCardinality(OBJECTS),
    )
    jets = Jets(flow, batch, stage.device)
    record.note(f"{len(batch):,} jets on the device after {time.time() - begin:.1f} s")
    ending = min(max(0.12 * stage.left(), 35.0), 0.5 * stage.left())  # for samples and metrics
    try:
        step = _tried(stage, record, jets, stage.left() - ending)
    except Exception as error:
        if stage.device == "cpu" or _EAGER in os.environ:
            raise
        # a capture that fails leaves allocator and generators of the process unusable
        traceback.print_exc()
        sys.stdout.flush()
        os.environ[_EAGER] = _in_a_line(error)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    flow.field = step.field
    story = _train(stage, record, flow, step, max(5.0, stage.left() - ending))
    _sample(stage, record, _averaged(flow, step).to(stage.device), story)


def _tried(stage: Stage, record: Record, jets: Jets, left: float) -> Step:
    """Return the step to train with: its size, its batch and whether it is compiled."""
    share = min(20.0, 0.12 * left) / (len(SIZES) + len(BATCHES))

    def measured(size: Size, batch: int, *, compiled: bool = False) -> tuple[float, Step]:
        begin = time.perf_counter()
        step = Step(size, jets, batch, compiled=compiled)
        rate = step.jets_per_second(share)
        record.add(
            trial=f"{size.hidden} wide, {size.layers} blocks", parameters=step.parameters,
            batch=step.batch, compiled=compiled, jets_per_second=round(rate),
            seconds=time.perf_counter() - begin,
        )  # fmt: skip
        return rate, step

    begin = time.time()
    counts = [stage.scaled(batch, 16) for batch in BATCHES]
    steps = {size: measured(size, counts[0]) for size in SIZES}
    wanted = _JETS_WANTED * stage.scale / (left - 2 * (time.time() - begin))  # jets a second
    enough = [size for size in SIZES if steps[size][0] >= wanted > 0]
    size = enough[0] if enough else max(SIZES, key=lambda size: steps[size][0])
    by_batch = [steps.pop(size)]
    steps.clear()  # their graphs keep memory
    for count in counts[1:]:
        try:
            by_batch.append(measured(size, count))
        except torch.OutOfMemoryError as error:
            record.note(f"batch {count}: {_in_a_line(error)}")
            break
    most = max(rate for rate, _ in by_batch)
    rate, step = next(tried for tried in by_batch if tried[0] >= 0.85 * most)
    graphs = stage.device == "cuda" and _EAGER not in os.environ
    if graphs and left > 120 and _compiles(stage, record, jets, step):
        compiled_rate, compiled = measured(size, step.batch, compiled=True)
        if compiled_rate > 1.05 * rate:
            step = compiled
    record.note(
        f"taken: {size.hidden} wide, {size.layers} blocks, batch {step.batch}, "
        + ("compiled" if step.compiled else "not compiled")
    )
    return step


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _compiles(stage: Stage, record: Record, jets: Jets, step: Step) -> bool:
    """Return whether compiled blocks can be had in time and give loss and gradient."""
    begin = time.perf_counter()
    # else the backward is compiled in a thread that no alarm reaches
    torch._functorch.config.force_non_lazy_backward_lowering = True
    size, batch = step.size, step.batch

    def gradient(compiled: bool) -> tuple[float, Tensor]:
        torch.manual_seed(SEED)
        field = size.field().to(stage.device)
        with torch.no_grad():
            for weight in field.parameters():  # closed gates would hide what they multiply
                weight.add_(0.02 * torch.randn_like(weight))
        generator = torch.Generator(stage.device).manual_seed(SEED)
        if compiled:
            _compile_blocks(field)
        whole = Whole(field)
        z, mask = jets.z[:batch], jets.mask[:batch]
        noise = torch.randn(z.shape, device=z.device, generator=generator)
        t = torch.rand(len(z), device=z.device, generator=generator)
        with torch.autocast(z.device.type, torch.bfloat16, cache_enabled=False):
            loss = setflow.masked_fm_loss(whole, z, noise, mask, t)
        loss.backward()
        parts = [weight.grad.flatten() for weight in field.parameters()]
        return float(loss.detach()), torch.cat(parts)

    try:
        with _at_most(_COMPILE_SECONDS):
            loss, wanted = gradient(False)
            compiled_loss, got = gradient(True)
    except Exception as error:
        record.note(f"no compiled blocks: {_in_a_line(error)}")
        return False
    cosine = float(nn.functional.cosine_similarity(got, wanted, dim=0))
    right = abs(compiled_loss - loss) < 0.01 * abs(loss) and cosine > 0.999
    record.note(
        f"compiled blocks after {time.perf_counter() - begin:.0f} s: loss {compiled_loss:.5f} for "
        f"{loss:.5f}, cosine of the gradients {cosine:.6f}: {'right' if right else 'wrong'}"
    )
    return right


def _compile_blocks(field: nn.Module) -> None:
    """Compile the blocks of a transformer, which share one graph: quicker than the whole field."""
    for block in field.blocks:
        block.compile(dynamic=False)


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block when the seconds are over."""

    def over(number: int, frame: Any) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    # again and again, as one that comes in a finalizer is swallowed
    signal.setitimer(signal.ITIMER_REAL, seconds, 2.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _train(
    stage: Stage, record: Record, flow: setflow.SetFlow, step: Step, seconds: float
) -> dict[str, Any]:
    """Train for so many seconds; return the story of it."""
    story: dict[str, Any] = {
        "jets": len(step.jets.z),
        "data": stage.data.name,
        "batch": step.batch,
        "parameters": step.parameters,
        "machine": described(),
        "steps": 0,
        "seconds": 0.0,
    }
    step.count = 0  # those of the trial were at a rate of zero
    begin = time.monotonic()
    saved = told = begin
    chunk, losses, averaging, lr = 1, 0.0, False, LR
    good = [weight.detach().clone() for weight in step.weights]
    while (now := time.monotonic()) < begin + seconds:
        for _ in range(chunk):
            step(lr * warmup_cosine((time.monotonic() - begin) / seconds, WARMUP))
        loss = float(step.loss)  # waits
        if math.isfinite(loss) and step.is_finite():
            torch._foreach_copy_(good, [weight.detach() for weight in step.weights])
        else:
            lr /= 2
            step.start_from(good)
            record.note(f"not finite at step {step.count}: on from good weights, at rate {lr:g}")
            if lr < LR / 100:
                raise ArithmeticError(f"the loss is not finite even at a rate of {lr:g}")
            continue
        losses = loss if not losses else losses + 0.1 * (loss - losses)
        if not averaging and now - begin > _AVERAGE_FROM * seconds:
            step.forget()
            averaging = True
        spent = time.monotonic() - now
        chunk = max(1, min(4 * chunk, round(chunk * _LOOK_EVERY / max(spent, 1e-4))))
        story |= {"steps": step.count, "seconds": round(time.monotonic() - begin, 1)}
        if time.monotonic() - told > seconds / 8:
            told = time.monotonic()
            record.add(
                step=step.count, seconds=told - begin, loss=losses,
                epochs=step.count * step.batch / len(step.jets.z),
            )  # fmt: skip
        if time.monotonic() - saved > _SAVE_EVERY * min(1.0, 10 * stage.scale):
            saved = time.monotonic()
            _save(stage.out / MODEL, _averaged(flow, step), story)
    _save(stage.out / MODEL, _averaged(flow, step), story)
    record.note(
        f"{step.count:,} steps of {step.batch} jets in {story['seconds']} s: "
        f"{step.count * step.batch:,} jets, "
        f"{step.count * step.batch / story['seconds']:,.0f} a second; the last losses {losses:.4f}"
    )
    return story


def _averaged(flow: setflow.SetFlow, step: Step) -> setflow.SetFlow:
    """Return the model with the moving averages of the weights, on the CPU."""
    model = setflow.SetFlow.from_node(flow.describe())
    model.load_state_dict({name: value.cpu() for name, value in flow.state_dict().items()})
    with torch.no_grad():
        for weight, average in zip(model.field.parameters(), step.average, strict=True):
            weight.copy_(average)
    return model.eval()


def _save(path: Path, flow: setflow.SetFlow, story: dict[str, Any]) -> None:
    """Write weights, configuration and story as one file, whole."""
    trainer = {
        "max_time": time.strftime("00:%H:%M:%S", time.gmtime(story["seconds"])),
        "gradient_clip_val": CLIP,
        "callbacks": [
            {
                "class_path": "setflow.training.MovingAverage",
                "init_args": {"decay": DECAY},
            }
        ],
    }
    optimizer = {
        "class_path": "setflow.training.Muon",
        "init_args": {"lr": LR, "weight_decay": WEIGHT_DECAY},
    }
    config = {
        "seed_everything": SEED,
        "name": "top30",
        "model": {"flow": flow.describe(), "optimizer": optimizer, "warmup": WARMUP},
        "data": {
            "train": "datasets/pythia-top/train.h5",
            "max_objects": OBJECTS,
            "batch_size": story["batch"],
            "val_fraction": 0.05,
        },
        "trainer": trainer,
    }
    metadata = {"config": yaml.safe_dump(config, sort_keys=False), "training": json.dumps(story)}
    weights = {name: value.contiguous() for name, value in flow.state_dict().items()}
    with NewFile(path, overwrite=True) as part:
        part.write_bytes(save(weights, metadata=metadata))  # save_file replaces the file


def _sample(stage: Stage, record: Record, flow: setflow.SetFlow, story: dict[str, Any]) -> None:
    """Sample at several numbers of evaluations and compare with held-out jets."""
    torch.set_float32_matmul_precision("highest")
    held_out = read_jets(HELD_OUT, max_objects=OBJECTS).particles
    held_out = held_out[: None if stage.scale == 1 else stage.scaled(len(held_out), 200)]
    events = stage.scaled(SAMPLES, 200)
    flow.sample(stage.scaled(256, 16), seed=SEED, solver=setflow.Midpoint(2))  # warm
    for evaluations in EVALUATIONS:
        begin = time.perf_counter()
        sampled = flow.sample(events, seed=SEED, solver=setflow.Midpoint(evaluations // 2))
        generated = setflow.SetBatch(sampled.x.cpu(), sampled.mask.cpu())
        seconds = time.perf_counter() - begin
        report = compare(generated, held_out, None, seed=SEED)
        record.add(
            evaluations=evaluations, events=events,
            microseconds_a_jet=1e6 * seconds / events,
            **{name: _told(report, name) for name in _SHOWN},
        )  # fmt: skip
    record.note(
        "distances to held-out jets, each (floor); midpoint rule, float32; trained for "
        f"{story['seconds']} s on {story['jets']:,} jets"
    )


def _told(report: Report, name: str) -> str:
    result = report.metrics[name]
    return f"{result.value:.2e} ({result.floor:.1e})"
