"""Momentum-SAM (Becker et al., 2024): SAM that perturbs along the momentum of the base, without a second pass."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.terms import Terms
from sam_repro.optimizer.two_pass import Perturbing
from sam_repro.oracle import Oracle
from sam_repro.vectors import Vector, moved, norm, ratio, scaled

SLOTS = ("momentum_buffer", "exp_avg")
"""Where a base keeps its momentum: SGD and its kin, Adam and its kin."""


class MomentumSAM(Perturbing):
    """The gradient at w + ε, where ε goes against the momentum v that the base has from the steps before.

    1. ε = −ρ·v/‖v‖₂: the norm runs over all parameters, and where v = 0, as in the first step, ε = 0.
    2. g_s = ∇L(w + ε) is the only gradient, and the base steps with it from w. So its next v is μ·v + g_s + λ·(w + ε)
       for SGD with momentum μ and decay λ, and β₁·v + (1 − β₁)·g_s for AdamW, which decays w itself.

    The authors' code does the same, but leaves the weights at w + ε between the steps. Running statistics are those
    at w + ε, and so is the loss that a step returns.

    Args:
        base: the optimizer below, which keeps a momentum: SGD with momentum > 0, Adam, AdamW, LAMB.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        decay_at: where SGD reads its decay: "perturbed" (default) at w + ε, "clean" at w. Other bases read theirs at w.
        perturb: "all" (default), "no_norm" or "only_norm": see `Perturbing`.

    Raises:
        ValueError: if an argument is outside of what is said here, or the base keeps no momentum.

    Passes: 1. Memory: two vectors (the saved weights and ε) beside the base's.
    """

    first_loss_is_clean = False
    reads_base_state = True

    def __init__(self, base: Optimizer, rho: float, decay_at: str = "perturbed", perturb: str = "all") -> None:
        limits.choice("decay_at", decay_at, ("perturbed", "clean"))
        super().__init__(base, rho, perturb)
        self.decay_at = decay_at
        for group in base.param_groups:
            if not group.get("momentum") and "betas" not in group:
                raise _without_momentum(base)

    def terms(self, oracle: Oracle, phase: str) -> Terms:
        """∇L(w + ε), which moves the running statistics."""
        with moved(self.params, by=self.climb(self.momentum()), backup=self.backup()):
            return {"g_s": oracle.gradient(self.params)._replace(at="w+ε")}

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε = −ρ·v/‖v‖₂, where `g` is v."""
        return scaled(g, -ratio(self.rho, norm(g)))

    def combine(self, g_s: Vector) -> Vector:
        """The gradient is g_s, and λ·ε beside it where SGD would read its decay at w."""
        if self.decay_at == "clean" or not isinstance(self.base, torch.optim.SGD):
            return g_s
        groups = self.base.param_groups
        decays = [group["weight_decay"] for group in groups for p in group["params"] if p.requires_grad]
        return list(torch._foreach_add(g_s, torch._foreach_mul(self.climb(self.momentum()), decays)))

    def momentum(self) -> Vector:
        """v, and 0 where the base has taken no step yet."""
        return [self._momentum_of(p) for p in self.params]

    def _momentum_of(self, p: Tensor) -> Tensor:
        state = self.base.state.get(p)
        if not state:
            return torch.zeros_like(p, requires_grad=False)
        for slot in SLOTS:
            if slot in state:
                return state[slot]
        raise _without_momentum(self.base)


def _without_momentum(base: Optimizer) -> ValueError:
    return ValueError(
        f"base: this {type(base).__name__} keeps no momentum, against which momentum_sam perturbs; give SGD a "
        "momentum > 0, or take AdamW"
    )
