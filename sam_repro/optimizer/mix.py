"""The direction of one gradient with the magnitude of another: what SAM-direction and SAM-magnitude share."""

import torch
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.two_pass import TwoPass
from sam_repro.vectors import Vector, norm, norms, ratio, scaled


def global_mix(direction: Vector, magnitude: Vector) -> Vector:
    """b·(‖a‖/‖b‖), direction b and magnitude a of all tensors as one vector; 0 where b = 0."""
    return scaled(direction, ratio(norm(magnitude), norm(direction)))


def tensor_mix(direction: Vector, magnitude: Vector) -> Vector:
    """b·(‖a‖/‖b‖) for each tensor by itself; 0 where b = 0."""
    return scaled(direction, ratio(torch.stack(norms(magnitude)), torch.stack(norms(direction))))


def element_mix(direction: Vector, magnitude: Vector) -> Vector:
    """sign(b)·|a| element by element, with sign(0) = 0."""
    mixed = list(torch._foreach_abs(magnitude))
    torch._foreach_mul_(mixed, torch._foreach_sign(direction))
    torch._foreach_add_(mixed, direction, alpha=0)  # 0·b: torch's sign of NaN is 0, which would hide it
    return mixed


SCOPES = {"global": global_mix, "tensor": tensor_mix, "element": element_mix}


class Mix(TwoPass):
    """Takes the direction of one of g = ∇L(w) and g_s = ∇L(w + ε), and the magnitude of the other (abstract).

    ε = ρ·g/‖g‖₂, as SAM's. Both gradients are meant without weight decay.

    Args:
        base: the optimizer below.
        rho: radius ρ of the ball, ≥ 0; 0 is the base alone.
        scope: what has a direction and a magnitude: "global" (default) all parameters as one vector, "tensor" each
            tensor, "element" each number, which has a sign and an absolute value.
        perturb: "all" (default), "no_norm" or "only_norm": see `TwoPass`.
    """

    allows_decay_in_loss = False

    def __init__(self, base: Optimizer, rho: float, scope: str = "global", perturb: str = "all") -> None:
        limits.choice("scope", scope, tuple(SCOPES))
        super().__init__(base, rho, perturb)
        self.scope = scope

    def mixed(self, direction: Vector, magnitude: Vector) -> Vector:
        """The direction of one with the magnitude of the other, in the rule's scope."""
        return SCOPES[self.scope](direction, magnitude)
