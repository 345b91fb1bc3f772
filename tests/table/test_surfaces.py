"""The picture of loss surfaces: which grids are in it, and that all have one scale."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from sam_repro.table import plot, surfaces

TICKS = [-1.0, 0.0, 1.0]


def measured(loss: list[list[float | None]], b: list[float] = TICKS, points: int = 3) -> dict[str, Any]:
    """The node of a result that a landscape leaves."""
    protocol = {"checkpoint": "last", "settings": {"points": points}}
    arrays = {"a": TICKS, "b": b, "loss": loss}
    return {"landscape": {"values": {"loss": 1.0}, "protocol": protocol, "arrays": arrays}}


def grid(scale: float) -> list[list[float | None]]:
    return [[scale * (1 + abs(a) + abs(b)) for a in TICKS] for b in TICKS]


@pytest.fixture
def surfaced(lab: Any) -> Any:
    lab.tabled("plot: {surfaces: landscape}\n")
    return lab


def drawn(lab: Any) -> Figure | None:
    draw = surfaces.drawing(lab.report(), lab.table.plot)
    if draw is None:
        return None
    figure = Figure()
    draw(figure)
    return figure


def test_each_cell_has_a_map_of_its_first_seed_and_all_have_one_scale(surfaced: Any) -> None:
    surfaced.run("sam 0.1", 1, sharpness=measured(grid(0.5)))
    surfaced.run("sam 0.1", 2, sharpness=measured(grid(7.0)))
    surfaced.run("sgd", 0, sharpness=measured(grid(10.0)))
    *maps, bar = drawn(surfaced).axes
    assert [axes.get_title() for axes in maps] == ["sam 0.1, seed 1", "sgd, seed 0"]
    for axes in maps:
        levels = axes.collections[0].levels
        assert (levels[0], levels[-1]) == pytest.approx((0.5, 30.0))
    assert bar.get_ylabel() == "loss at w + a·d₁ + b·d₂"
    assert plot.picture(surfaced.report()).startswith(b"\x89PNG")


def test_a_map_has_the_rows_of_b_upwards(surfaced: Any) -> None:
    surfaced.run("sgd", 0, sharpness=measured([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [4.0, 4.0, 4.0]]))
    (axes, _) = drawn(surfaced).axes
    paths = axes.collections[0].get_paths()
    heights = [path.vertices[:, 1].mean() for path in paths if len(path.vertices)]
    assert heights == sorted(heights)
    assert heights[0] < -0.9 < 0.9 < heights[-1]


def test_other_settings_lines_and_runs_without_a_grid_are_no_map(surfaced: Any) -> None:
    assert drawn(surfaced) is None
    assert plot.picture(surfaced.report()) is None
    surfaced.run("sam 0.1", 0)
    surfaced.run("sam 0.1", 1, sharpness=measured(grid(1.0)))
    surfaced.run("sam 0.1", 2, sharpness=measured(grid(1.0)))
    surfaced.run("sam 0.2", 0, sharpness=measured(grid(1.0), points=5))
    surfaced.run("sgd", 0, sharpness=measured([[1.0, 2.0, 3.0]], b=[0.0]))
    assert [axes.get_title() for axes in drawn(surfaced).axes[:-1]] == ["sam 0.1, seed 1"]


@pytest.mark.parametrize("loss", [[[None, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, None]], np.ones((3, 3)).tolist()])
def test_holes_zeros_and_a_flat_surface_are_drawn(surfaced: Any, loss: list[list[float | None]]) -> None:
    surfaced.run("sgd", 0, sharpness=measured(loss))
    assert plot.picture(surfaced.report()).startswith(b"\x89PNG")
