"""How far the loss can rise within a ball around the weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sam_repro import limits
from sam_repro.sharpness.curvature import Curvature
from sam_repro.sharpness.measurement import Unmeasurable
from sam_repro.vectors import norm, ratio

NORMS = (2, "inf")


@dataclass(frozen=True)
class Ball:
    """The ball ‖ε‖_p ≤ ρ, or ‖ε/|w|‖_p ≤ ρ where it is adaptive.

    Args:
        rho: radius, > 0.
        p: 2 (default) or "inf".
        adaptive: whether ε is measured in units of |w|, element by element; default false.
    """

    rho: float
    p: Any = 2
    adaptive: bool = False

    def __post_init__(self) -> None:
        limits.number("rho", self.rho, above=0)
        limits.choice("p", self.p, NORMS)
        limits.boolean("adaptive", self.adaptive)

    def steepest(self, slope: Tensor) -> Tensor:
        """The vector of length 1 along which a function with this slope rises fastest; 0 where it is flat."""
        if self.p == "inf":
            return slope.sign()
        length = norm([slope])
        return slope * ratio(torch.ones_like(length), length).to(slope.dtype)

    def projected(self, e: Tensor) -> Tensor:
        """The nearest vector of the ball, in its own units."""
        if self.p == "inf":
            return e.clamp(-self.rho, self.rho)
        length = norm([e])
        return e * (self.rho / length.clamp(min=self.rho)).to(e.dtype)


def highest(
    curvature: Curvature, ball: Ball, *, steps: int, starts: int, random: Callable[[], Tensor]
) -> tuple[float, list[float]]:
    """Rise max L(w + ε) − L(w) over the ball, from below: the highest of all points that projected ascents meet.

    ε ← Π(ε + ρ·s), s the steepest direction at w + ε; the first ascent starts in w, the others at random points of the
    sphere. n steps from w are those of `optimizer=sam` with `ascent_steps: n`. Each start takes `steps` passes and as
    many forwards; 6 vectors of N numbers.

    Args:
        curvature: the loss; its weights are put back bitwise.
        ball: where ε may be.
        steps: of each ascent, ≥ 1.
        starts: ascents, ≥ 1.
        random: draws a vector [N].

    Returns:
        The rise, ≥ 0, and the highest of each start.

    Raises:
        Unmeasurable: if a loss or a gradient on the way is not finite.
    """
    with torch.no_grad():
        backup = [p.detach().clone() for p in curvature.params]
        w = curvature.flat(backup)
        unit = w.abs() if ball.adaptive else torch.ones_like(w)
    rises = []
    for start in range(starts):
        e = torch.zeros_like(w) if start == 0 else ball.rho * ball.steepest(random())
        rises.append(0.0)
        for _ in range(steps):
            with curvature.moved(w + unit * e, backup):
                slope = unit * curvature.gradient()
            e = ball.projected(e + ball.rho * ball.steepest(slope))
            rises[-1] = max(rises[-1], rise(curvature, w + unit * e, backup))
    return max(rises), rises


def rise(curvature: Curvature, point: Tensor, backup: list[Tensor]) -> float:
    """L at a point of the space of weights, less L at the weights."""
    with curvature.moved(point, backup):
        value = float(curvature.loss() - curvature.clean_loss)
    if not math.isfinite(value):
        raise Unmeasurable("the loss at the perturbed weights is not finite; choose a smaller sharpness.rho")
    return value
