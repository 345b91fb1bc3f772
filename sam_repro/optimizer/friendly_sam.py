"""Friendly-SAM (Li et al., 2024): SAM that climbs along what is new in the gradient of a batch."""

import torch
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.vectors import Vector, norm, ratio, scaled


class FriendlySAM(TwoPass):
    """The gradient at w + ε, where ε has the direction of g = ∇L(w) less what is expected of it.

    1. d = g − σ·m, with the average m of the gradients of earlier steps; in the first step d = g.
    2. ε = ρ·d/‖d‖₂, and 0 where d = 0.
    3. g_s = ∇L(w + ε), and the base takes g_s.
    4. m ← λ·m + (1 − λ)·g; after the first step m = g.

    So the authors' code has it. An average that holds the g of this step as well gives another rule.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        sigma: σ ≥ 0, default 1; 0 is SAM.
        decay: λ in [0, 1], default 0.9.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Raises:
        ValueError: if an argument is outside of what is said here.

    Passes: 2. Memory: three vectors beside the base's, and two more while m is averaged.
    """

    def __init__(
        self, base: Optimizer, rho: float, sigma: float = 1.0, decay: float = 0.9, perturb: str = "all"
    ) -> None:
        limits.number("sigma", sigma, low=0)
        limits.share("decay", decay)
        super().__init__(base, rho, perturb)
        self.sigma = sigma
        self.decay = decay
        self.memory["m"] = [torch.zeros_like(p, requires_grad=False) for p in self.params]
        self.memory["kept"] = torch.zeros((), dtype=torch.float64, device=self.params[0].device)  # of m: 0 at first, λ

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε = ρ·d/‖d‖₂."""
        d = list(torch._foreach_sub(g, self.perturbed(self.memory["m"]), alpha=self.sigma))
        return scaled(d, ratio(self.rho, norm(d)))

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient is g_s."""
        return g_s

    def remember(self, g: Vector) -> None:
        """Average g into m."""
        m, kept = self.memory["m"], self.memory["kept"]
        torch._foreach_copy_(m, torch._foreach_add(scaled(m, kept), scaled(g, 1 - kept)))
        kept.fill_(self.decay)
