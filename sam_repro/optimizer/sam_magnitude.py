"""SAM-magnitude (Luong, 2024): the magnitude of SAM's gradient, the direction of SGD's."""

from sam_repro.optimizer.mix import Mix
from sam_repro.vectors import Vector


class SAMMagnitude(Mix):
    """The magnitude of g_s = ∇L(w + ε) with the direction of g = ∇L(w), where ε = ρ·g/‖g‖₂ is SAM's.

    Scope "global": d = g·(‖g_s‖₂/‖g‖₂), norms over all parameters; "tensor": the same with the norms of each tensor;
    "element": d = sign(g)·|g_s|, with sign(0) = 0. Where the norm below is 0, d = 0. The study's text speaks of the
    direction and the norm of vectors; its code ran "element".

    The study's code has the two names the wrong way round: its class `sammagnitude` computes sign(g_s)·|g|, which its
    text calls SAM-direction: here that is `SAMDirection`.

    Args:
        base: the optimizer below. Weight decay belongs here: with decay in the objective the rule raises ValueError.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        scope: "global" (default), "tensor" or "element".
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Passes: 2. Memory: two vectors beside the base's, and two more while they are mixed.
    """

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The direction of g with the magnitude of g_s."""
        return self.mixed(direction=g, magnitude=g_s)
