"""Random flip, left to right."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sam_repro import limits
from sam_repro.augmentation.transform import Draws, Transform


@dataclass(eq=False)
class Flip(Transform):
    """Each image is mirrored left to right with a probability.

    Args:
        probability: in [0, 1]; default ½, and 0 draws nothing.

    Raises:
        ValueError: if it is outside of what is said here.
    """

    places = ("pixels", "inputs")
    probability: float = 0.5

    def __post_init__(self) -> None:
        limits.share("probability", self.probability)

    @property
    def is_off(self) -> bool:
        """Whether no image is ever mirrored."""
        return self.probability == 0

    def draw(self, images: Tensor, generator: Generator) -> Draws:
        """Which images are mirrored, [B], bool."""
        return (torch.rand(len(images), generator=generator, device=generator.device) < self.probability,)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The chosen images mirrored, the others as they are."""
        (chosen,) = draws
        count = len(images)
        both = torch.cat([images, images.flip(-1)])  # whole images are picked, not pixel by pixel
        return both.index_select(0, torch.arange(count, device=images.device) + count * chosen)
