"""MESA (Du et al., 2022): one pass, and a pull towards the outputs at the average of the weights so far."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.cost import Cost
from sam_repro.optimizer.trajectory import Trajectory
from sam_repro.oracle import Oracle
from sam_repro.vectors import moved


class MESA(Trajectory):
    """The gradient of L(w) + λT²·KL(softmax(z̄/T) ‖ softmax(z/T)), with outputs z at w and z̄ at the average w̄.

    1. z̄ are the outputs of the batch at w̄, a constant.
    2. g = ∇[L(w) + λT²·KL], where KL is the mean over the examples, and the base steps along g.
    3. w̄ ← β·w̄ + (1 − β)·w after the step; at first w̄ = w.

    The pass at w̄ is like that at w: batch norm has the statistics of the batch, and dropout the same masks. The
    authors' code has w̄ in evaluation mode there, with averaged running statistics, and tests w̄; here w is tested.

    Args:
        base: the optimizer below.
        strength: λ ≥ 0, default 0.8; 0 is the base alone.
        temperature: T > 0, default 5.
        decay: β in [0, 1], default 0.9998.
        start: steps before the first with KL, ≥ 0, default 0; w̄ is averaged from the first step on.

    Raises:
        ValueError: if an argument is outside of what is said here.

    Passes: 1, and 1 forward from step `start` on. Memory: two vectors (w̄ − w and the saved weights) beside the base's.
    """

    def __init__(
        self,
        base: Optimizer,
        strength: float = 0.8,
        temperature: float = 5.0,
        decay: float = 0.9998,
        start: int = 0,
    ) -> None:
        limits.share("decay", decay)
        limits.integer("start", start, low=0)
        super().__init__(base, strength, temperature)
        self.decay = decay
        self.start = start
        self.memory["lag"] = [torch.zeros_like(p, requires_grad=False) for p in self.params]  # w̄ − w

    def earlier(self, oracle: Oracle, phase: str) -> Tensor | None:
        """softmax(z̄/T) from the start on."""
        if phase == "plain":
            return None
        with moved(self.params, by=self.memory["lag"], backup=self.backup()):
            return self.probabilities(oracle.predict())

    @torch.no_grad()
    def move(self) -> None:
        """The base's step, and w̄ follows."""
        lag = self.memory["lag"]
        torch._foreach_add_(lag, self.params)  # w̄
        super().move()
        torch._foreach_sub_(lag, self.params)
        torch._foreach_mul_(lag, self.decay)

    def phase(self, step: int) -> str:
        """Without KL before the start, with it from there."""
        return "plain" if step < self.start else "full"

    def cost(self, step: int) -> Cost:
        """One pass, and one forward from the start on."""
        return Cost(forwards=int(step >= self.start))

    def total_cost(self, steps: int) -> Cost:
        """What the first `steps` steps of a run cost."""
        return Cost(passes=steps, forwards=max(steps - self.start, 0))
