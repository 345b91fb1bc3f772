"""SAM (Foret, Kleiner, Mobahi and Neyshabur, 2021): Algorithm 1."""

from sam_repro.optimizer.rule import TwoPass
from sam_repro.vectors import Vector, norm, ratio, scaled


class SAM(TwoPass):
    """The gradient at the approximate worst point of the ball of radius ρ around w.

    ε = ρ·g/‖g‖₂ (eq. 2 for p = 2), g_s = ∇L(w + ε), and the base takes g_s (Algorithm 1). The norm runs over all
    parameters; where g = 0, ε = 0. ε is a constant: it is not differentiated.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.

    Passes: 2. Memory: two vectors beside the base's.
    """

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε = ρ·g/‖g‖₂."""
        return scaled(g, ratio(self.rho, norm(g)))

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient is g_s."""
        return g_s
