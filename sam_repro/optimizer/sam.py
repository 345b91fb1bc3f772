"""SAM (Foret, Kleiner, Mobahi and Neyshabur, 2021): Algorithm 1."""

from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.vectors import Vector


class SAM(TwoPass):
    """The gradient at the approximate worst point of the ball of radius ρ around w (Algorithm 1).

    1. g = ∇L(w).
    2. ε = ρ·g/‖g‖₂ (eq. 2 for p = 2): the norm runs over all parameters, and where g = 0, ε = 0.
    3. g_s = ∇L(w + ε): ε is a constant, it is not differentiated.
    4. The base steps from w along g_s.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        perturb: "all" (default), "no_norm" or "only_norm" (SAM-ON): see `TwoPass`.

    Passes: 2. Memory: two vectors beside the base's.
    """

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient is g_s."""
        return g_s
