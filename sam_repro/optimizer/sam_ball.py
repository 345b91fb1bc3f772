"""SAM in a ball of any p-norm (eq. 2 of Foret, Kleiner, Mobahi and Neyshabur, 2021), and by several steps of ascent."""

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.cost import Cost
from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.oracle import Oracle, Term
from sam_repro.vectors import Vector, dot, moved, norm, ratio, scaled


class SAMBall(TwoPass):
    """SAM's gradient, at the approximate worst point of the ball ‖ε‖_p ≤ ρ, found in one step or in several.

    ε = ρ·sign(g)·|g|^(q−1)/(‖g‖_q^q)^(1/p) with 1/p + 1/q = 1 (eq. 2): SAM's for p = 2, and ρ·sign(g) for p = ∞. Of n
    steps of ascent each is as long, goes up the gradient where the last one ended, and back to the nearest point of the
    ball. The base takes the gradient at the top.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        p: the ball's norm: a number > 1, or ∞ (`math.inf` or "inf", the default).
        ascent_steps: n ≥ 1, default 1; for more, p is 2 or ∞.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Raises:
        ValueError: if an argument is outside of what is said here.

    Passes: n + 1. Memory: two vectors beside the base's, three for n > 1.
    """

    def __init__(
        self, base: Optimizer, rho: float, p: float | str = math.inf, ascent_steps: int = 1, perturb: str = "all"
    ) -> None:
        limits.order("p", p)
        limits.count("ascent_steps", ascent_steps)
        if ascent_steps > 1 and float(p) not in (2, math.inf):
            raise ValueError(f"ascent_steps = {ascent_steps}: needs p = 2 or p = inf")
        super().__init__(base, rho, perturb)
        self.p = float(p)
        self.ascent_steps = ascent_steps

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε by eq. 2."""
        return super().ascent(g, w) if self.p == 2 else scaled(_steepest(g, self.p), self.rho)

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient is g_s, at the top."""
        return g_s

    def at_top(self, oracle: Oracle, g: Vector) -> Term:
        """∇L where the last step of the ascent ends."""
        top = super().at_top(oracle, g)
        epsilon = self.climb(g) if self.ascent_steps > 1 else []
        for _ in range(self.ascent_steps - 1):
            further = list(torch._foreach_add(epsilon, self.climb(top.vector)))
            epsilon = _into_ball(further, self.rho, self.p)
            with moved(self.params, by=epsilon, backup=self.backup()):
                top = oracle.gradient(self.params, update_statistics=False)._replace(at="w+ε")
        return top

    def cost(self, step: int) -> Cost:
        """A pass for each step of the ascent, and one at the top."""
        return Cost(passes=self.ascent_steps + 1)

    cycle = 1


def _steepest(g: Vector, p: float) -> Vector:
    """The vector of p-norm 1 with the largest ⟨g, ·⟩: eq. 2 with ρ = 1; 0 where g = 0.

    It does not depend on the length of g, whose largest element is made 1, so that no power leaves the range of its
    dtype.
    """
    largest = torch.stack(torch._foreach_norm(g, math.inf)).max()
    g = list(torch._foreach_div(g, torch.where(largest > 0, largest, 1.0)))
    sizes = torch._foreach_abs(g)
    powers = torch._foreach_pow(sizes, 1 / (p - 1))  # |g|^(q−1)
    length = dot(powers, sizes) ** (1 / p)  # (‖g‖_q^q)^(1/p)
    return scaled(torch._foreach_mul(torch._foreach_sign(g), powers), ratio(torch.ones_like(length), length))


def _into_ball(epsilon: Vector, rho: Tensor, p: float) -> Vector:
    """The nearest point with ‖ε‖_p ≤ ρ, for p = 2 and p = ∞."""
    if p == math.inf:
        return [x.clamp(-rho, rho) for x in epsilon]
    return scaled(epsilon, ratio(rho, norm(epsilon)).clamp(max=1))
