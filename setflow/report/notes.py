"""What speaks against a comparison of two samples, whatever its numbers say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from setflow.data.valid import count_impossible, counted
from setflow.report.further import Copies
from setflow.report.subjects import Subject
from setflow.sets.batch import SetBatch

__all__ = ["FEW", "copied", "cut_away", "notes_on", "unphysical_of"]

FEW = 100
"""With fewer events than this on a side, a report says that they are few."""


def unphysical_of(events: SetBatch, subject: Subject) -> dict[str, int]:
    """Return how many values of objects cannot be, by what is wrong."""
    x, mask = events.x.detach().cpu().numpy(), events.mask.cpu().numpy()
    return dict(count_impossible(x, mask, subject.features))


def notes_on(
    model: SetBatch,
    truth: SetBatch,
    n_ref: int,
    unphysical: Mapping[str, int],
    subject: Subject,
    *,
    same: bool,
    sampled: bool = False,
    worth: float | None = None,
) -> tuple[str, ...]:
    """Return what speaks against a comparison.

    Arguments:
        model: the generated events that are compared, cut.
        truth: all events of the reference, likewise.
        n_ref: how many of these are compared.
        unphysical: how many values of the generated objects cannot be; see `unphysical_of`.
        subject: what is compared.
        same: whether both sides are the same file.
        sampled: whether the file of the reference says that a model has sampled it.
        worth: the effective number of events of the side that has fewer, where they have weights.
    """
    notes, words = [], subject.words
    shared = 0 if same else _shared(model, truth)
    if same:
        notes.append(
            "generated and reference are the same file, so every value is 0 or chance and says "
            "nothing about a model; give a file that the model has sampled"
        )
    elif shared:
        notes.append(
            f"{shared:,} of {len(model):,} generated {words.events} stand in the reference too, "
            f"{words.object} for {words.object}, so the values come out too small; give a "
            f"reference that the generated {words.events} were not taken from"
        )
    if sampled and not same:
        notes.append(
            "the reference was sampled by a model, as its file says, so floor and controls are "
            f"those of a model and not of the truth; give the generated {words.events} first and "
            "the true ones second"
        )
    if unphysical:
        notes.append(
            f"generated {words.objects} hold what cannot be: "
            f"{counted(unphysical, subject.features)}; they are kept in the comparison"
        )
    few = min(len(model), n_ref)
    if few >= FEW and worth is not None and worth < FEW:
        notes.append(
            f"the weighted {words.events} of a side are worth {worth:,.0f} equal ones, fewer than "
            f"{FEW}: the values are mostly chance, and so is their ratio to the floor; compare "
            f"more {words.events}"
        )
    if few < FEW:
        notes.append(
            f"{few} {words.event if few == 1 else words.events} on a side are fewer than {FEW}: "
            "the values are mostly chance, and so is their ratio to the floor; compare "
            f"more {words.events}"
        )
    return tuple(notes)


def cut_away(
    generated: SetBatch, reference: SetBatch, columns: int, subject: Subject
) -> tuple[str, ...]:
    """Return what speaks against a comparison because generated events alone have been cut.

    Arguments:
        generated: the generated events as they came.
        reference: the true ones as they came.
        columns: how many objects of an event are compared.
        subject: what is compared.
    """
    words, long = subject.words, int((generated.lengths > columns).sum())
    if not long or bool((reference.lengths > columns).any()):
        return ()
    return (
        f"{long:,} of {len(generated):,} generated {words.events} have more than the {columns} "
        f"{words.objects} that {words.an_event} of the reference has room for, and are compared "
        f"by {columns} of them; unless the reference was cut so on purpose, its numbers of "
        f"{words.objects} are not those of the generated {words.events}, and W1 multiplicity "
        "comes out too small: give a reference with more slots, or one without, of layout 2",
    )


def copied(copies: Copies | None) -> tuple[str, ...]:
    """Return what speaks against a comparison because jets stand in the training.

    Arguments:
        copies: how many do; None if that is not known.
    """
    notes = []
    if copies is not None and copies.reference:
        notes.append(
            f"{copies.reference:,} jets of the reference stand in the training too, particle for "
            "particle, so every value is too good; give jets that were held out"
        )
    if copies is not None and copies.generated:
        notes.append(
            f"{copies.generated:,} generated jets stand in the training, particle for particle: "
            "the model repeats them"
        )
    return tuple(notes)


def _shared(model: SetBatch, truth: SetBatch) -> int:
    """Return how many events of two objects or more stand in the other sample too, bit for bit.

    A jet of one particle is (0, 0, 1), whoever made it.
    """
    held = set(_contents(truth))
    return sum(event in held for event in _contents(model))


def _contents(events: SetBatch) -> list[bytes]:
    """Return a hash of the real objects of each event of two or more, which stand first."""
    x, lengths = events.x.detach().cpu().float().numpy(), events.lengths.tolist()
    return [
        hashlib.blake2b(x[k, :n].tobytes(), digest_size=16).digest()
        for k, n in enumerate(lengths)
        if n > 1
    ]
