"""SAM-direction (Luong, 2024): the direction of SAM's gradient, the magnitude of SGD's."""

from sam_repro.optimizer.mix import Mix
from sam_repro.vectors import Vector


class SAMDirection(Mix):
    """The direction of g_s = ∇L(w + ε) with the magnitude of g = ∇L(w), where ε = ρ·g/‖g‖₂ is SAM's.

    Scope "global": d = g_s·(‖g‖₂/‖g_s‖₂), norms over all parameters (Stable SAM in the literature); "tensor": the
    same with the norms of each tensor; "element": d = sign(g_s)·|g|, with sign(0) = 0. Where the norm below is 0,
    d = 0. The study's text speaks of the direction and the norm of vectors; its code ran "element".

    The study's code has the two names the wrong way round: its class `samdirection` computes sign(g)·|g_s|, which its
    text calls SAM-magnitude: here that is `SAMMagnitude`.

    Args:
        base: the optimizer below. Weight decay belongs here: with decay in the objective the rule raises ValueError.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        scope: "global" (default), "tensor" or "element".
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Passes: 2. Memory: two vectors beside the base's, and two more while they are mixed.
    """

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The direction of g_s with the magnitude of g."""
        return self.mixed(direction=g_s, magnitude=g)
