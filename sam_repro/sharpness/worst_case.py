"""The highest loss in a ball around the weights."""

from dataclasses import dataclass
from typing import Any

from sam_repro import limits
from sam_repro.sharpness.ascent import Ball, highest
from sam_repro.sharpness.measure import OnSample, Subject
from sam_repro.sharpness.measurement import Measurement
from sam_repro.sharpness.notes import Notes


@dataclass(frozen=True, kw_only=True)
class WorstCase(OnSample):
    """max_{‖ε‖_p ≤ ρ} L(w + ε) − L(w), L the mean loss of a sample, by projected ascent: a bound from below.

    Args:
        rho: radius; default None, the run's.
        p: 2 (default) or "inf".
        adaptive: whether ε is measured in units of |w|, element by element (ASAM's ball); default false.
        steps: of each ascent, default 20; 1 is the perturbation of SAM.
        starts: ascents, default 2: from w, and from random points of the sphere.

    Costs `starts`·`steps` passes and as many forwards.
    """

    rho: float | None = None
    p: Any = 2
    adaptive: bool = False
    steps: int = 20
    starts: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.number("rho", self.rho, above=0, optional=True)
        Ball(1.0, self.p, self.adaptive)
        limits.count("steps", self.steps)
        limits.count("starts", self.starts)

    def __call__(self, subject: Subject, notes: Notes) -> Measurement:
        """Measure `loss_rise`, and the `loss` at the weights."""
        ball = Ball(subject.radius(self.rho), self.p, self.adaptive)
        with self.curvature(subject) as curvature:
            random = self.gaussian(curvature)
            rise, rises = highest(curvature, ball, steps=self.steps, starts=self.starts, random=random)
            protocol = self.protocol(
                subject,
                curvature,
                solver="projected ascent",
                **vars(ball),
                steps=self.steps,
                starts=self.starts,
                outcome={"highest_of_each_start": rises},
            )
            values = {"loss_rise": rise, "loss": float(curvature.clean_loss)}
        return Measurement("worst_case", values, protocol)
