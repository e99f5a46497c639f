"""The report to look at: one page of HTML that holds its pictures, and the same as PDF."""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from setflow.report.origins import Origin
from setflow.report.outcome import Report
from setflow.report.style import STYLE
from setflow.sets.batch import SetBatch

__all__ = ["Drawing", "write_document"]

_HEADINGS = ("metric", "unit", "value ± error", "floor ± spread", "shuffled", "swapped", "verdict")
_TITLES = {
    "mass": "Jet mass",
    "pt": "Sum of the particles' pT",
    "multiplicity": "Multiplicity",
    "tau21": "tau21: two prongs or one",
    "tau32": "tau32: three prongs or two",
    "d2": "D2: two prongs or one",
    "etarel": "Pseudorapidity of particles",
    "phirel": "Azimuth of particles",
    "ptrel": "pT of particles",
    "delta_r": "Distances in pairs of hard particles",
    "joint_spectra": "Pairs of observables",
    "correlations": "Correlations",
    "jet_images": "Average images",
    "example_jets": "The first jets",
    "pair_distance": "Distances in pairs of objects",
    "example_events": "The first events",
}
_WIDE = ("joint_spectra", "correlations", "jet_images", "example_jets", "example_events")
_ROWS = 22
"""Below a table of more rows there is no room on the first sheet."""

_READING = (
    "Blue steps are the reference, hatched its statistical error; red points are generated. Below: "
    "the ratio of the two, in all pictures from 0.5 to 1.5, with arrows to what is beyond; and the "
    "pull, their difference over its error. Pale red: what is physically impossible."
)
_STYLE = """
:root { color: #1c1f24; background: #fff; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 1440px; padding: 1rem clamp(0.75rem, 3vw, 2.5rem) 3rem; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; }
p, li { max-width: 75ch; overflow-wrap: anywhere; } ul { padding-left: 1.2rem; }
.summary { font-size: 1.1rem; border-left: 5px solid #3f6fd8; background: #f2f5fc;
  padding: 0.7rem 1rem; max-width: none; }
.note { border-left: 5px solid #d98f00; background: #fdf6e7; padding: 0.5rem 1rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.92rem; }
th, td { padding: 0.28rem 0.8rem 0.28rem 0; white-space: nowrap; text-align: left; }
th { border-bottom: 2px solid #1c1f24; } tr + tr td { border-top: 1px solid #e3e6eb; }
sup { line-height: 0; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: #16713c; } .fair { color: #8a5a00; } .poor { color: #b3131f; font-weight: 600; }
.figures { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); }
figure { margin: 0; } .wide { grid-column: 1 / -1; }
@media (max-width: 1000px) { td:nth-child(2) { white-space: normal; min-width: 8.5em; } }
img { width: 100%; height: auto; display: block; }
.wide img { max-width: 1100px; } figcaption { font-weight: 600; margin-bottom: 0.2rem; }
"""


@dataclass(frozen=True)
class Drawing:
    """What a report is drawn of.

    Arguments:
        report: the numbers.
        origins: where the two sides come from.
        batches: the generated events and those of the reference, cut.
        measured: the observables of both.
    """

    report: Report
    origins: tuple[Origin, Origin]
    batches: tuple[SetBatch, SetBatch]
    measured: tuple[Any, Any]

    def figures(self) -> dict[str, Figure]:
        """Return the pictures of all events, by name."""
        return self._drawn(self.report, self.batches, self.measured, "")

    def figures_of(self, name: str) -> dict[str, Figure]:
        """Return those of one class."""
        batches, measured = [], []
        for origin, batch, sample in zip(self.origins, self.batches, self.measured, strict=True):
            rows = origin.of_class(batch, name)
            batches.append(batch[rows])
            measured.append(sample.select(rows))
        report = self.report.classes[name]
        return self._drawn(report, (batches[0], batches[1]), (measured[0], measured[1]), name)

    def _drawn(
        self,
        report: Report,
        batches: tuple[SetBatch, SetBatch],
        measured: tuple[Any, Any],
        of_class: str,
    ) -> dict[str, Figure]:
        generated, reference = self.origins
        words, columns = report.subject.words, report.columns
        objects = f"up to {columns} {words.objects}"
        if max(report.generated.columns, report.reference.columns) > columns:
            objects = f"{columns} hardest {words.objects}"
        origin = ", ".join(filter(None, [reference.short, of_class, objects, generated.short]))
        pt = reference.jet_pt
        jet_pt = None if pt is None or of_class else float(pt[: len(batches[1])].median())
        return report.subject.draw(batches, measured, report.metrics, origin, jet_pt)


def write_document(folder: Path, pages: tuple[str, str], drawing: Drawing) -> list[str]:
    """Write pictures, page and sheets into a folder; return the names of the pictures.

    Arguments:
        folder: an existing folder.
        pages: the names of the page and of the sheets.
        drawing: what is drawn.
    """
    page, sheets = pages
    sections = {"": drawing.figures()}
    sections |= {name: drawing.figures_of(name) for name in drawing.report.classes}
    written: dict[str, dict[str, bytes]] = {}
    names = []
    with matplotlib.rc_context(STYLE):
        for section, figures in sections.items():
            written[section] = {}
            for name, figure in figures.items():
                _place(figure)
                buffer = io.BytesIO()
                figure.savefig(buffer, format="png")
                written[section][name] = buffer.getvalue()
                prefix = f"{_safe(section)}-" if section else ""
                names.append(f"{prefix}{name}.png")
                (folder / names[-1]).write_bytes(buffer.getvalue())
        with PdfPages(folder / sheets, metadata={"CreationDate": None}) as pdf:
            for figure in _front(drawing):
                pdf.savefig(figure)
            for figures in sections.values():
                for figure in figures.values():
                    pdf.savefig(figure)
    (folder / page).write_text(_html(drawing, written), encoding="utf-8")
    return names


def _place(figure: Figure) -> None:
    """Lay a figure out once; else each format would do so, and draw it once more for that."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _sources(drawing: Drawing) -> list[str]:
    """Return what is compared, a sentence for each."""
    report = drawing.report
    lines = []
    for what, origin, side in (
        ("generated", drawing.origins[0], report.generated),
        ("reference", drawing.origins[1], report.reference),
    ):
        events = report.subject.words.events
        told = "; ".join(
            [f"{origin.name}, {side.events:,} of {side.available:,} {events}", *origin.lines]
        )
        lines.append(f"{what}: {told}")
    return [*lines, *report.conditions(), f"seed {report.seed}, made on {date.today().isoformat()}"]


# --- the page ---


def _html(drawing: Drawing, written: Mapping[str, Mapping[str, bytes]]) -> str:
    report = drawing.report
    title = f"Generated against true {report.subject.words.events}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="summary">{escape(report.summary)}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in (*report.broken, *report.notes)),
        "<h2>Numbers</h2>",
        *_table_of(report),
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in report.explanations())}</ul>",
        "<h2>What is compared</h2>",
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in _sources(drawing))}</ul>",
        "<h2>Pictures</h2>",
        f"<p>{escape(_READING)}</p>",
        *_figures_of(written[""], "", report.subject.titles),
    ]
    for name, of_class in report.classes.items():
        parts += [
            f"<h2>Class {escape(name)}</h2>",
            f'<p class="summary">{escape(of_class.summary)}</p>',
            *_table_of(of_class),
            *_figures_of(written[name], name, report.subject.titles),
        ]
    return "\n".join([*parts, "</body></html>", ""])


def _table_of(report: Report) -> list[str]:
    def line(cell: str, metric: str, unit: str, numbers: Sequence[str], verdict: str) -> str:
        shown = [f"<{cell}>{metric}</{cell}>", verdict, f"<{cell}>{unit}</{cell}>"]
        shown += [f'<{cell} class="number">{escape(number)}</{cell}>' for number in numbers]
        return f"<tr>{''.join(shown)}</tr>"

    metric, unit, *numbers, verdict = _HEADINGS
    lines = [line("th", metric, unit, numbers, f"<th>{verdict}</th>")]
    for metric, unit, *numbers, verdict in report.rows():
        told = f'<td class="{_colour(verdict)}">{escape(verdict)}</td>'
        power = re.sub(r"^1e(-?\d+)", r"10<sup>\1</sup>", escape(unit))
        lines.append(line("td", escape(metric), power, numbers, told))
    table = ['<div class="scroll"><table>', *lines, "</table></div>"]
    return [*table, *(f"<p>{escape(line)}</p>" for line in report.unmeasured())]


def _colour(verdict: str) -> str:
    if verdict in ("at the floor", "better than both controls"):
        return "good"
    return "poor" if verdict.startswith(("worse", "nearer")) else "fair"


def _figures_of(
    pictures: Mapping[str, bytes], section: str, titles: Mapping[str, str]
) -> list[str]:
    lines = ['<div class="figures">']
    for name, picture in pictures.items():
        title = titles.get(name) or _TITLES.get(name, name.replace("_", " "))
        told = escape(f"{title} of class {section}" if section else title)
        data = base64.b64encode(picture).decode("ascii")
        kind = ' class="wide"' if name in _WIDE else ""
        lines.append(
            f"<figure{kind}><figcaption>{escape(title)}</figcaption>"
            f'<img alt="{told}: reference against generated" src="data:image/png;base64,{data}">'
            "</figure>"
        )
    return [*lines, "</div>"]


# --- the sheets ---


def _front(drawing: Drawing) -> list[Figure]:
    """Return the first sheet: summary, table, and what is compared, on a second one if needed."""
    report = drawing.report
    figure = Figure(figsize=(11.7, 8.3))
    figure.text(
        0.05, 0.95, f"Generated against true {report.subject.words.events}", fontsize=16, va="top"
    )
    summary = textwrap.fill(report.summary, 150)
    figure.text(0.05, 0.905, _plain(summary), fontsize=11, va="top")
    table = [_HEADINGS, *report.rows()]
    widths = [max(len(row[k]) for row in table) for k in range(len(_HEADINGS))]
    lines = [
        "  ".join(
            cell.rjust(width) if 2 <= k < 6 else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    below = [
        *report.unmeasured(),
        *report.broken,
        *report.notes,
        *report.explanations(),
        *_sources(drawing),
    ]
    place: dict[str, Any] = {"va": "top", "linespacing": 1.35, "parse_math": False}
    top = 0.85 - 0.022 * summary.count("\n")
    figure.text(0.05, top, "\n".join(lines), family="monospace", fontsize=8.5, **place)
    sheets = [figure]
    top -= 0.0197 * (len(lines) + 1.5)
    if len(lines) > _ROWS:
        sheets, top = [figure, Figure(figsize=(11.7, 8.3))], 0.95
    sheets[-1].text(0.05, top, _wrapped(below), fontsize=8, **place)
    return sheets


def _plain(text: str) -> str:
    return text.replace("$", r"\$")


def _wrapped(lines: Sequence[str]) -> str:
    return "\n".join(textwrap.fill(line, 195, subsequent_indent="    ") for line in lines)
