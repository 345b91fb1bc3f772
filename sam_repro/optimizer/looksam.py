"""LookSAM (Liu, Mai, Chen, Hsieh and You, 2022): Algorithm 1."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.periodic import Periodic
from sam_repro.vectors import Vector, dot, dots, norm, norms, ratio, scaled


class Look(Periodic):
    """Algorithm 1 whatever ε is: the part of g_s across g, computed in every k-th step, serves the steps between.

    Refresh, in steps 0, k, 2k, …: the gradient is g_s = ∇L(w + ε), and g_v = g_s − (⟨g_s, g⟩/⟨g, g⟩)·g is kept.
    Reuse, in the others: the gradient is g + α·(‖g‖/‖g_v‖)·g_v. Where g_v was nothing but rounding (‖g_v‖ ≤ 1e-5·‖g_s‖,
    1e-12 for float64 weights), it is g (abstract).

    Args:
        base: the optimizer below.
        rho: radius ρ of the perturbation, ≥ 0.
        period: k ≥ 1.
        alpha: α ≥ 0.
        scope: "global": norms and products over all parameters; "tensor": of each tensor by itself.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.
    """

    def __init__(
        self, base: Optimizer, rho: float, period: int, alpha: float, scope: str = "global", perturb: str = "all"
    ) -> None:
        limits.number("alpha", alpha, low=0)
        limits.choice("scope", scope, ("global", "tensor"))
        super().__init__(base, rho, period, perturb)
        self.alpha = alpha
        self.scope = scope
        self.memory["g_v"] = [torch.zeros_like(p, requires_grad=False) for p in self.params]

    def combine(self, g: Vector, g_s: Vector | None = None) -> Vector:
        """The gradient is g_s; without a second pass g + α·(‖g‖/‖g_v‖)·g_v."""
        if g_s is not None:
            return g_s
        g_v = self.memory["g_v"]
        return list(torch._foreach_add(g, scaled(g_v, self.alpha * ratio(self._norm(g), self._norm(g_v)))))

    def remember(self, g: Vector, g_s: Vector | None = None) -> None:
        """Keep g_v of a second pass, or 0 where it is rounding alone."""
        if g_s is None:
            return
        g_v = list(torch._foreach_sub(g_s, scaled(g, ratio(self._dot(g_s, g), self._dot(g, g)))))
        rounding = 1e-12 if g[0].dtype == torch.float64 else 1e-5
        seen = self._norm(g_v) > rounding * self._norm(g_s)
        torch._foreach_copy_(self.memory["g_v"], scaled(g_v, seen.double()))

    def _norm(self, a: Vector) -> Tensor:
        return norm(a) if self.scope == "global" else torch.stack(norms(a))

    def _dot(self, a: Vector, b: Vector) -> Tensor:
        return dot(a, b) if self.scope == "global" else torch.stack(dots(a, b))


class LookSAM(Look):
    """SAM in every k-th step; between them g with the last SAM gradient's part across g.

    ε = ρ·g/‖g‖₂ over all parameters and g_s = ∇L(w + ε) in steps 0, k, 2k, …, with g_v = g_s − (⟨g_s, g⟩/⟨g, g⟩)·g,
    which is g_s − ‖g_s‖·cos θ·g/‖g‖; else g + α·(‖g‖/‖g_v‖)·g_v (Algorithm 1). Where ‖g_v‖ ≤ 1e-5·‖g_s‖ (1e-12 for
    float64 weights) g_v is rounding, and the gradient is g.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        period: k ≥ 1, default 5; 1 is SAM.
        alpha: α ≥ 0, default 0.7, the published one; 0 is SAM-k. The reused part always has length α·‖g‖, even if g_v
            was tiny. For convolutional networks, published re-implementations use 0.1.
        scope: "global" (default): norms and products over all parameters, or "tensor": of each tensor by itself, as
            some implementations have it; ε is over all parameters in both.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Passes: 2 in every k-th step, else 1; 1 + 1/k in the mean. Memory: three vectors beside the base's, and
    one more in a step of two.
    """

    def __init__(
        self,
        base: Optimizer,
        rho: float,
        period: int = 5,
        alpha: float = 0.7,
        scope: str = "global",
        perturb: str = "all",
    ) -> None:
        super().__init__(base, rho, period, alpha, scope, perturb)
