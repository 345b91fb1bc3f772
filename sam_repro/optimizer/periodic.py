"""Rules that climb in every k-th step only."""

from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.cost import Cost
from sam_repro.optimizer.terms import Terms
from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.oracle import Oracle


class Periodic(TwoPass):
    """Two passes in steps 0, k, 2k, … ("refresh"), and in the others g alone ("reuse"; abstract).

    So `combine` is called with g and g_s, or with g.

    Args:
        base: the optimizer below.
        rho: radius ρ of the perturbation, ≥ 0.
        period: k ≥ 1; 1 climbs in every step.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.
    """

    def __init__(self, base: Optimizer, rho: float, period: int, perturb: str = "all") -> None:
        limits.period("period", period)
        super().__init__(base, rho, perturb)
        self.period = period

    def phase(self, step: int) -> str:
        """Refresh in every k-th step, from step 0 on."""
        return "refresh" if step % self.period == 0 else "reuse"

    def terms(self, oracle: Oracle, phase: str) -> Terms:
        """∇L(w), and in a refresh ∇L(w + ε)."""
        return super().terms(oracle, phase) if phase == "refresh" else {"g": oracle.gradient(self.params)}

    def cost(self, step: int) -> Cost:
        """Two passes in a refresh, else one."""
        return Cost(passes=2 if self.phase(step) == "refresh" else 1)

    @property
    def cycle(self) -> int:
        """The period."""
        return self.period
