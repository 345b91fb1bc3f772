"""A report as Markdown and as CSV; nothing in them depends on the time or the order of the runs."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sam_repro.config.table_file import Claim
from sam_repro.table.report import DASH, Judged, Line, Report
from sam_repro.table.statistic import Estimate, tolerance

COLUMNS = (
    *("part", "row", "reading", "metric", "where", "printed", "plus_minus", "bound"),
    *("mean", "half_width", "n", "delta", "tolerance", "verdict", "numerics", "notes"),
)


class Section(NamedTuple):
    """A part of the rendered table."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def sections(report: Report) -> list[Section]:
    """The parts that the table has, in order."""
    parts = [_claims(report), _cells(report), _effects(report), _search(report)]
    return [part for part in parts if part.rows]


def markdown(report: Report) -> str:
    """The table as Markdown."""
    table = report.table
    lines = [f"# {in_a_line(table.title)}", ""]
    if table.source:
        lines += [f"Printed in: {in_a_line(table.source)}.", ""]
    if table.recipe:
        lines += [f"Recipe: `experiment={table.recipe}`.", ""]
    for part in sections(report):
        lines += [f"## {part.title}", "", *rows(part), ""]
    lines += [f"* {in_a_line(note)}" for note in notes(report)]
    return "\n".join(lines).rstrip() + "\n"


def comma_separated(report: Report) -> str:
    """The numbers of the table as CSV in one long format, as they are: a line for each row and metric."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_records(report))
    return file.getvalue()


def _records(report: Report) -> Iterator[dict[str, Any]]:
    for judged in report.claims:
        yield _claim_record(judged)
    for line in report.cells:
        for metric, ours in zip(report.table.metrics, line.estimates, strict=False):
            yield _record("cell", line, metric) | _numbers(ours)
    for effect, numerics, difference, printed in report.effects:
        line = Line(effect.name, numerics, marks=(f"equal {effect.equal}",))
        yield _record("effect", line, effect.metric) | {"printed": printed} | _numbers(difference)


def _claim_record(judged: Judged) -> dict[str, Any]:
    claim, line = judged.claim, judged.line
    printed = {"printed": claim.value, "plus_minus": claim.plus_minus, "bound": claim.bound, "where": claim.printed}
    said = {"reading": judged.reading, "delta": judged.delta, "verdict": judged.word}
    tol = {"tolerance": tolerance(claim)} if _has_tolerance(claim) else {}
    ours = _numbers(line.estimates[0] if line.estimates else None)
    return _record("claim", line, claim.metric) | printed | said | tol | ours


def _record(part: str, line: Line, metric: str) -> dict[str, Any]:
    return {
        "part": part,
        "row": line.row,
        "metric": metric,
        "numerics": line.numerics,
        "notes": "; ".join(line.marks),
    }


def _numbers(ours: Estimate | None) -> dict[str, Any]:
    return {"n": 0} if ours is None else {"mean": ours.mean, "half_width": ours.half, "n": ours.n}


def notes(report: Report) -> list[str]:
    """What has to be said below the table."""
    said = [*report.table.notes]
    if report.table.claims:
        said.append(
            "match: |Δ| ≤ tol and our half-width ≤ tol; differs: the interval of Δ lies outside of ± tol; fewer than 3 "
            "seeds: provisional. tol: the larger of the printed half-width and 0.3 points; 0.6 for a single run; 20 % "
            "of a sharpness; of anything else as the table says."
        )
    said.append("± is half of the 95 % t-interval over the seeds.")
    measured = {
        m for m in (*report.table.metrics, *(c.metric for c in report.table.claims)) if m.startswith("sharpness/")
    }
    said += [
        f"{metric} with {_settings(settings)}."
        for metric in sorted(measured)
        if (settings := report.settings_of(metric))
    ]
    said += [f"suspect, {claim.row}: {claim.suspect}." for claim in report.table.claims if claim.suspect]
    said += [f"assumed: {key}: {why}." for key, why in report.assumed.items()]
    return said


def in_a_line(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())


def shown(estimate: Estimate | None) -> str:
    """An estimate with two decimals."""
    if estimate is None:
        return DASH
    return f"{estimate.mean:.2f}" if estimate.half is None else f"{estimate.mean:.2f} ± {estimate.half:.2f}"


def _settings(settings: str) -> str:
    """How a sharpness was measured, in words."""
    given = {key: value for key, value in json.loads(settings).items() if value is not None and key != "_target_"}
    return ", ".join(f"{key} {value}" for key, value in given.items()) or "no settings"


def _claims(report: Report) -> Section:
    header = ("row", "where", "reading", "printed", "ours", "n", "Δ", "tol", "verdict", "numerics", "notes")
    return Section("Claims", header, [_claim(judged) for judged in report.claims])


def _claim(judged: Judged) -> tuple[str, ...]:
    claim, line = judged.claim, judged.line
    (ours,) = line.estimates or (None,)
    marks = [*(["suspect"] if claim.suspect else []), *line.marks]
    return (
        claim.row,
        claim.printed,
        judged.reading,
        _printed(claim),
        shown(ours),
        str(ours.n if ours else 0),
        DASH if judged.delta is None else f"{judged.delta:+.2f}",
        f"{tolerance(claim):.2f}" if _has_tolerance(claim) else DASH,
        judged.word,
        line.numerics,
        "; ".join(marks),
    )


def _has_tolerance(claim: Claim) -> bool:
    return claim.value is not None and not claim.bound and not claim.literature


def _printed(claim: Claim) -> str:
    if claim.value is None:
        return "blank"
    kind = "" if claim.spread == "ci95" else f" {claim.spread}"
    spread = "" if claim.plus_minus is None else f" ± {claim.plus_minus:g}{kind}"
    return f"{claim.bound or ''}{claim.value:g}{spread}"


def _cells(report: Report) -> Section:
    rows = [_cell(line, len(report.table.metrics)) for line in report.cells]
    return Section("Cells", ("cell", *report.table.metrics, "n", "numerics", "notes"), rows)


def _cell(line: Line, metrics: int) -> tuple[str, ...]:
    estimates: Sequence[Estimate | None] = line.estimates or (None,) * metrics
    n = max((estimate.n for estimate in estimates if estimate), default=0)
    return (line.row, *map(shown, estimates), str(n), line.numerics, "; ".join(line.marks))


def _effects(report: Report) -> Section:
    rows = [
        (
            effect.name,
            effect.equal,
            shown(ours),
            str(ours.n if ours else 0),
            "" if printed is None else f"{printed:+.2f}",
            numerics,
        )
        for effect, numerics, ours, printed in report.effects
    ]
    return Section("Effects, paired by seed", ("effect", "equal", "difference", "n", "printed", "numerics"), rows)


def _search(report: Report) -> Section:
    search = report.table.search
    if search is None:
        return Section("Search", (), [])
    rows = []
    for choice in report.choices:
        chosen = None if choice.chosen is None else choice.chosen.overrides[search.over]
        for value, line in choice.curve:
            (ours,) = line.estimates
            word = "chosen" if chosen is not None and value == chosen else ""
            printed = "printed choice" if choice.printed is not None and value == choice.printed else ""
            rows.append((choice.per, str(value), shown(ours), str(ours.n if ours else 0), word, printed, line.numerics))
    title = f"Search of {search.over} by {search.metric}"
    return Section(title, (search.per or "", search.over, search.metric, "n", "ours", "paper", "numerics"), rows)


def rows(part: Section) -> list[str]:
    """The rows of a Markdown table, padded; columns that are empty throughout are left out."""
    kept = [i for i in range(len(part.header)) if any(row[i] for row in part.rows)]
    table = [[in_a_line(cell).replace("|", "\\|") for cell in row] for row in [part.header, *part.rows]]
    widths = {i: max(len(row[i]) for row in table) for i in kept}
    lines = ["| " + " | ".join(row[i].ljust(widths[i]) for i in kept) + " |" for row in table]
    return [lines[0], "|" + "|".join("-" * (widths[i] + 2) for i in kept) + "|", *lines[1:]]
