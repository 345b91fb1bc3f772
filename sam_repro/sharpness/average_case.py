"""The rise of the loss in random directions."""

import math
from dataclasses import dataclass

import numpy as np

from sam_repro import limits
from sam_repro.sharpness.ascent import Ball, rise
from sam_repro.sharpness.measure import OnSample, Subject
from sam_repro.sharpness.measurement import Measurement
from sam_repro.sharpness.notes import Notes


@dataclass(frozen=True, kw_only=True)
class AverageCase(OnSample):
    """E L(w + ε) − L(w), ε uniform on the sphere ‖ε‖₂ = ρ, L the mean loss of a sample.

    Args:
        rho: radius; default None, the run's.
        adaptive: whether ε is measured in units of |w|; default false.
        pairs: random directions, each taken both ways, so that the slope cancels; ≥ 2, default 20.

    Costs 2·`pairs` forwards over the sample. With d weights E ≈ ½ρ²·tr(∇²L)/d for small ρ.
    """

    rho: float | None = None
    adaptive: bool = False
    pairs: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.number("rho", self.rho, above=0, optional=True)
        limits.boolean("adaptive", self.adaptive)
        limits.count("pairs", self.pairs, low=2)

    def __call__(self, subject: Subject, notes: Notes) -> Measurement:
        """Measure `loss_rise`, its standard error `loss_rise_se`, and the `loss` at the weights."""
        ball = Ball(subject.radius(self.rho), 2, self.adaptive)
        with self.curvature(subject) as curvature:
            random = self.gaussian(curvature)
            backup = [p.detach().clone() for p in curvature.params]
            w = curvature.flat(backup)
            unit = w.abs() if self.adaptive else 1.0
            means = []
            for _ in range(self.pairs):
                e = unit * ball.rho * ball.steepest(random())
                means.append((rise(curvature, w + e, backup) + rise(curvature, w - e, backup)) / 2)
            protocol = self.protocol(
                subject, curvature, solver="random directions", rho=ball.rho, adaptive=self.adaptive, pairs=self.pairs
            )
            values = {
                "loss_rise": float(np.mean(means)),
                "loss_rise_se": float(np.std(means, ddof=1)) / math.sqrt(self.pairs),
                "loss": float(curvature.clean_loss),
            }
        return Measurement("average_case", values, protocol)
