"""The picture of a table: a metric against a key of its cells, with the printed points beside ours."""

import io
from collections.abc import Sequence

from sam_repro.table.report import Line, Report
from sam_repro.table.spec import Cell, Plot

Point = tuple[float, float, float]  # x, y, half of the interval


def picture(report: Report) -> bytes | None:
    """The picture as PNG; None for a table that has none, or nothing to show in it.

    Ours are means with 95 % t-intervals, a line for each series of cells; the paper's are crosses.
    """
    plot = report.table.plot
    if plot is None:
        return None
    ours, printed = _ours(report, plot), _printed(report, plot)
    if not any(ours.values()) and not printed:
        return None
    from matplotlib.figure import Figure  # a second to import

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    xs = sorted({x for points in ours.values() for x, _, _ in points} | {x for x, _ in printed})
    place = {
        x: i for i, x in enumerate(xs)
    }  # evenly spaced: a grid of radii is neither linear nor, with 0, logarithmic
    for name, points in ours.items():
        if points:
            x, y, half = zip(*points, strict=True)
            axes.errorbar([place[v] for v in x], y, yerr=half, marker="o", capsize=3, label=name)
    if printed:
        axes.scatter(
            [place[x] for x, _ in printed], [y for _, y in printed], marker="x", color="black", label="printed"
        )
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set(xlabel=plot.x, ylabel=plot.y, title=report.table.title)
    axes.title.set_fontsize(9)
    axes.legend(fontsize=7)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()


def _ours(report: Report, plot: Plot) -> dict[str, list[Point]]:
    """Points of each series and numerics; a metric that the table does not list has none."""
    if plot.y not in report.table.metrics:
        return {}
    index = report.table.metrics.index(plot.y)
    lines: dict[str, list[Line]] = {}
    for line in report.cells:
        if not any(mark.startswith(("cut budget", "waiting")) for mark in line.marks):
            lines.setdefault(line.row, []).append(line)
    series: dict[str, list[Point]] = {}
    for cell in _with(report.table.cells, plot.x):
        for line in lines.get(cell.name, []):
            ours = line.estimates[index] if line.estimates else None
            if ours is not None:
                points = series.setdefault(_series(cell, plot.x, line.numerics), [])
                points.append((float(cell.overrides[plot.x]), ours.mean, ours.half or 0.0))
    return series


def _printed(report: Report, plot: Plot) -> list[tuple[float, float]]:
    """The printed points of the metric, at the cells that they are claimed of."""
    at = {cell.name: float(cell.overrides[plot.x]) for cell in _with(report.table.cells, plot.x)}
    points = []
    for claim in report.table.claims:
        names = [name for pick in claim.readings.values() for name in pick.cells if name in at]
        if claim.metric == plot.y and claim.value is not None and names:
            points.append((at[names[0]], claim.value))
    return points


def _with(cells: Sequence[Cell], key: str) -> list[Cell]:
    return [cell for cell in cells if isinstance(cell.overrides.get(key), int | float)]


def _series(cell: Cell, x: str, numerics: str) -> str:
    name = cell.series
    for key, value in (cell.overrides | {x: ""}).items():
        name = name.replace(f"{{{key}}}", str(value))
    return f"{name.strip(' ,')} ({numerics})"
