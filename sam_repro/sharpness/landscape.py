"""The loss along random directions through the weights, as data and as a picture."""

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sam_repro import limits
from sam_repro.sharpness.curvature import Curvature
from sam_repro.sharpness.measure import OnSample, Subject
from sam_repro.sharpness.measurement import Measurement, Unmeasurable
from sam_repro.sharpness.notes import Notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Landscape(OnSample):
    """L(w + a·d₁ + b·d₂) on a grid of a, b in [−extent, extent], d random and filter-normalised (Li et al. 2018).

    A direction is Gaussian, each of its filters scaled to the norm of the weights' filter; in tensors of one dimension
    (batch norm, biases) it is 0.

    Args:
        dimensions: 1 (b = 0) or 2 (default).
        points: of the grid in each dimension, odd, so that the weights themselves are on it; default 21.
        extent: how far it reaches, default 1.

    Costs `points`^`dimensions` forwards over the sample.
    """

    dimensions: int = 2
    points: int = 21
    extent: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.choice("dimensions", self.dimensions, (1, 2))
        limits.integer("points", self.points, low=3, high=1001)
        if self.points % 2 == 0:
            raise ValueError(f"points = {self.points}: must be odd, so that the weights themselves are on the grid")
        limits.number("extent", self.extent, above=0)

    def __call__(self, subject: Subject, notes: Notes) -> Measurement:
        """Measure the `loss` at the weights and the `highest_rise` on the grid, and keep the grid."""
        ticks = np.linspace(-self.extent, self.extent, self.points)
        rows = ticks if self.dimensions == 2 else np.zeros(1)
        with self.curvature(subject) as curvature:
            backup = [p.detach().clone() for p in curvature.params]
            w, random = curvature.flat(backup), self.gaussian(curvature)
            first, second = (_filter_normalised(curvature, backup, random()) for _ in range(2))
            losses = [
                notes.piece(f"row {i}", len(rows), partial(_row, curvature, w + b * second, first, ticks, backup))
                for i, b in enumerate(rows.tolist())
            ]
            protocol = self.protocol(
                subject,
                curvature,
                solver="grid",
                directions="filter-normalised; tensors of one dimension stand still",
                dimensions=self.dimensions,
                points=self.points,
                extent=self.extent,
            )
            loss = float(curvature.clean_loss)
        seen = [value for row in losses for value in row if value is not None]
        values = {
            "loss": loss,
            "highest_rise": max([loss, *seen]) - loss,
            "finite_share": len(seen) / (len(rows) * len(ticks)),
        }
        arrays = {"a": ticks.tolist(), "b": rows.tolist(), "loss": losses}
        return Measurement("landscape", values, protocol, arrays, lambda figure: _draw(figure, arrays))


def _filter_normalised(curvature: Curvature, weights: list[Tensor], direction: Tensor) -> Tensor:
    pieces = []
    for w, d in zip(weights, curvature.unflat(direction), strict=True):
        across = list(range(1, w.dim()))
        if not across:
            pieces.append(torch.zeros_like(d))
            continue
        lengths = (torch.linalg.vector_norm(x, dim=across, keepdim=True) for x in (w, d))
        pieces.append(d * (next(lengths) / next(lengths)))
    if not any(piece.any() for piece in pieces):
        raise Unmeasurable("there is nowhere to go: weights of one dimension stand still, and zeros have no length")
    return curvature.flat(pieces)


def _row(
    curvature: Curvature, start: Tensor, direction: Tensor, ticks: Any, backup: list[Tensor]
) -> list[float | None]:
    """The losses of one row; None where one is not finite."""
    losses = []
    for a in ticks.tolist():
        with curvature.moved(start + a * direction, backup):
            value = float(curvature.loss())
        losses.append(value if math.isfinite(value) else None)
    return losses


def _draw(figure: "Figure", arrays: dict[str, Any]) -> None:
    losses = np.array(arrays["loss"], dtype=float)
    axes = figure.subplots()
    if len(losses) == 1:
        axes.plot(arrays["a"], losses[0])
        axes.set(xlabel="a", ylabel="loss")
        return
    filled = axes.contourf(arrays["a"], arrays["b"], np.log10(np.maximum(losses, 1e-12)), levels=30)
    figure.colorbar(filled, label="log₁₀ loss")
    axes.set(xlabel="a", ylabel="b")
