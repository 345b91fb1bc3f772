"""ASAM (Kwon, Kim, Park and Choi, 2021): SAM whose ball is measured in units of the weights."""

import torch
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.vectors import Vector, norm, ratio, scaled


class ASAM(TwoPass):
    """The gradient at the approximate worst point of the ball ‖T⁻¹ε‖₂ ≤ ρ, with T = |w| + η element by element.

    ε = ρ·T²g/‖Tg‖₂, g_s = ∇L(w + ε), and the base takes g_s. Where Tg = 0, ε = 0. The radius is not comparable with
    SAM's: here it is relative to the weights.

    Args:
        base: the optimizer below.
        rho: radius ρ, ≥ 0; 0 is the base alone.
        eta: η ≥ 0, default 0: how much of the ball does not depend on the weights.
        adapt: "all" (default): T is of all parameters, biases and norms included. "weights", as the authors' code has
            it: T = 1 for parameters without "weight" in their name, which the groups' `param_names` hold.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Raises:
        ValueError: if an argument is outside of what is said here, or `adapt` needs names that the base lacks.

    Passes: 2. Memory: two vectors beside the base's, and two more while ε is made.
    """

    def __init__(self, base: Optimizer, rho: float, eta: float = 0.0, adapt: str = "all", perturb: str = "all") -> None:
        limits.number("eta", eta, low=0)
        limits.choice("adapt", adapt, ("all", "weights"))
        super().__init__(base, rho, perturb)
        self.eta = eta
        self.adapt = adapt
        if adapt == "weights" and not all("param_names" in group for group in base.param_groups):
            raise ValueError(
                "adapt = weights: every group of the base needs param_names; parameter_groups sets them, as does a "
                "base that is given model.named_parameters()"
            )

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε = ρ·T²g/‖Tg‖₂."""
        t = self._scales(w)
        tg = torch._foreach_mul(t, g)
        return scaled(torch._foreach_mul(t, tg), ratio(self.rho, norm(tg)))

    def _scales(self, w: Vector) -> Vector:
        """T."""
        t = list(torch._foreach_add(torch._foreach_abs(w), self.eta))
        if self.adapt == "all":
            return t
        names = [
            name
            for group in self.base.param_groups
            for name, p in zip(group["param_names"], group["params"], strict=True)
            if p.requires_grad
        ]
        return [x if "weight" in name else torch.ones_like(x) for x, name in zip(t, names, strict=True)]

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient is g_s."""
        return g_s
