"""The largest eigenvalue of the Hessian."""

from dataclasses import dataclass

from sam_repro.sharpness.measure import ByLanczos, Subject, named
from sam_repro.sharpness.measurement import Measurement
from sam_repro.sharpness.notes import Notes


@dataclass(frozen=True, kw_only=True)
class LambdaMax(ByLanczos):
    """λ_max(∇²L), the algebraically largest eigenvalue of the Hessian of the mean loss of a sample, by Lanczos.

    Args:
        tolerance: relative residual ‖Hv − λv‖/|λ| at which it has converged, default 0.01.
        max_products: budget of Hessian products over the sample, default 200; memory grows by a vector with each.

    An eigenvalue is within the residual of λ, 1 % by default; where the next one is a gap apart, within residual²/gap.
    """

    tolerance: float = 0.01
    max_products: int = 200

    def __call__(self, subject: Subject, notes: Notes) -> Measurement:
        """Measure `lambda_max`."""
        with self.curvature(subject) as curvature:
            spectrum = self.top(curvature, 1, notes)
            protocol = self.solved(subject, curvature, spectrum)
        return Measurement("lambda_max", named(spectrum, ["lambda_max"]), protocol)
