"""Rules that look at w + ε: what SAM and its relatives share."""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.cost import Cost
from sam_repro.optimizer.rule import Rule
from sam_repro.optimizer.terms import Terms
from sam_repro.oracle import Oracle, Term
from sam_repro.vectors import Vector, moved, norm, ratio, scaled


class Perturbing(Rule):
    """A rule that takes a gradient at w + ε, wherever ε is from (abstract).

    Args:
        base: the optimizer below.
        rho: radius ρ of the perturbation, ≥ 0. Kept as the float64 0-dim tensor `rho`, which a schedule may fill.
        perturb: "all" (default); "no_norm" leaves out the parameters of normalisations, "only_norm" moves them alone.
            They are those in groups with the flag `norm`, which `parameter_groups` sets.

    Raises:
        ValueError: if an argument is outside of what is said here, or no group is flagged as `perturb` needs it.

    Memory: the saved weights beside the base's.
    """

    def __init__(self, base: Optimizer, rho: float, perturb: str = "all") -> None:
        limits.radius("rho", rho)
        limits.choice("perturb", perturb, ("all", "no_norm", "only_norm"))
        super().__init__(base)
        self.rho: Tensor = torch.tensor(rho, dtype=torch.float64, device=self.params[0].device)
        self.perturb = perturb
        self._refuse_groups_without_flag()

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε, the perturbation of the weights `w` where the gradient is `g`: SAM's ρ·g/‖g‖₂, and 0 where g = 0.

        Of what `perturb` leaves out, `g` is 0, so that norms are over what moves, and ε is not used. Vectors of the
        rule's own, such as an average in `memory`, enter as `self.perturbed(a)` for the same reason.
        """
        return scaled(g, ratio(self.rho, norm(g)))

    def at_top(self, oracle: Oracle, g: Vector) -> Term:
        """∇L(w + ε) with the ε of `g`, which does not move the running statistics."""
        with moved(self.params, by=self.climb(g), backup=self.backup()):
            return oracle.gradient(self.params, update_statistics=False)._replace(at="w+ε")

    @torch.no_grad()
    def climb(self, g: Vector) -> Vector:
        """The ε of `g`, 0 where the weights are not perturbed."""
        return self.perturbed(self.ascent(self.perturbed(g), self.params))

    def perturbed(self, a: Vector) -> Vector:
        """`a` where the weights are perturbed, and zeros elsewhere."""
        if self.perturb == "all":
            return a
        wanted = self.perturb == "only_norm"
        groups = self.base.param_groups
        moves = [group["norm"] == wanted for group in groups for p in group["params"] if p.requires_grad]
        return [x if moving else torch.zeros_like(x) for x, moving in zip(a, moves, strict=True)]

    def _refuse_groups_without_flag(self) -> None:
        flags = [group.get("norm") for group in self.base.param_groups]
        wanted = self.perturb == "only_norm"
        if self.perturb != "all" and (None in flags or wanted not in flags):
            raise ValueError(
                f"perturb = {self.perturb}: every group of the base needs the flag norm, and one must have {wanted}; "
                "parameter_groups sets it"
            )


class TwoPass(Perturbing):
    """A rule with a gradient at w and one at w + ε: SAM and its relatives (abstract).

    Args:
        base: the optimizer below.
        rho: radius ρ of the perturbation, ≥ 0.
        perturb: "all" (default), "no_norm" or "only_norm": see `Perturbing`.

    Memory: two vectors (the saved weights, and g while it is needed) beside the base's.
    """

    @abstractmethod
    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient for the base, from g = ∇L(w) and g_s = ∇L(w + ε)."""

    def terms(self, oracle: Oracle, phase: str) -> Terms:
        """∇L(w), which moves the running statistics, and ∇L(w + ε), which does not."""
        g = oracle.gradient(self.params)
        return {"g": g, "g_s": self.at_top(oracle, g.vector)}

    def cost(self, step: int) -> Cost:
        """Two passes."""
        return Cost(passes=2)

    cycle = 1
