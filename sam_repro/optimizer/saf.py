"""SAF (Du et al., 2022): one pass, and a pull towards the outputs that the same examples had some epochs ago."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.optimizer.trajectory import Trajectory
from sam_repro.oracle import Oracle


class SAF(Trajectory):
    """The gradient of L(w) + λT²·KL(softmax(z̄/T) ‖ softmax(z/T)), with outputs z at w and z̄ of E epochs ago.

    1. z̄ are the outputs that each example had when it was in a batch for the E-th last time, augmented as it was then.
    2. g = ∇[L(w) + λT²·KL], where KL is the mean over the examples, and the base steps along g.

    Examples that were in fewer than `start` batches, or than E, are not pulled: their KL is 0.

    Args:
        base: the optimizer below.
        examples: N ≥ 1, how many are numbered: rows are in [0, N).
        strength: λ ≥ 0, default 0.3; 0 is the base alone.
        temperature: T > 0, default 5.
        ago: E ≥ 1, in epochs, default 2.
        start: epochs without KL, ≥ 0, default 6, as the authors' code counts.

    Raises:
        ValueError: if an argument is outside of what is said here.

    Passes: 1. Memory: E·N outputs beside the base's, in the precision of the loss; for ImageNet and E = 2 these are
    10 GB. One process alone: another would remember other examples.
    """

    needs_rows = True

    def __init__(
        self,
        base: Optimizer,
        examples: int,
        strength: float = 0.3,
        temperature: float = 5.0,
        ago: int = 2,
        start: int = 6,
    ) -> None:
        limits.integer("examples", examples, low=1)
        limits.integer("ago", ago, low=1)
        limits.integer("start", start, low=0)
        super().__init__(base, strength, temperature)
        self.examples = examples
        self.ago = ago
        self.start = start
        here = self.params[0].device
        self.memory["visits"] = torch.zeros(examples, dtype=torch.int64, device=here)
        self.memory["earlier"] = torch.empty(0, device=here)  # [E, N, C, …], of zeros, from the first step on

    def earlier(self, oracle: Oracle, phase: str) -> Tensor | None:
        """softmax(z̄/T), and zeros for an example that is not pulled."""
        kept = self.memory["earlier"]
        if not kept.numel():
            return None
        visits = self.memory["visits"][oracle.rows]
        earlier = kept[visits % self.ago, oracle.rows]
        pulled = (visits >= self.start).to(earlier.dtype)
        return earlier * pulled.view(-1, *[1] * (earlier.ndim - 1))

    def remember_examples(self, rows: Tensor, outputs: Tensor) -> None:
        """Write softmax(z/T) in the place of what was read, and count the visit."""
        now = self.probabilities(outputs)
        if not self.memory["earlier"].numel():
            self.memory["earlier"] = now.new_zeros(self.ago, self.examples, *now.shape[1:])
        visits = self.memory["visits"][rows]
        self.memory["earlier"][visits % self.ago, rows] = now
        self.memory["visits"][rows] = visits + 1
