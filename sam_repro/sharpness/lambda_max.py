"""The largest eigenvalue of the Hessian."""

from dataclasses import dataclass

from sam_repro import limits
from sam_repro.sharpness.lanczos import top
from sam_repro.sharpness.measure import OnSample, Subject, named
from sam_repro.sharpness.measurement import Measurement
from sam_repro.sharpness.notes import Notes


@dataclass(frozen=True, kw_only=True)
class LambdaMax(OnSample):
    """λ_max(∇²L), the algebraically largest eigenvalue of the Hessian of the mean loss of a sample, by Lanczos.

    Args:
        tolerance: relative residual ‖Hv − λv‖/|λ| at which it has converged, default 0.01.
        max_products: budget of Hessian products over the sample, default 200; memory grows by a vector with each.

    An eigenvalue is within the residual of λ, 1 % by default; where the next one is a gap apart, within residual²/gap.
    """

    tolerance: float = 0.01
    max_products: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.number("tolerance", self.tolerance, above=0)
        limits.integer("max_products", self.max_products, low=1)

    def __call__(self, subject: Subject, notes: Notes) -> Measurement:
        """Measure `lambda_max`."""
        with self.curvature(subject) as curvature:
            spectrum = top(
                curvature.hvp,
                self.gaussian(curvature),
                1,
                tolerance=self.tolerance,
                max_products=self.max_products,
            )
            protocol = self.protocol(
                subject,
                curvature,
                solver="lanczos",
                order="algebraic",
                tolerance=self.tolerance,
                max_products=self.max_products,
                outcome=spectrum.outcome(),
            )
        return Measurement("lambda_max", named(spectrum, ["lambda_max"]), protocol)
