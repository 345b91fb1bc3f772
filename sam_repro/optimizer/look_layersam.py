"""Look-LayerSAM (Liu, Mai, Chen, Hsieh and You, 2022): LookSAM with a perturbation that is scaled layer by layer."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.looksam import Look
from sam_repro.vectors import Vector, norm, norms, ratio, scaled

FORMULAS = ("layer_wg", "layer_wg_globalnorm", "layer_unit")


class LookLayerSAM(Look):
    """LookSAM whose perturbation is scaled layer by layer, for large batches; a layer l is a parameter tensor.

    The published descriptions disagree and none is confirmed: always report which formula was used. With
    λ_l = ‖w_l‖/‖g_l‖, and λ_l = 1 where w_l = 0 (a fresh bias), as LAMB has it,

    * "layer_wg": ε_l = ρ·λ_l·g_l, of length ρ·‖w_l‖;
    * "layer_wg_globalnorm": ε_l = ρ·λ_l·g_l/‖g‖;
    * "layer_unit": ε_l = ρ·g_l/‖g_l‖, of length ρ.

    Then g_s = ∇L(w + ε), g_v and the steps between are LookSAM's, over all parameters. Where g_l = 0, ε_l = 0.

    Args:
        base: the optimizer below.
        rho: ρ ≥ 0, not comparable between formulas, nor with SAM's; 0 is the base alone.
        period: k ≥ 1, default 5.
        alpha: α ≥ 0, default 0.7.
        formula: as above, default "layer_wg".
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
        formula: str = "layer_wg",
        perturb: str = "all",
    ) -> None:
        limits.choice("formula", formula, FORMULAS)
        super().__init__(base, rho, period, alpha, perturb=perturb)
        self.formula = formula

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε_l, a multiple of g_l for each layer."""
        lengths = torch.stack(norms(g))
        if self.formula == "layer_unit":
            return scaled(g, ratio(self.rho, lengths))
        trust = _trust(torch.stack(norms(w)), lengths)
        if self.formula == "layer_wg":
            return scaled(g, self.rho * trust)
        return scaled(g, trust * ratio(self.rho, norm(g)))


def _trust(weights: Tensor, gradients: Tensor) -> Tensor:
    """λ = ‖w_l‖/‖g_l‖, and 1 where w_l = 0."""
    return torch.where(weights > 0, ratio(weights, gradients), 1.0)
