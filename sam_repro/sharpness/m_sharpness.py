"""The rise of the loss in the worst direction of each few examples."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sam_repro import limits
from sam_repro.sharpness.ascent import Ball, highest
from sam_repro.sharpness.curvature import Batch, Curvature, undisturbed
from sam_repro.sharpness.measure import OnSample, Subject, chosen
from sam_repro.sharpness.measurement import Measurement
from sam_repro.sharpness.notes import Notes


@dataclass(frozen=True, kw_only=True)
class MSharpness(OnSample):
    """(1/n)·Σ over parts of m examples of max_{‖ε‖_p ≤ ρ} Σ_{i in part} ℓ_i(w + ε) − ℓ_i(w) (Foret et al. 2021, 4.1).

    Args:
        m: examples that share one ε, default 128. In train mode the batches of batch norm, too.
        rho: radius; default None, the run's.
        p: 2 (default) or "inf".
        adaptive: whether ε is measured in units of |w|; default false.
        steps: of the ascent, which starts in w; default 1, the perturbation of SAM.

    `batch_size` does not enter. Costs 1 pass and 3 forwards over the sample for one step.
    """

    m: int = 128
    rho: float | None = None
    p: Any = 2
    adaptive: bool = False
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.integer("m", self.m, low=1)
        limits.number("rho", self.rho, above=0, optional=True)
        Ball(1.0, self.p, self.adaptive)
        limits.count("steps", self.steps)

    def __call__(self, subject: Subject, notes: Notes) -> Measurement:
        """Measure `loss_rise`, its standard error over the parts `loss_rise_se` where there are several, and `loss`."""
        ball = Ball(subject.radius(self.rho), self.p, self.adaptive)
        with self.curvature(subject) as curvature:
            values = {"loss": float(curvature.clean_loss)}
            protocol = self.protocol(
                subject, curvature, solver="projected ascent", m=self.m, **vars(ball), steps=self.steps, starts=1
            )
        parts = subject.sample(self.examples, self.m, self.seed)
        with undisturbed(subject.model, self.mode):
            rises = [
                notes.piece(f"part {i}", len(parts), partial(self._rise, subject, part, ball))
                for i, part in enumerate(parts)
            ]
        values["loss_rise"] = float(np.average(rises, weights=[len(targets) for _, targets in parts]))
        if len(rises) > 1:
            values["loss_rise_se"] = float(np.std(rises, ddof=1)) / math.sqrt(len(rises))
        return Measurement("m_sharpness", values, protocol | {"batch_size": min(self.m, protocol["examples"])})

    def _rise(self, subject: Subject, part: Batch, ball: Ball) -> float:
        params = chosen(subject.model, self.parameters)
        curvature = Curvature(subject.model, subject.criterion, [part], params=params)
        return highest(curvature, ball, steps=self.steps, starts=1, random=self.gaussian(curvature))[0]
