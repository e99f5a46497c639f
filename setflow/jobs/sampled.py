"""The file that is sampled: JetNet's layout, which knows jets, or that of events of any schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from setflow.data.event_writing import EventWriter
from setflow.data.header import open_events
from setflow.data.jets import PARTICLE_NAMES
from setflow.data.manifest import Run, manifest_of
from setflow.data.merging import shards_of
from setflow.data.valid import counted
from setflow.data.writing import JetWriter
from setflow.model.model import SetFlow
from setflow.opened import Opened
from setflow.physics.kinematics import jet_features
from setflow.schema import RELATIVE_JET_UNITS, TYPE, Schema, words_of
from setflow.sets.batch import SetBatch

__all__ = ["SampledFile", "layout_for", "unphysical_warning"]


def layout_for(flow: SetFlow, asked: int | None) -> int:
    """Return the layout in which a sample of a model is written.

    Arguments:
        flow: the model.
        asked: 1, JetNet's layout, or 2, that of events of any schema; None takes 1 if the model
            makes etarel, phirel and ptrel, and perhaps the type of a particle, and 2 otherwise.

    Raises:
        ValueError: if the layout does not hold what the model makes, or there is none so numbered.
    """
    jets = sorted(set(flow.features) - {TYPE.name}) == sorted(PARTICLE_NAMES)
    jets &= TYPE.name not in flow.features or flow.schema.object(TYPE.name).kind == TYPE.kind
    if asked is None:
        return 1 if jets else 2
    if asked not in (1, 2):
        raise ValueError(f"layout is {asked}, expected 1 (JetNet's) or 2 (events of any schema)")
    if asked == 1 and not jets:
        raise ValueError(
            f"the model makes {', '.join(flow.features)}, and layout 1, JetNet's, holds "
            f"{', '.join(PARTICLE_NAMES)}; take layout 2, which holds any features"
        )
    return asked


class SampledFile(Opened):
    """A file that is being sampled; values that cannot be are kept and counted.

    Arguments:
        flow: the model.
        out: the HDF5 file to write.
        layout: 1 or 2; see `layout_for`.
        objects: the number of slots.
        run: where the file stands in the run.
        attributes: further attributes of the file.

    Raises:
        OSError: if the file exists and may not be replaced, or cannot be written.
    """

    def __init__(
        self,
        flow: SetFlow,
        out: Path,
        *,
        layout: int,
        objects: int,
        run: Run,
        attributes: Mapping[str, Any],
    ) -> None:
        self._objects = max(1, objects)
        self._features = flow.features
        schema = flow.schema
        by = schema.order_by if schema.order_by in flow.features else None
        self._schema = Schema(
            [schema.object(name) for name in flow.features],
            flow.context_features,
            by,
        )
        options: dict[str, Any] = {
            "objects": self._objects,
            "run": run,
            "attributes": attributes,
            "keep_unphysical": True,
        }
        self._writer: JetWriter | EventWriter
        if layout == 1:
            self._writer = JetWriter(
                out, jet_units=RELATIVE_JET_UNITS, context=flow.context_features,
                with_types=TYPE.name in flow.features, **options,
            )  # fmt: skip
        else:
            self._writer = EventWriter(out, self._schema, **options)

    def _enter(self, stack: ExitStack) -> None:
        stack.enter_context(self._writer)

    def write(self, batch: SetBatch) -> None:
        """Append events of the model, with their contexts as `c` if it has conditions."""
        missing = self._objects - batch.mask.shape[1]
        x = torch.nn.functional.pad(batch.x.cpu(), (0, 0, 0, missing))
        mask = torch.nn.functional.pad(batch.mask.cpu(), (0, missing))
        c = None if batch.c is None else batch.c.cpu()
        if isinstance(self._writer, JetWriter):
            kinds = None
            if TYPE.name in self._features:  # from 1, since 0 is padding
                kinds = (x[..., self._features.index(TYPE.name)] + 1) * mask
            x = x[..., [self._features.index(name) for name in PARTICLE_NAMES]]
            self._writer.write(SetBatch(x, mask), jet_features(x, mask), kinds, context=c)
        else:
            self._writer.write(SetBatch(x, mask), c)


def unphysical_warning(flow: SetFlow, out: Path) -> str | None:
    """Return what is to be known of values in a sample that cannot be, or None if there are none.

    Arguments:
        flow: the model that made it.
        out: the file, or the folder of files.
    """
    found: Counter[str] = Counter()
    for path in shards_of([out]):
        with open_events(path) as file:
            manifest = manifest_of(file.attrs)
            found.update({} if manifest is None else manifest.unphysical)
    counts, words = dict(sorted(found.items())), words_of(flow.features)
    if not counts:
        return None
    schema = [flow.schema.object(name) for name in flow.features]
    return (
        f"the model made {words.objects} that cannot be: "
        f"{counted(counts, schema)}. They stand in {out} as they are; "
        f"setflow evaluate counts them, and setflow score leaves out their {words.events}"
    )
