"""GSAM (Zhuang et al., 2022): SAM that also closes the gap between the loss at the top of the ball and at w."""

import torch
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.vectors import Vector, dot, ratio, scaled


class GSAM(TwoPass):
    """SAM's gradient g_s, less α times the part of g = ∇L(w) that is orthogonal to it.

    d = g_s − α·g⊥, g⊥ = g − (⟨g, g_s⟩/‖g_s‖₂²)·g_s, products over all parameters. To first order d lowers L(w + ε) as
    much as g_s does, but L(w) less, so that the gap between the two shrinks. Where g_s = 0, g⊥ = g.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone. The paper moves it with the learning rate, between two
            radii: `rho_schedule=between`.
        alpha: α ≥ 0, default 0.4; 0 is SAM.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Raises:
        ValueError: if an argument is outside of what is said here.

    Passes: 2. Memory: two vectors beside the base's, and two more while they are combined.
    """

    def __init__(self, base: Optimizer, rho: float, alpha: float = 0.4, perturb: str = "all") -> None:
        limits.number("alpha", alpha, low=0)
        super().__init__(base, rho, perturb)
        self.alpha = alpha

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient is g_s − α·g⊥."""
        across = torch._foreach_sub(g, scaled(g_s, ratio(dot(g, g_s), dot(g_s, g_s))))
        return list(torch._foreach_sub(g_s, across, alpha=self.alpha))
