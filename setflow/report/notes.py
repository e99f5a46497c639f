"""What speaks against a comparison of two samples of jets, whatever its numbers say."""

from __future__ import annotations

from collections.abc import Mapping

from setflow.data.jets import PARTICLE_NAMES
from setflow.data.valid import count_impossible, counted
from setflow.sets.batch import SetBatch

__all__ = ["FEW", "notes_on", "unphysical_of"]

FEW = 100
"""With fewer jets than this on a side, a report says that they are few."""


def unphysical_of(jets: SetBatch) -> dict[str, int]:
    """Return how many values of particles (etarel, phirel, ptrel) cannot be, by what is wrong."""
    x, mask = jets.x.detach().cpu().numpy(), jets.mask.cpu().numpy()
    return dict(count_impossible(x, mask, PARTICLE_NAMES))


def notes_on(
    model: SetBatch,
    truth: SetBatch,
    n_ref: int,
    unphysical: Mapping[str, int],
    *,
    same: bool,
    sampled: bool = False,
    worth: float | None = None,
) -> tuple[str, ...]:
    """Return what speaks against a comparison.

    Arguments:
        model: the generated jets that are compared, cut, hardest particle first.
        truth: all jets of the reference, likewise.
        n_ref: how many of these are compared.
        unphysical: how many values of the generated particles cannot be; see `unphysical_of`.
        same: whether both sides are the same file.
        sampled: whether the file of the reference says that a model has sampled it.
        worth: the effective number of jets of the side that has fewer, where jets have weights.
    """
    notes = []
    shared = 0 if same else _shared(model, truth)
    if same:
        notes.append(
            "generated and reference are the same file, so every value is 0 or chance and says "
            "nothing about a model; give a file that the model has sampled"
        )
    elif shared:
        notes.append(
            f"{shared:,} of {len(model):,} generated jets stand in the reference too, particle for "
            "particle, so the values come out too small; give a reference that the generated jets "
            "were not taken from"
        )
    if sampled and not same:
        notes.append(
            "the reference was sampled by a model, as its file says, so floor and controls are "
            "those of a model and not of the truth; give the generated jets first and the true "
            "ones second"
        )
    if unphysical:
        notes.append(
            f"generated particles hold what cannot be: {counted(unphysical)}; they are kept in the "
            "comparison"
        )
    few = min(len(model), n_ref)
    if few >= FEW and worth is not None and worth < FEW:
        notes.append(
            f"the weighted jets of a side are worth {worth:,.0f} equal ones, fewer than {FEW}: the "
            "values are mostly chance, and so is their ratio to the floor; compare more jets"
        )
    if few < FEW:
        notes.append(
            f"{few} {'jet' if few == 1 else 'jets'} on a side are fewer than {FEW}: the values are "
            "mostly chance, and so is their ratio to the floor; compare more jets"
        )
    return tuple(notes)


def _shared(model: SetBatch, truth: SetBatch) -> int:
    """Return how many jets of two particles or more stand in the other sample too, bit for bit.

    A jet of one particle is (0, 0, 1), whoever made it.
    """
    held = set(_contents(truth))
    return sum(jet in held for jet in _contents(model))


def _contents(jets: SetBatch) -> list[bytes]:
    """Return the real particles of each jet of two or more as bytes."""
    x, lengths = jets.x.detach().cpu().float().numpy(), jets.lengths.tolist()
    return [x[k, :n].tobytes() for k, n in enumerate(lengths) if n > 1]
