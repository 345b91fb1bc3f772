"""SAM-masked (Luong, 2024): SAM's gradient in some elements, chosen by how it compares with SGD's."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.vectors import Vector


class SAMMasked(TwoPass):
    """Some elements take scale·g_s, chosen by the class of r = g_s/g, and the rest take g, or g_s.

    g = ∇L(w), g_s = ∇L(w + ε), ε = ρ·g/‖g‖₂, and for each element by itself: class 1: r > 1, 2: 0 < r < 1, 3: r < −1,
    4: −1 < r < 0. Elements on a boundary (g_s = ±g, g_s = 0) and those with g = 0 have no class and belong to the rest.
    Nothing is divided: signs and sizes are compared.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        classes: the chosen ones, distinct, of 1 … 4.
        scale: factor c ≥ 0 on g_s in the chosen classes, default 1.
        rest: what the other elements take, "sgd" (default) g, or "sam" g_s.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.

    Passes: 2. Memory: two vectors beside the base's, and one more while they are combined.
    """

    def __init__(
        self,
        base: Optimizer,
        rho: float,
        classes: Sequence[int],
        scale: float = 1.0,
        rest: str = "sgd",
        perturb: str = "all",
    ) -> None:
        limits.integers("classes", classes, low=1, high=4)
        limits.number("scale", scale, low=0)
        limits.choice("rest", rest, ("sgd", "sam"))
        super().__init__(base, rho, perturb)
        self.classes = tuple(classes)
        self.scale = scale
        self.rest = rest

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """scale·g_s in the chosen classes, g or g_s in the rest."""
        rest = g if self.rest == "sgd" else g_s
        mixed = [torch.where(self._chosen(x, y), self.scale * y, r) for x, y, r in zip(g, g_s, rest, strict=True)]
        torch._foreach_add_(mixed, g_s, alpha=0)  # 0·g_s: what is not finite shows also where it is not taken
        return mixed

    def _chosen(self, g: Tensor, g_s: Tensor) -> Tensor:
        masks = ratio_classes(g, g_s)
        return reduce(torch.logical_or, (masks[k] for k in self.classes))


def ratio_classes(g: Tensor, g_s: Tensor) -> dict[int, Tensor]:
    """Masks of the elements in each class of r = g_s/g: 1: r > 1, 2: 0 < r < 1, 3: r < −1, 4: −1 < r < 0.

    r = q/|g| with q = sign(g)·g_s, so that q is compared with |g|: no division, and no product that may underflow.
    """
    size, q = g.abs(), g.sign() * g_s
    return {1: q > size, 2: (q > 0) & (q < size), 3: q < -size, 4: (q < 0) & (q > -size)}
