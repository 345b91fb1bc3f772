"""SGDHESS (Luong, Empirical Study on Sharpness-Aware Minimization, 2024): curvature at w instead of a second pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.cost import Cost
from sam_repro.optimizer.rule import Rule
from sam_repro.optimizer.terms import Terms
from sam_repro.oracle import Oracle, Term, products
from sam_repro.vectors import Vector, rademacher, scaled


class SGDHess(Rule):
    """The gradient, and ρ times what the curvature at w makes of it; no weight is moved for it.

    With G the Gauss–Newton matrix and H the Hessian of the mean loss, `curvature` says what the base takes:

    * `gauss_newton`: g + ρGg. This is what the text of the study says.
    * `hessian`: g + ρHg, the first two terms of ∇L(w + ρg).
    * `gauss_newton_diagonal`: g ⊙ (1 + ρd), where d = (JᵀL^½u)² estimates diag G without bias from independent signs
      u, one for each output of each example.
    * `hutchinson_abs`: g ⊙ (1 + ρ|Hv|) with signs v that are the same for all parts of a batch. Where a parameter has
      four dimensions, |Hv| is replaced by its mean over the last two. This is what the code of the study ran, with
      period 1. |Hv| is neither diag H nor Gauss–Newton: all of a row of H goes into it.

    Along an eigenvector of G with eigenvalue λ the step is 1 + ρλ times that of the base alone, so on a quadratic loss
    it overshoots where lr·λ·(1 + ρλ) > 2. Deep networks are so sharp at a random start that the first step can end a
    run (ResNet-101 on four random inputs: gᵀGg = 5·10⁵·gᵀg): choose a smaller lr, or clip_norm.

    No factor of the last two is less than 1. With `m`, each part's g, and its Gg, Hg, d or |Hv|, are of its own mean
    loss; both are averaged over the parts before they are combined. Weight decay in the loss is refused.

    Args:
        base: the optimizer below.
        rho: weight ρ of the curvature, ≥ 0; 0 is the base alone. Kept as the float64 0-dim tensor `rho`, which a
            schedule may fill.
        curvature: "gauss_newton" (default), "hessian", "gauss_newton_diagonal" or "hutchinson_abs".
        period: steps between refreshes of d or |Hv|, default 1; from step 0 on, steps in between take the last one.

    Raises:
        ValueError: if an argument is outside of what is said here, or `period` > 1 has no diagonal to keep.

    Passes: 1. Products: 1 where the curvature is refreshed, else 0; the forward and backward pass of d are one product.
    Memory: two vectors and the graph of a product beside the base's; d also takes B·C² numbers for C outputs, and a
    `period` > 1 one vector.
    """

    allows_decay_in_loss = False

    def __init__(self, base: Optimizer, rho: float, curvature: str = "gauss_newton", period: int = 1) -> None:
        limits.radius("rho", rho)
        limits.choice("curvature", curvature, (*PRODUCTS, *DIAGONALS))
        limits.period("period", period)
        if period > 1 and curvature not in DIAGONALS:
            raise ValueError(
                f"period = {period}: {curvature} has no diagonal to keep; choose period=1, or "
                f"curvature={' or '.join(DIAGONALS)}"
            )
        super().__init__(base)
        self.rho: Tensor = torch.tensor(rho, dtype=torch.float64, device=self.params[0].device)
        self.curvature = curvature
        # the others: forward mode through batch norm, eigenvalues, signs from a generator of their own
        self.capturable = curvature == "hessian"
        self.period = period
        if period > 1:
            self.memory["diagonal"] = [torch.zeros_like(p, requires_grad=False) for p in self.params]

    def phase(self, step: int) -> str:
        """A refresh every `period`-th step."""
        return "refresh" if step % self.period == 0 else "reuse"

    def terms(self, oracle: Oracle, phase: str) -> Terms:
        """∇L(w), and in a refresh Gg, Hg, d or |Hv|."""
        w = self.params
        g = oracle.gradient(w)
        if phase == "reuse":
            return {"g": g}
        return {"g": g, "curved": Term((PRODUCTS | DIAGONALS)[self.curvature](oracle, w, g.vector))}

    def combine(self, g: Vector, curved: Vector | None = None) -> Vector:
        """The gradient is g + ρ·curved, or g ⊙ (1 + ρ·curved) with a diagonal: the last one where none comes."""
        weighted = scaled(self.memory["diagonal"] if curved is None else curved, self.rho)
        if self.curvature in DIAGONALS:
            return list(torch._foreach_mul(g, torch._foreach_add(weighted, 1.0)))
        return list(torch._foreach_add(g, weighted))

    def remember(self, g: Vector, curved: Vector | None = None) -> None:
        """Keep a diagonal for the steps in which none comes."""
        if curved is not None and "diagonal" in self.memory:
            torch._foreach_copy_(self.memory["diagonal"], curved)

    def cost(self, step: int) -> Cost:
        """One pass, and one product in a refresh."""
        return Cost(passes=1, products=int(self.phase(step) == "refresh"))

    @property
    def cycle(self) -> int:
        """The period."""
        return self.period


def _gauss_newton(oracle: Oracle, w: Vector, g: Vector) -> Vector:
    return products.ggn_vp(oracle, w, g)


def _hessian(oracle: Oracle, w: Vector, g: Vector) -> Vector:
    return products.hvp(oracle, w, g)


def _gauss_newton_diagonal(oracle: Oracle, w: Vector, g: Vector) -> Vector:
    return products.ggn_diagonal(oracle, w)


def _hutchinson_abs(oracle: Oracle, w: Vector, g: Vector) -> Vector:
    """|Hv|, averaged over the two spatial dimensions of a kernel."""
    diagonal = products.hvp(oracle, w, rademacher(w, oracle.shared_generator()))
    torch._foreach_abs_(diagonal)
    for x in diagonal:
        if x.ndim == 4:
            x.copy_(x.mean(dim=(2, 3), keepdim=True))
    return diagonal


Curvature = Callable[[Oracle, Vector, Vector], Vector]
PRODUCTS: dict[str, Curvature] = {"gauss_newton": _gauss_newton, "hessian": _hessian}
DIAGONALS: dict[str, Curvature] = {
    "gauss_newton_diagonal": _gauss_newton_diagonal,
    "hutchinson_abs": _hutchinson_abs,
}
