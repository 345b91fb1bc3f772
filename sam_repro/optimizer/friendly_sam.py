"""Friendly-SAM (Li et al., 2024): SAM that climbs along what is new in the gradient of a batch."""

import torch
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.vectors import Vector, norm, ratio, scaled


class FriendlySAM(TwoPass):
    """The gradient at w + ε, where ε has the direction of g = ∇L(w) less what is expected of it.

    1. d = g − σ·ḡ, where ḡ is the average of the gradients of earlier steps; in the first step d = g.
    2. ε = ρ·d/‖d‖₂, and 0 where d = 0.
    3. g_s = ∇L(w + ε), and the base takes g_s.
    4. ḡ ← λ·ḡ + (1 − λ)·g; after the first step ḡ = g.

    The authors' code does this. An average that already holds the g of this step gives another rule.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        sigma: σ ≥ 0, default 1; 0 is SAM.
        decay: λ in [0, 1], default 0.9.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Raises:
        ValueError: if an argument is outside of what is said here.

    Passes: 2. Memory: three vectors beside the base's, and two more while ḡ is averaged.
    """

    def __init__(
        self, base: Optimizer, rho: float, sigma: float = 1.0, decay: float = 0.9, perturb: str = "all"
    ) -> None:
        limits.number("sigma", sigma, low=0)
        limits.share("decay", decay)
        super().__init__(base, rho, perturb)
        self.sigma = sigma
        self.decay = decay
        self.memory["average"] = [torch.zeros_like(p, requires_grad=False) for p in self.params]
        # how much of ḡ is kept: nothing at first, then λ
        self.memory["kept"] = torch.zeros((), dtype=torch.float64, device=self.params[0].device)

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε = ρ·d/‖d‖₂."""
        d = list(torch._foreach_sub(g, self.perturbed(self.memory["average"]), alpha=self.sigma))
        return scaled(d, ratio(self.rho, norm(d)))

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient is g_s."""
        return g_s

    def remember(self, g: Vector) -> None:
        """Average g into ḡ."""
        average, kept = self.memory["average"], self.memory["kept"]
        torch._foreach_copy_(average, torch._foreach_add(scaled(average, kept), scaled(g, 1 - kept)))
        kept.fill_(self.decay)
