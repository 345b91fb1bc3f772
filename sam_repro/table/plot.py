"""The picture of a table: a metric against a key of its cells, with the printed points beside ours."""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sam_repro.config.table_file import Cell, Plot, Surfaces
from sam_repro.table import surfaces
from sam_repro.table.report import Line, Report
from sam_repro.table.statistic import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = tuple[float, float, float]  # x, y, half of the interval
Series = dict[tuple[str, str], list[Point]]
Levels = list[tuple[str, float]]
APART = 0.06  # of the distance between two x: the bars of two series do not hide each other


def picture(report: Report) -> bytes | None:
    """The picture as PNG; None for a table that has none, or nothing to show in it."""
    plot = report.table.plot
    if plot is None:
        return None
    draw = surfaces.drawing(report, plot) if isinstance(plot, Surfaces) else _drawing(report, plot)
    if draw is None:
        return None
    from matplotlib.figure import Figure  # a second to import

    figure = Figure(layout="constrained")
    draw(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()


def _drawing(report: Report, plot: Plot) -> "Callable[[Figure], None] | None":
    """Draws a metric against a key; None where there is nothing to show.

    Ours are means with 95 % t-intervals, a line for each series of cells; printed numbers are crosses of its colour. A
    cell without the key, such as SGD beside radii, is a level.
    """
    ours, printed = _ours(report, plot), _printed(report, plot)
    levels = _levels(report, plot) if ours else []
    return partial(_draw, report.table.title, plot, ours, printed, levels) if ours or printed else None


def _draw(title: str, plot: Plot, ours: Series, printed: Series, levels: Levels, figure: "Figure") -> None:
    figure.set_size_inches(7, 4.5)
    axes = figure.subplots()
    xs = sorted({x for points in [*ours.values(), *printed.values()] for x, _, _ in points})
    place = {
        x: i for i, x in enumerate(xs)
    }  # evenly spaced: a grid of radii is neither linear nor, with 0, logarithmic
    colours = {series: f"C{i}" for i, series in enumerate(dict.fromkeys(series for series, _ in [*ours, *printed]))}
    for number, ((series, numerics), points) in enumerate(ours.items()):
        x, y, half = zip(*points, strict=True)
        aside = APART * (number - (len(ours) - 1) / 2)
        name = f"{series} ({numerics})"
        axes.errorbar([place[v] + aside for v in x], y, half, marker="o", capsize=3, color=colours[series], label=name)
    for number, (name, level) in enumerate(levels, start=len(colours)):
        axes.axhline(level, linestyle="--", color=f"C{number}", label=name)
    for (series, reading), points in printed.items():
        x, y, _ = zip(*points, strict=True)
        name = f"printed: {series}" + (f" ({reading})" if reading else "")
        axes.plot([place[v] for v in x], y, "x:", color=colours[series], label=name)
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set(xlabel=plot.x, ylabel=f"{plot.y}, mean ± half of the 95 % t-interval", title=title)
    axes.title.set_fontsize(9)
    axes.legend(fontsize=6)


def _ours(report: Report, plot: Plot) -> Series:
    """Points of each series and numerics."""
    cells = _with(report.table.cells, plot.x)
    series: Series = {}
    for line, ours in _whole(report, plot):
        if line.row in cells:
            points = series.setdefault((_series(cells[line.row], plot.x), line.numerics), [])
            points.append((float(cells[line.row].overrides[plot.x]), ours.mean, ours.half or 0.0))
    return series


def _levels(report: Report, plot: Plot) -> Levels:
    """Means of the cells that do not have the key, by name."""
    cells = _with(report.table.cells, plot.x)
    return [
        (f"{line.row} ({line.numerics})", ours.mean) for line, ours in _whole(report, plot) if line.row not in cells
    ]


def _whole(report: Report, plot: Plot) -> Iterator[tuple[Line, Estimate]]:
    """The lines of cells that were run to their end, with what they gave of the metric."""
    index = report.table.metrics.index(plot.y)
    for line in report.cells:
        ours = line.estimates[index] if line.estimates else None
        if ours is not None and not any(mark.startswith("shortened") for mark in line.marks):
            yield line, ours


def _printed(report: Report, plot: Plot) -> Series:
    """The printed points of the metric, by series; of a claim with several readings, in that of the first."""
    cells = _with(report.table.cells, plot.x)
    series: Series = {}
    for claim in (claim for claim in report.table.claims if not claim.literature):
        reading, pick = next(iter(claim.readings.items()))
        if claim.metric == plot.y and claim.value is not None and pick.cells[0] in cells:
            cell = cells[pick.cells[0]]
            points = series.setdefault((_series(cell, plot.x), reading), [])
            points.append((float(cell.overrides[plot.x]), claim.value, 0.0))
    return series


def _with(cells: Sequence[Cell], key: str) -> dict[str, Cell]:
    return {cell.name: cell for cell in cells if isinstance(cell.overrides.get(key), int | float)}


def _series(cell: Cell, x: str) -> str:
    name = cell.series
    for key, value in (cell.overrides | {x: ""}).items():
        name = name.replace(f"{{{key}}}", str(value))
    return name.strip(" ,")
