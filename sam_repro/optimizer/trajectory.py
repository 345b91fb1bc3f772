"""The trajectory loss (Du et al., 2022): a pull towards what the network said of the batch before."""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.rule import Rule
from sam_repro.optimizer.terms import Terms
from sam_repro.oracle import Auxiliary, Oracle
from sam_repro.vectors import Vector


class Trajectory(Rule):
    """The gradient of L(w) + λT²·KL(p̄ ‖ softmax(z/T)), with outputs z at w and earlier probabilities p̄ (abstract).

    Args:
        base: the optimizer below.
        strength: λ ≥ 0.
        temperature: T > 0.
    """

    def __init__(self, base: Optimizer, strength: float, temperature: float) -> None:
        limits.number("strength", strength, low=0)
        limits.number("temperature", temperature, above=0)
        super().__init__(base)
        self.strength = strength
        self.temperature = temperature

    @abstractmethod
    def earlier(self, oracle: Oracle, phase: str) -> Tensor | None:
        """p̄ of the batch, [B, …]; None for no pull, and zeros for an example that is not pulled."""

    def terms(self, oracle: Oracle, phase: str) -> Terms:
        """∇[L(w) + λT²·KL], a mean over the examples; the loss that is told is L(w)."""
        earlier = self.earlier(oracle, phase)
        pull = None if earlier is None else Auxiliary(self.divergence, earlier)
        return {"g": oracle.gradient(self.params, auxiliary=pull)}

    def combine(self, g: Vector) -> Vector:
        """The gradient is g."""
        return g

    def divergence(self, outputs: Tensor, earlier: Tensor) -> Tensor:
        """λT²·KL(p̄ ‖ softmax(z/T)), the mean over the examples."""
        kl = kl_div(log_softmax(outputs / self.temperature, dim=1), earlier, reduction="batchmean")
        return self.strength * self.temperature**2 * kl

    def probabilities(self, outputs: Tensor) -> Tensor:
        """softmax(z/T) of outputs [B, C, …]."""
        return softmax(outputs.to(torch.promote_types(outputs.dtype, torch.float32)) / self.temperature, dim=1)
