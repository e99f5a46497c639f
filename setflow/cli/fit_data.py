"""What `setflow fit` says of its data before it trains, and what of it is refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from setflow.cli.endings import warn
from setflow.cli.fit_parts import FitCLI
from setflow.cli.parsing import nearest
from setflow.data.header import read_header
from setflow.data.jets import NUM
from setflow.data.tally import ACCEPTED, PTREL, Fault, Rows, Tally
from setflow.schema import Category, Schema, kind_names
from setflow.sets.batch import SetBatch
from setflow.training.data import SetDataModule
from setflow.training.processes import is_first_process

__all__ = ["accept_data", "tell_data", "with_advice"]

_MOST_SHARED = 0.01  # of the validation events


def accept_data(cli: FitCLI) -> None:
    """Let the data be read with what is accepted of them; a run that goes on accepts all.

    Raises:
        ValueError: if a name is none of those that can be accepted.
    """
    names = cli.config.accept or ()
    for name in names:
        if name not in ACCEPTED:
            told = ", ".join(f"{known} ({what})" for known, what in ACCEPTED.items())
            raise ValueError(
                f"--accept is {name!r}{nearest(name, list(ACCEPTED))}; expected one of {told}, or "
                "several with commas"
            )
    cli.datamodule.accepted = frozenset(ACCEPTED if cli.found is not None else names)


def tell_data(cli: FitCLI) -> None:
    """Print three lines of the data that are trained on, and warn of what may be wrong.

    Raises:
        ValueError: if something cannot be that is not accepted.
    """
    data, flow = cli.datamodule, cli.model.flow
    schema = Schema([flow.schema.object(name) for name in flow.features])
    train, val = (_counted(data.looked_at(train=side), schema) for side in (True, False))
    shared = val.seen.also_in(train.seen)
    faults, doubts = train.faults(), train.doubts()
    if shared:
        text = f"{shared:,} of {val.n:,} {val.called.events} to validate on are trained on, too"
        if data.val_files is not None and shared > _MOST_SHARED * val.n:
            faults.append(Fault("same", text))
        else:
            doubts.append(text)
    doubts += _sampled(data)
    for fault in faults:
        if fault.name not in data.accepted:
            raise ValueError(_refusal(fault, data))
    if not is_first_process():  # of several processes the first one says it
        return
    for line in _lines(train, val, shared, data.sizes()):
        print(f"data: {line}")
    for text in [fault.text for fault in faults] + doubts:
        warn(text)


def with_advice(error: str) -> str:
    """Return an error with the command that says more, if it is of a row of a file.

    >>> with_advice("a.h5: row 3, particle 1, column 'ptrel' holds 0").partition("; ")[2]
    'setflow dataset check a.h5 counts all that is wrong'
    >>> with_advice("--name is wrong")
    '--name is wrong'
    """
    found = re.match(r"(.+?): row \d+, ", error)
    if found is None:
        return error
    check = shlex.join(["setflow", "dataset", "check", found[1]])
    on = ", and --accept counts goes on all the same" if f"'{NUM}'" in error else ""
    return f"{error}; {check} counts all that is wrong{on}"


def _counted(blocks: Iterable[SetBatch], schema: Schema) -> Tally:
    tally = Tally(schema)
    for block in blocks:
        x = block.x.numpy()
        tally.add(Rows(x, block.mask.numpy(), x[:, 0, :0]))
    return tally


def _refusal(fault: Fault, data: SetDataModule) -> str:
    files = [file.path for file in (*data.train_files, *(data.val_files or ()))]
    more = shlex.join(["setflow", "dataset", "check", *files[:4]])
    on = f", and --accept {fault.name} goes on all the same" if fault.name in ACCEPTED else ""
    return f"the training data: {fault.text}; {more} says more{on}"


def _sampled(data: SetDataModule) -> list[str]:
    """Return that files were sampled by a model, as they say, or nothing."""
    files = dict.fromkeys(file.path for file in (*data.train_files, *(data.val_files or ())))
    sampled = [path for path in files if "weights_sha256" in read_header(path).attributes]
    if not sampled:
        return []
    more = f" and {len(sampled) - 3} more" if len(sampled) > 3 else ""
    verb = "was" if len(sampled) == 1 else "were"
    return [
        f"{', '.join(sampled[:3])}{more} {verb} sampled by a model, as the file says: what is "
        "trained on it learns that model and not the truth"
    ]


def _numbers_of(train: Tally) -> str:
    """Return how many objects events have, in words."""
    numbers, called = train.numbers, train.called
    if numbers.low == numbers.high:
        return f"{numbers.low:.0f} {called.objects} in each {called.event}"
    return (
        f"{numbers.low:.0f} to {numbers.high:.0f} {called.objects} of {called.an_event}, "
        f"{numbers.mean:.3g} on average"
    )


def _lines(train: Tally, val: Tally, shared: int, sizes: tuple[int, int]) -> list[str]:
    called = train.called
    spreads = []
    for entry, spread in train.spreads:
        if isinstance(entry.kind, Category):
            continue
        low, high = spread.quantiles([0.01, 0.99])
        spreads.append(f"{entry.name} {low:.3g} to {high:.3g}{f' {entry.unit}' * bool(entry.unit)}")
    for entry, codes in train.codes:
        listed = enumerate(kind_names(entry))
        told = ", ".join(f"{name} {codes[code]:,}" for code, name in listed if codes[code])
        spreads.append(f"{entry.name} {told}")
    sums = ""
    if train.sums.n:
        low, high = train.sums.quantiles([0.01, 0.99])
        sums = f"{PTREL} sums to {low:.3g} to {high:.3g} over {called.an_event}; "
    looked = f" ({train.n:,} and {val.n:,} looked at)" if sizes != (train.n, val.n) else ""
    return [
        f"{sizes[0]:,} {called.events} to train on, {sizes[1]:,} to validate on{looked}; of 98% of "
        f"the {called.objects} {', '.join(spreads)}",
        f"{_numbers_of(train)}; {train.zeros:,} of {train.objects:,} are all 0",
        f"{sums}{train.seen.again:,} {called.events} are the same as one before, {shared:,} on "
        "both sides",
    ]
