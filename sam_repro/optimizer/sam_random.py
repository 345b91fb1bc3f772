"""SAM with a random perturbation: the control of Figure 6 (Foret, Kleiner, Mobahi and Neyshabur, 2021)."""

import torch

from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.vectors import Vector, norm, ratio, scaled


class SAMRandom(TwoPass):
    """The gradient at a random point of the sphere of radius ρ around w.

    ε = ρ·z/‖z‖₂ with z ~ N(0, I), and the base takes g_s = ∇L(w + ε). z is a function of the seed of the step and of
    the part.

    Args:
        base: the optimizer below.
        rho: radius ρ of the sphere, ≥ 0; 0 is the base alone.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Passes: 2. Memory: two vectors beside the base's.
    """

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε = ρ·z/‖z‖₂."""
        # drawn in the shapes alone: one order whatever the memory format
        z = self.perturbed([torch.randn(x.shape, dtype=x.dtype, device=x.device) for x in g])
        return scaled(z, ratio(self.rho, norm(z)))

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient is g_s."""
        return g_s
