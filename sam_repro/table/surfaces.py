"""The picture of loss surfaces: a map for each cell, all with one scale of colours, so that one can compare them."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from sam_repro.config.table_file import Surfaces
from sam_repro.table.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = 24
SMALLEST = 1e-12  # the colours are of the logarithm


def drawing(report: Report, plot: Surfaces) -> "Callable[[Figure], None] | None":
    """Draws the surface of each cell, of its first seed that has one; None where no cell has."""
    found = _grids(report, plot)
    return partial(_draw, report.table.title, found) if found else None


def _grids(report: Report, plot: Surfaces) -> dict[str, dict[str, Any]]:
    """Cell and seed → a, b and the losses there, all measured with the settings that most of the table's runs have."""
    settings = report.settings_of(f"sharpness/{plot.surfaces}/loss")
    found: dict[str, dict[str, Any]] = {}
    for name, cell in report.sought.items():
        grids = ((run.seed, run.arrays(plot.surfaces, settings)) for run in report.found.of(cell))
        seed, grid = next(((seed, grid) for seed, grid in grids if grid and len(grid["b"]) > 1), (0, None))
        if grid:
            found[f"{name}, seed {seed}"] = grid
    return found


def _draw(title: str, grids: dict[str, dict[str, Any]], figure: "Figure") -> None:
    import numpy as np

    figure.set_size_inches(3.6 * len(grids) + 0.8, 3.6)
    losses = {name: np.maximum(np.array(grid["loss"], dtype=float), SMALLEST) for name, grid in grids.items()}
    low, high = min(map(np.nanmin, losses.values())), max(map(np.nanmax, losses.values()))
    levels = np.geomspace(low, max(high, 1.01 * low), LEVELS)  # they must rise, on a flat surface too
    every = figure.subplots(1, len(grids), squeeze=False)[0]
    for axes, (name, grid) in zip(every, grids.items(), strict=True):
        filled = axes.contourf(grid["a"], grid["b"], losses[name], levels=levels, norm="log")
        axes.plot(0, 0, "w+")
        axes.set(title=name, xlabel="a", ylabel="b")
        axes.set_aspect("equal")
    figure.colorbar(filled, ax=every, label="loss at w + a·d₁ + b·d₂", shrink=0.8, format="%.2g")
    figure.suptitle(title, fontsize=9)
