"""ASAM (Kwon, Kim, Park and Choi, 2021): SAM whose ball is measured in units of the weights."""

import torch
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.rule import TwoPass
from sam_repro.vectors import Vector, norm, ratio, scaled


class ASAM(TwoPass):
    """The gradient at the approximate worst point of the ball ‖T⁻¹ε‖₂ ≤ ρ, with T = |w| + η element by element.

    ε = ρ·T²g/‖Tg‖₂, g_s = ∇L(w + ε), and the base takes g_s. T runs over all parameters, biases and norms included;
    where Tg = 0, ε = 0. The radius is not comparable with SAM's: here it is relative to the weights.

    Args:
        base: the optimizer below.
        rho: radius ρ, ≥ 0; 0 is the base alone.
        eta: η ≥ 0, default 0: how much of the ball does not depend on the weights.

    Passes: 2. Memory: two vectors beside the base's, and two more while ε is made.
    """

    def __init__(self, base: Optimizer, rho: float, eta: float = 0.0) -> None:
        limits.number("eta", eta, low=0)
        super().__init__(base, rho)
        self.eta = eta

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε = ρ·T²g/‖Tg‖₂."""
        t = torch._foreach_add(torch._foreach_abs(w), self.eta)
        tg = torch._foreach_mul(t, g)
        return scaled(torch._foreach_mul(t, tg), ratio(self.rho, norm(tg)))

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient is g_s."""
        return g_s
