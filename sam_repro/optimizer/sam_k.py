"""SAM-k: SAM in every k-th step, which LookSAM's paper (Liu, Mai, Chen, Hsieh and You, 2022) compares itself with."""

from sam_repro.optimizer.periodic import Periodic
from sam_repro.vectors import Vector


class SAMK(Periodic):
    """SAM's gradient in every k-th step, the plain one in the others; nothing is carried from one to the next.

    g_s = ∇L(w + ρ·g/‖g‖₂) in steps 0, k, 2k, …, else g = ∇L(w). SAM-5 of the paper is k = 5.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        period: k ≥ 1; 1 is SAM.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Passes: 2 in every k-th step, else 1; 1 + 1/k in the mean. Memory: two vectors beside the base's.
    """

    def combine(self, g: Vector, g_s: Vector | None = None) -> Vector:
        """The gradient is g_s where there is one, else g."""
        return g if g_s is None else g_s
