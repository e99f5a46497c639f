"""The rows of the table of ablations: `models/demo`, and one thing of it changed in each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import setflow
from bench.machine import REPOSITORY
from bench.published import PublishedEPiC
from setflow.couplings import Coupling
from setflow.data import Standardizer
from setflow.fields import FourierTime
from setflow.physics.kinematics import jet_mass
from setflow.schema import Feature, Schema
from setflow.training import Muon

__all__ = ["OBJECTS", "ROWS", "Row", "contexts_of", "model_of"]

OBJECTS = 30
KINDS = ("real", "real", "positive(boxcox=0.3)")
# of the particles that are kept, in units of the jet pT; no jet lies beyond these ends, and given a
# mass or a sum that no jet has particles are far from all that are true
CONTEXT = {"mass": "bounded(0, 0.6)", "ptsum": "bounded(0, 1.2)"}


class PaddedEncoder(nn.Module):
    """PyTorch's own transformer with the time beside the features; it pays for padding."""

    takes_mask = True
    holds_context = True  # so that padding stays
    event_ndim = 2

    def __init__(self, dim: int, hidden: int = 64, layers: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.time = FourierTime(32)
        self.embed = nn.Linear(dim + 32, hidden)
        layer = nn.TransformerEncoderLayer(hidden, heads, 4 * hidden, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(hidden, dim)

    def forward(
        self, x: Tensor, t: Tensor, c: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        time = self.time(t)[:, None].expand(-1, x.shape[1], -1)
        h = self.embed(torch.cat([x, time], -1))
        v: Tensor = self.out(self.encoder(h, src_key_padding_mask=None if mask is None else ~mask))
        return v


def _demo() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / "models/demo/config.yaml").read_text())
    return config["model"]


def _network(columns: int, scaler: Standardizer, **options: Any) -> setflow.TransformerField:
    """Return the field of `models/demo`, of so many columns of context, with other options."""
    given = _demo()["flow"]["init_args"]["field"]["init_args"]
    return setflow.TransformerField(**{**given, "condition_dim": columns, **options})


def _with_pairs(columns: int, scaler: Standardizer) -> nn.Module:
    loc, scale = scaler.mean.tolist(), scaler.std.tolist()
    return _network(columns, scaler, pair_features=setflow.PairFeatures(loc=loc, scale=scale))


def _self_conditioned(columns: int, scaler: Standardizer) -> nn.Module:
    return setflow.SelfConditionedField(_network(columns, scaler, dim=6))


def _of_demo(weights: Iterable[nn.Parameter]) -> Optimizer:
    return Muon(weights, **_demo()["optimizer"]["init_args"])


def _adamw(weights: Iterable[nn.Parameter]) -> Optimizer:
    return AdamW(weights, lr=1e-3)


def _times_of_demo() -> setflow.TimeSampling:
    return setflow.TimeSampling(**_demo()["times"]["init_args"])


@dataclass(frozen=True)
class Row:
    """One way to train.

    Arguments:
        what: in words, what differs from `base`.
        network: makes the field of a number of columns of context and the fitted scaler.
        optimizer: makes the optimizer from the weights.
        batch: the number of jets of a step; at equal time it is the inverse of the number of steps.
        average: the decay of the moving average of the weights, once a tenth of the training is
            longer than it.
        times: the density of the times; None for uniform ones.
        coupling: of noise and objects.
        contexts: whether mass and sum of ptrel are made first, by a model of their own.
        passes: of the network in one evaluation of the field, so that evaluations are comparable.
    """

    what: str
    network: Callable[[int, Standardizer], nn.Module] = _network
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = _of_demo
    batch: int = 128
    average: float = 0.99
    times: setflow.TimeSampling | None = field(default_factory=_times_of_demo)
    coupling: Coupling | None = None
    contexts: bool = False
    passes: int = 1


_PEER = Row("", optimizer=_adamw, batch=1024, average=0.999, times=None)

ROWS = {
    "base": Row("`models/demo`"),
    "two-stages": Row("mass and sum of ptrel first, then the particles", contexts=True),
    "event": Row("event coupling", coupling="event"),
    "two-stages-event": Row(
        "the same with event coupling of the particles", contexts=True, coupling="event"
    ),
    "event-uniform": Row("event coupling, uniform times", coupling="event", times=None),
    "event-mid": Row(
        "event coupling, logit-normal times",
        coupling="event",
        times=setflow.TimeSampling("logit_normal"),
    ),
    "event-noise": Row(
        "event coupling, times shifted to the noise",
        coupling="event",
        times=setflow.TimeSampling(shift_type="constant", constant=2.0),
    ),
    "batch-48": Row("48 jets a step, so more steps", batch=48),
    "batch-512": Row("512 jets a step, so fewer steps", batch=512),
    "average-0.999": Row("moving average over 1,000 steps or a tenth of all", average=0.999),
    "average-0.9": Row("moving average over 10 steps", average=0.9),
    "times-uniform": Row("uniform times", times=None),
    "times-mid": Row("logit-normal times", times=setflow.TimeSampling("logit_normal")),
    "pairs": Row("features of pairs in the attention", network=_with_pairs),
    "self-conditioned": Row(
        "given its own estimate of the data, in two passes", network=_self_conditioned, passes=2
    ),
    "all": Row(
        "two stages, event coupling, logit-normal times and self-conditioning",
        network=_self_conditioned,
        times=setflow.TimeSampling("logit_normal"),
        coupling="event",
        contexts=True,
        passes=2,
    ),
    "adamw": Row("AdamW 1e-3, not Muon", optimizer=_adamw),
    "peer-epic": replace(
        _PEER,
        what="EPiC flow matching as published: 6 x 128, latent 10, AdamW 1e-3, batch 1024",
        network=lambda columns, scaler: PublishedEPiC(3, condition_dim=columns),
    ),
    "peer-epic-contexts": replace(
        _PEER,
        what="the same given mass and sum of ptrel, made first as in `two-stages`",
        network=lambda columns, scaler: PublishedEPiC(3, condition_dim=columns),
        contexts=True,
    ),
    "peer-encoder": replace(
        _PEER,
        what="a padded nn.TransformerEncoder of the size of ours, AdamW 1e-3",
        network=lambda columns, scaler: PaddedEncoder(3),
        batch=128,
    ),
}


def contexts_of(jets: setflow.SetBatch) -> setflow.SetBatch:
    """Return jets with the mass and the sum of ptrel of their particles as context."""
    total = torch.where(jets.mask, jets.x[..., 2], 0).sum(-1)
    c = torch.stack([jet_mass(jets.x, jets.mask), total], -1).to(jets.x)
    return setflow.SetBatch(jets.x, jets.mask, c)


def model_of(row: Row, jets: setflow.SetBatch) -> setflow.SetFlow:
    """Return the model of a row, its statistics those of the jets."""
    scaler = Standardizer(kinds=list(KINDS))
    scaler.fit(jets.x, jets.mask)
    made = [Feature(name, kind=kind) for name, kind in CONTEXT.items()] if row.contexts else []
    stages: dict[str, Any] = {}
    if row.contexts:
        small = setflow.TransformerField(len(made), hidden=32, layers=2, heads=1)
        context_model = setflow.SetFlow(small, schema=Schema(made))
        event = [entry.node() for entry in made]
        stages = {"context_model": context_model, "schema": {"event": event}}
        stages["conditions"] = list(CONTEXT)
    flow = setflow.SetFlow(
        row.network(len(made), scaler),
        scaler=scaler,
        cardinality=setflow.EmpiricalCardinality(OBJECTS),
        **stages,
    )
    return flow.fit_statistics(jets)
