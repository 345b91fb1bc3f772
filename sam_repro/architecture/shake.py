"""Random gates on branches, other ones in the backward: Shake-Shake (Gastaldi 2017), ShakeDrop (Yamada et al. 2018).

All gates are drawn in the forward, those of the backward too, one for each example. So they are a function of the seed
of the pass, the same in all passes over a batch, in Hessian products and in a resumed run. What is differentiated is
x ↦ a·x₀ + b·(x − x₀) at x₀ = x: its value has the gate a, its derivatives, of any order, the gate b. With a ≠ b they
are no derivatives of the loss, and no difference quotient shows them.
"""

import torch
from torch import Tensor, nn

from sam_repro import limits


class ShakeShake(nn.Module):
    """α·x + (1 − α)·y, α ~ U(0, 1); the derivative has β ~ U(0, 1) in place of α; in evaluation ½x + ½y.

    Args:
        backward: `drawn` (default), or `same`, where β is α.

    Raises:
        ValueError: another `backward`.
    """

    def __init__(self, backward: str = "drawn") -> None:
        super().__init__()
        limits.choice("backward", backward, ("drawn", "same"))
        self.backward_is_drawn = backward == "drawn"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The mixture of two branches [B, C, H, W]."""
        if not self.training:
            return 0.5 * (x + y)
        alpha = _uniform(x)
        beta = _uniform(x) if self.backward_is_drawn else alpha
        return y + _gated(x - y, alpha, beta)


class ShakeDrop(nn.Module):
    """(m + α − mα)·x, m ~ Bernoulli(p), α ~ U(−1, 1); the derivative has β ~ U(0, 1) for α; in evaluation p·x.

    Equation 6 of Yamada et al. 2018; p·x is the expectation, as that of α is 0.

    Args:
        p: the probability that x passes unchanged, in [0, 1].
        backward: `drawn` (default), or `same`, where β is α.

    Raises:
        ValueError: an argument is outside its limits.
    """

    def __init__(self, p: float, backward: str = "drawn") -> None:
        super().__init__()
        limits.share("p", p)
        limits.choice("backward", backward, ("drawn", "same"))
        self.p = p
        self.backward_is_drawn = backward == "drawn"

    def forward(self, x: Tensor) -> Tensor:
        """A branch [B, C, H, W], gated."""
        if not self.training:
            return self.p * x
        passes, alpha = _uniform(x) < self.p, 2 * _uniform(x) - 1
        beta = _uniform(x) if self.backward_is_drawn else alpha
        return _gated(x, torch.where(passes, 1.0, alpha), torch.where(passes, 1.0, beta))


def _uniform(x: Tensor) -> Tensor:
    """A number in [0, 1) for each example, the same whatever the precision of x is."""
    return torch.rand(len(x), 1, 1, 1, dtype=torch.float32, device=x.device)


def _gated(x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Forward · x, with the derivatives of backward · x."""
    here = x.detach()
    return forward.to(x.dtype) * here + backward.to(x.dtype) * (x - here)
