"""Every field on the device against the CPU: the loss and its gradients, a step, samples, scores.

The reference is the CPU in float64. Inputs and parameters are numbers of float32, so that both
dtypes start from the same ones; the differences are relative to max(1, |reference|).
"""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import setflow
from bench.campaign.record import Record, Stage
from families import FAMILIES
from laws.laws import Case, cases, padding_filled, redraw

__all__ = ["run"]

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
MODEL = Path(__file__).resolve().parents[3] / "models/top30"
_RATE = 0.1  # of the step of SGD
_BASE, _SOLVER = setflow.StandardNormal((3,)), setflow.Midpoint(2)
_IMPORT = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import setflow
print(middle - start, time.perf_counter() - middle)
"""


class PerObject(nn.Module):
    """The multilayer perceptron, on each object alone."""

    event_ndim = 2

    def __init__(self) -> None:
        super().__init__()
        self.field = setflow.VelocityField(3, hidden=8)

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        return self.field(x, t[..., None].expand(x.shape[:-1]), c)


def run(stage: Stage) -> None:
    """Compare all fields and a trained model with the CPU.

    Raises:
        SystemExit: if any differs or fails.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    record = Record(stage, f"The fields on {stage.device} against the CPU in float64")
    record.note(
        "largest differences relative to max(1, |reference|); tolerance "
        + ", ".join(f"{tolerance:g} in {_name(dtype)}" for dtype, tolerance in TOLERANCES.items())
    )
    _add(record, "import", _import_seconds)
    for name, field, case in _subjects():
        _add(record, name, lambda field=field, case=case: _compared(field, case, stage.device))
    _add(record, f"SetFlow, {MODEL.name}", lambda: _compared_model(stage))
    _add(record, f"SetFlow, {MODEL.name}, bfloat16", lambda: _trained_model(stage))
    wrong = [row["what"] for row in record.rows if row["outcome"] != "ok"]
    if wrong:
        record.note(f"not as on the CPU: {'; '.join(wrong)}")
        raise SystemExit(1)


def _add(record: Record, name: str, find: Callable[[], dict[str, float]]) -> None:
    """Add the row of what is found, or of how that failed."""
    try:
        found = find()
    except Exception as error:
        first = (str(error).splitlines() or [""])[0].replace("|", "\\|")
        record.add(what=name, outcome=f"{type(error).__name__}: {first}")
        return
    fits = all(value <= _tolerance(column) for column, value in found.items())
    record.add(what=name, outcome="ok" if fits else "differs", **found)


def _tolerance(column: str) -> float:
    """Return the tolerance of a column, infinite where it holds no difference."""
    return next((v for dtype, v in TOLERANCES.items() if column.endswith(_name(dtype))), torch.inf)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _import_seconds() -> dict[str, float]:
    """Return how long a new interpreter takes to import torch, and setflow after it."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise ImportError((done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1])
    of_torch, of_setflow = map(float, done.stdout.split())
    return {"seconds of import torch": of_torch, "seconds of import setflow": of_setflow}


def _subjects() -> Iterator[tuple[str, nn.Module, Case]]:
    """Fields with weights that leave no gate shut, and a case with NaN in its padding."""
    makers: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
        name: (lambda family=family: family.make(3), family.cases)
        for name, family in FAMILIES.items()
    }
    loc, scale = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 1.0, 2.0])
    makers["oracle"] = (lambda: setflow.GaussianSetField(loc, scale, coupling=2.0), {})
    makers["perceptron of each object"] = (PerObject, {})
    for name, (make, options) in makers.items():
        case = dict(cases((3,), **options))["lead1"]
        yield name, redraw(make()), padding_filled(case, float("nan"))


def _compared(field: nn.Module, case: Case, device: str) -> dict[str, float]:
    """Return the largest difference of each verb in each dtype."""
    expected = _outcomes(field, case, "cpu", torch.float64)
    found = {}
    for dtype in TOLERANCES:
        got = _outcomes(field, case, device, dtype)
        for verb, values in expected.items():
            pairs = zip(got[verb], values, strict=True)
            found[f"{verb}, {_name(dtype)}"] = max(
                (_difference(*pair) for pair in pairs), default=0.0
            )
    return found


def _outcomes(
    field: nn.Module, case: Case, device: str, dtype: torch.dtype
) -> dict[str, list[Tensor]]:
    """Return what each verb gives, all of it on the CPU in float64."""
    field = copy.deepcopy(field).to(device, dtype)
    case = _moved(case, device, dtype)
    c = case.c if case.c_object is None else case.c_object
    inputs = [case.x.requires_grad_(), case.x_source.requires_grad_()]
    parameters = list(field.parameters())
    loss = setflow.masked_fm_loss(field, *inputs, case.mask, case.t, c)
    loss.backward()
    with torch.no_grad():
        x = setflow.masked_sample(field, _BASE, _SOLVER, case.mask, c=c, x_source=case.x_source)
        score = setflow.masked_log_prob(field, _BASE, _SOLVER, case.x, case.mask, c=c)
    gradients = [v.grad for v in (*parameters, *inputs) if v.grad is not None]
    if parameters:
        torch.optim.SGD(parameters, lr=_RATE).step()
    values = {"loss": [loss], "gradients": gradients, "step": parameters}
    values |= {"sample": [x], "score": [score]}
    return {verb: [v.detach().cpu().double() for v in found] for verb, found in values.items()}


def _moved(case: Case, device: str, dtype: torch.dtype) -> Case:
    def moved(v: Tensor | None) -> Tensor | None:
        if v is None:
            return None
        return v.detach().clone().to(device, dtype if v.is_floating_point() else v.dtype)

    return Case(*(moved(getattr(case, part)) for part in Case.__dataclass_fields__))


def _difference(got: Tensor, expected: Tensor) -> float:
    if got.shape != expected.shape:
        raise ValueError(f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    if not bool(got.isfinite().all()):
        raise FloatingPointError("not finite")
    return float(((got - expected).abs() / expected.abs().clamp(min=1)).max())


def _compared_model(stage: Stage) -> dict[str, float]:
    """Return the largest differences of a trained model, in float32 on both sides."""
    n = stage.scaled(64, least=4)
    flows = [setflow.SetFlow.load(MODEL, device=device) for device in ("cpu", stage.device)]
    with torch.no_grad():
        expected, got = (flow.sample(n, seed=1, solver=_SOLVER) for flow in flows)
        jets = expected[:4]
        scores = [
            flow.log_prob(jets.to(device), solver=setflow.RK4(2)).cpu()
            for flow, device in zip(flows, ("cpu", stage.device), strict=True)
        ]
    if not torch.equal(got.mask.cpu(), expected.mask):
        raise ValueError("the numbers of particles differ")
    found = {"sample": (got.x.cpu(), expected.x), "score": (scores[1], scores[0])}
    return {f"{verb}, float32": _difference(*pair) for verb, pair in found.items()}


def _trained_model(stage: Stage) -> dict[str, float]:
    """Return the loss of a trained model before and after a step in short arithmetic."""
    flow = setflow.SetFlow.load(MODEL, device=stage.device).train()
    with torch.no_grad():
        jets = flow.sample(stage.scaled(64, least=4), seed=1, solver=_SOLVER)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        generator = torch.Generator(stage.device).manual_seed(1)
        optimizer.zero_grad()
        with torch.autocast(stage.device, torch.bfloat16):
            loss = flow.loss(jets, generator=generator)
        loss.backward()
        if not all(bool(v.grad.isfinite().all()) for v in flow.parameters() if v.grad is not None):
            raise FloatingPointError("a gradient is not finite")
        optimizer.step()
        losses.append(loss.item())
    if not all(map(math.isfinite, losses)):
        raise FloatingPointError("the loss is not finite")
    return {"loss": losses[0], "loss after a step": losses[1]}
