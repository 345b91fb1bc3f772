"""Mixup: images and labels are mixed in pairs."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

from sam_repro import limits
from sam_repro.augmentation.transform import Draws, Transform


@dataclass(eq=False)
class Mixup(Transform):
    """λ·x + (1 − λ)·x′ for each input x and target, λ = max(l, 1 − l) ≥ ½, l ~ Beta(α, α) (Zhang et al., 2018).

    x′ is the partner in the reversed batch, as in the code of Foret et al. 2021; the order of a batch is random, so
    partners are. Because λ ≥ ½, the heavier label is the input's own.

    Args:
        alpha: α ≥ 0; default 1, l uniform. The larger, the closer l to ½; 0 draws nothing.
        per: "batch" (default), one λ for all, or "image", one for each.

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    places: ClassVar[tuple[str, ...]] = ("inputs",)
    alpha: float = 1.0
    per: str = "batch"

    def __post_init__(self) -> None:
        limits.number("alpha", self.alpha, low=0)
        limits.choice("per", self.per, ("image", "batch"))

    @property
    def is_off(self) -> bool:
        """Whether nothing is mixed."""
        return self.alpha == 0

    def draw(self, images: Tensor, generator: Generator) -> Draws:
        """λ, [B] or, per batch, [1], float32."""
        count = len(images) if self.per == "image" else 1
        alpha = torch.full((2, count), self.alpha + 1, dtype=torch.float64, device=generator.device)
        # A variable of Γ(α) is one of Γ(α + 1) times U^(1/α); the quotient of two is taken of their logarithms, because
        # with a small α both are too small for a float. (torch.distributions take no generator.)
        gammas = torch._standard_gamma(alpha, generator=generator).log()
        powers = torch.empty_like(gammas).exponential_(generator=generator) / self.alpha
        share = torch.sigmoid(gammas[0] - gammas[1] + powers[1] - powers[0])
        return (torch.maximum(share, 1 - share).float(),)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The mixed inputs [B, C, H, W]."""
        (share,) = draws
        return torch.lerp(images.flip(0), images, share[:, None, None, None])

    def relabel(self, targets: Tensor, draws: Draws, num_classes: int) -> Tensor:
        """The mixed targets: probabilities [B, num_classes], float32."""
        (share,) = draws
        if targets.dim() == 1:
            targets = functional.one_hot(targets, num_classes).float()
        return torch.lerp(targets.flip(0), targets, share[:, None])
