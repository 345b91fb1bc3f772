"""SAM with the term of second order that section 2 of Foret, Kleiner, Mobahi and Neyshabur (2021) drops."""

import torch

from sam_repro.optimizer.cost import Cost
from sam_repro.optimizer.terms import Terms
from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.oracle import Oracle, Term, products
from sam_repro.vectors import Vector, dot, norm, ratio, scaled


class SAMSecondOrder(TwoPass):
    """The gradient of L(w + ε(w)), in which ε is differentiated too.

    ε = ρ·g/‖g‖₂ and g_s = ∇L(w + ε) as SAM's, and the base takes g_s + (ρ/‖g‖)·H(I − uuᵀ)g_s with u = g/‖g‖ and
    H = ∇²L(w).

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Passes: 2, and 1 Hessian product. Memory: four vectors beside the base's, and the graph of a gradient.
    """

    def terms(self, oracle: Oracle, phase: str) -> Terms:
        """∇L(w), what comes through ε, and ∇L(w + ε)."""
        g, g_s = super().terms(oracle, phase).values()
        return {"g": g, "through": Term(self._through_epsilon(oracle, g.vector, g_s.vector)), "g_s": g_s}

    def combine(self, g: Vector, through: Vector, g_s: Vector) -> Vector:
        """The gradient is g_s plus what comes through ε."""
        # g_s first: a Hessian product has strides of its own, and the gradient must have those of the weights
        return list(torch._foreach_add(g_s, through))

    def cost(self, step: int) -> Cost:
        """Two passes and a product."""
        return Cost(passes=2, products=1)

    cycle = 1

    def _through_epsilon(self, oracle: Oracle, g: Vector, g_s: Vector) -> Vector:
        """(∂ε/∂w)ᵀg_s = (ρ/‖g‖)·H(I − uuᵀ)g_s."""
        g, g_s = self.perturbed(g), self.perturbed(g_s)
        across = torch._foreach_sub(g_s, scaled(g, ratio(dot(g, g_s), dot(g, g))))
        return scaled(products.hvp(oracle, self.params, across), ratio(self.rho, norm(g)))
