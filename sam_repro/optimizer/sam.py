"""SAM (Foret, Kleiner, Mobahi and Neyshabur, 2021): Algorithm 1, and the variants that the paper names."""

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.rule import Cost, Terms, TwoPass
from sam_repro.oracle import Oracle, Term, products
from sam_repro.vectors import Vector, dot, moved, norm, ratio, scaled


class SAM(TwoPass):
    """The gradient at the approximate worst point of the ball of radius ρ around w.

    ε = ρ·g/‖g‖₂ (eq. 2 for p = 2), g_s = ∇L(w + ε), and the base takes g_s (Algorithm 1). The norm runs over all
    parameters; where g = 0, ε = 0. ε is a constant: it is not differentiated.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        p: the ball's norm, default 2: a number > 1, or ∞ (`math.inf` or "inf"). In full, eq. 2 is
            ε = ρ·sign(g)·|g|^(q−1)/(‖g‖_q^q)^(1/p) with 1/p + 1/q = 1.
        ascent_steps: n, default 1. For more, p is 2 or ∞: n steps of length ρ, each up the gradient where the last
            one ended, and back to the nearest point of the ball.
        ascent: "gradient" (default), or "random": ε = ρ·z/‖z‖₂ with z ~ N(0, I), the control of Figure 6. z is a
            function of the seed of the step and of the part.
        second_order: default false: ε is a constant. True: ε is differentiated too, which adds the term that section 2
            drops, (ρ/‖g‖)·H(I − uuᵀ)g_s with u = g/‖g‖ and H = ∇²L(w); for p = 2, n = 1 and the gradient's ascent.
        perturb: "all" (default); "no_norm" leaves out the parameters of normalisations, "only_norm" moves them alone.
            They are those in groups with the flag `norm`, which `parameter_groups` sets. ‖g‖ is over what moves.

    Raises:
        ValueError: if an argument is outside of what is said here, or no group is flagged as `perturb` needs it.

    Passes: n + 1, and with `second_order` one Hessian product. Memory: two vectors beside the base's; one more for
    n > 1, and two and the graph of a gradient for the product.
    """

    def __init__(
        self,
        base: Optimizer,
        rho: float,
        p: float | str = 2,
        ascent_steps: int = 1,
        ascent: str = "gradient",
        second_order: bool = False,
        perturb: str = "all",
    ) -> None:
        limits.order("p", p)
        limits.count("ascent_steps", ascent_steps)
        limits.choice("ascent", ascent, ("gradient", "random"))
        limits.boolean("second_order", second_order)
        limits.choice("perturb", perturb, ("all", "no_norm", "only_norm"))
        super().__init__(base, rho)
        self.p = float(p)
        self.ascent_steps = ascent_steps
        self.random = ascent == "random"
        self.second_order = second_order
        self.perturb = perturb
        self.capturable = not second_order
        self._refuse_what_does_not_fit()

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε = ρ·g/‖g‖₂; for another p eq. 2 in full, and with `random` z in the place of g."""
        g = self._perturbed(_normal_like(g) if self.random else g)
        if self.p != 2:
            return scaled(_steepest(g, self.p), self.rho)
        return scaled(g, ratio(self.rho, norm(g)))

    def combine(self, g: Vector, g_s: Vector, hg: Vector | None = None) -> Vector:
        """The gradient is g_s, plus the term of second order if there is one."""
        # g_s first: a Hessian product has strides of its own, and the gradient must have those of the weights
        return g_s if hg is None else list(torch._foreach_add(g_s, hg))

    def terms(self, oracle: Oracle, phase: str) -> Terms:
        """∇L(w), and ∇L(w + ε) at the top of the ascent; between them the term of second order, if asked for."""
        first, top = super().terms(oracle, phase).values()
        if self.ascent_steps > 1:
            top = self._climbed(oracle, first.vector, top)
        if self.second_order:
            return {"g": first, "hg": self._through_epsilon(oracle, first.vector, top.vector), "g_s": top}
        return {"g": first, "g_s": top}

    def cost(self, step: int) -> Cost:
        """A pass for each step of the ascent, one at the top, and a product with `second_order`."""
        return Cost(passes=self.ascent_steps + 1, products=int(self.second_order))

    cycle = 1

    def _climbed(self, oracle: Oracle, g: Vector, top: Term) -> Term:
        """The gradient where the other steps of the ascent lead, from the top of the first."""
        w = self.params
        epsilon = self.ascent(g, w)
        for _ in range(self.ascent_steps - 1):
            step = self.ascent(top.vector, w)
            epsilon = _into_ball(list(torch._foreach_add(epsilon, step)), self.rho, self.p)
            with moved(w, by=epsilon, backup=self._backup()):
                top = oracle.gradient(w, update_statistics=False)._replace(at="w+ε")
        return top

    def _through_epsilon(self, oracle: Oracle, g: Vector, g_s: Vector) -> Term:
        """(∂ε/∂w)ᵀg_s = (ρ/‖g‖)·H(I − uuᵀ)g_s."""
        g, g_s = self._perturbed(g), self._perturbed(g_s)
        across = torch._foreach_sub(g_s, scaled(g, ratio(dot(g, g_s), dot(g, g))))
        return Term(scaled(products.hvp(oracle, self.params, across), ratio(self.rho, norm(g))))

    def _perturbed(self, a: Vector) -> Vector:
        """`a` where the weights are perturbed, and zeros elsewhere."""
        if self.perturb == "all":
            return a
        return [x if moves else torch.zeros_like(x) for x, moves in zip(a, self._moves(), strict=True)]

    def _moves(self) -> list[bool]:
        """Whether a parameter is perturbed where not all are."""
        wanted = self.perturb == "only_norm"
        return [group["norm"] == wanted for group in self.base.param_groups for p in group["params"] if p.requires_grad]

    def _refuse_what_does_not_fit(self) -> None:
        plain = self.p == 2 and self.ascent_steps == 1
        if self.ascent_steps > 1 and self.p not in (2, math.inf):
            raise ValueError(f"ascent_steps = {self.ascent_steps}: needs p = 2 or p = inf")
        if self.random and not plain:
            raise ValueError("ascent = random: needs p = 2 and ascent_steps = 1")
        if self.second_order and (self.random or not plain):
            raise ValueError("second_order = true: needs p = 2, ascent_steps = 1 and ascent = gradient")
        flags = [group.get("norm") for group in self.base.param_groups]
        wanted = self.perturb == "only_norm"
        if self.perturb != "all" and (None in flags or wanted not in flags):
            raise ValueError(
                f"perturb = {self.perturb}: every group of the base needs the flag norm, and one must have {wanted}; "
                "parameter_groups sets it"
            )


def _normal_like(a: Vector) -> Vector:
    """Independent N(0, 1) numbers in the shapes of `a`, in one order whatever the memory format."""
    return [torch.randn(x.shape, dtype=x.dtype, device=x.device) for x in a]


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
