"""What a file of scores says in a few numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from setflow.data.header import open_events
from setflow.data.inspection import require_whole
from setflow.schema import EVENT_WORDS, JET_WORDS, Words

__all__ = ["ScoreSummary", "summarize_scores"]

_BLOCK = 2**18  # rows that are in memory at a time


@dataclass(frozen=True)
class ScoreSummary:
    """The scores of a file, in few numbers.

    Arguments:
        rows: the number of rows.
        scored: the number of rows that have a finite log-density.
        mean: its mean over these rows, in nats; NaN if there is none.
        error: the standard error of that mean; NaN for fewer than two rows.
        impossible: the number of rows whose log-density is -inf: the model gives their number of
            objects no probability.
        reasons: how many rows have no score, by reason.
        cut_to: the number of objects to which events with more are cut, as the model knows no more;
            None if the file has no longer ones.
        kept: which objects these are, in words; empty for the hardest particles.
        words: what events and objects are called.
    """

    rows: int
    scored: int
    mean: float
    error: float
    impossible: int
    reasons: dict[str, int]
    cut_to: int | None = None
    kept: str = ""
    words: Words = JET_WORDS

    def lines(self) -> list[str]:
        """Return the numbers as lines of text.

        >>> for line in ScoreSummary(5, 3, 40.0, 1.5, 1, {"the mask is 7": 1}).lines():
        ...     print(line)
        log p of a jet: 40.0 ± 1.5 nats, mean and standard error of 3 of 5 rows
        1 row has log p = -inf: its number of particles cannot occur in the model
        1 row could not be scored: the mask is 7
        """
        number, words = _with_error(self.mean, self.error), self.words
        of = f"{self.scored:,} of {self.rows:,} rows"
        lines = [f"log p of {words.an_event}: {number} nats, mean and standard error of {of}"]
        if not self.scored:
            lines = [f"log p of {words.an_event}: none of {self.rows:,} rows has a finite one"]
        if self.impossible:
            one = self.impossible == 1
            lines.append(
                f"{_rows(self.impossible, 'has', 'have')} log p = -inf: "
                f"{'its' if one else 'their'} number of {words.objects} cannot occur in the model"
            )
        if self.cut_to is not None:
            lines.append(
                f"{words.events} with more than {self.cut_to} {words.objects} are scored by "
                f"{self.kept or f'their hardest {self.cut_to}'}, as the model knows no more"
            )
        failed = sum(self.reasons.values())
        if failed == 0:
            return [*lines, "0 rows could not be scored"]
        (reason, count), *others = Counter(self.reasons).most_common()
        more = f" ({count:,} of them; the dataset `reason` has the others)" if others else ""
        return [*lines, f"{_rows(failed, 'could', 'could')} not be scored: {reason}{more}"]


def _rows(count: int, one: str, many: str) -> str:
    return f"{count:,} row {one}" if count == 1 else f"{count:,} rows {many}"


def _with_error(value: float, error: float) -> str:
    """Return a number with its error, both to two digits of the error."""
    if not error > 0:  # also NaN
        return f"{value:.6g}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _check_shapes(file: Any, path: Path) -> None:
    """Refuse a file whose scores are no numbers, or not one for each reason."""
    log_p, reason = file["log_prob"], file["reason"]
    shapes = [getattr(one, "shape", None) for one in (log_p, reason)]
    if shapes[0] != shapes[1] or len(shapes[0] or ()) != 1 or log_p.dtype.kind != "f":
        raise ValueError(
            f"{path}: log_prob and reason have the shapes {shapes[0]} and {shapes[1]}, expected "
            "one number and one text for each row"
        )
    if h5py.check_string_dtype(reason.dtype) is None:
        raise ValueError(f"{path}: reason has dtype {reason.dtype}, expected texts")
    require_whole(file, ["log_prob", "reason"], path)


def summarize_scores(path: str | Path) -> ScoreSummary:
    """Return the numbers of a file that `score_to_hdf5` wrote, read block by block.

    Raises:
        OSError: if the file cannot be read.
    """
    n = impossible = 0
    total = squares = shift = 0.0
    reasons: Counter[str] = Counter()
    with open_events(Path(path)) as file:
        _check_shapes(file, Path(path))
        rows = len(file["log_prob"])
        for start in range(0, rows, _BLOCK):
            log_p = file["log_prob"][start : start + _BLOCK]
            texts = file["reason"].asstr()[start : start + _BLOCK]
            reasons.update(filter(None, texts[~np.isneginf(log_p)].tolist()))
            impossible += int(np.isneginf(log_p).sum())
            finite = log_p[np.isfinite(log_p)]
            if n == 0 and len(finite):
                shift = float(finite.mean())  # so that nothing is lost where squares are summed
            n += len(finite)
            total += float((finite - shift).sum())
            squares += float(((finite - shift) ** 2).sum())
        cut_to, kept = file.attrs.get("cut_to"), str(file.attrs.get("kept", ""))
        words = EVENT_WORDS if file.attrs.get("rows") == EVENT_WORDS.events else JET_WORDS
    variance = max(0.0, squares - total**2 / n) / (n - 1) if n > 1 else float("nan")
    return ScoreSummary(
        rows=rows,
        scored=n,
        mean=shift + total / n if n else float("nan"),
        error=float(np.sqrt(variance / n)) if n > 1 else float("nan"),
        impossible=impossible,
        reasons=dict(reasons),
        cut_to=None if cut_to is None else int(cut_to),
        kept=kept,
        words=words,
    )
