"""Cutout: a square of each image is lost."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sam_repro import limits
from sam_repro.augmentation.colour import per_channel
from sam_repro.augmentation.transform import Draws, Transform


@dataclass(eq=False)
class Cutout(Transform):
    """A square of the mean colour (DeVries and Taylor, 2017), its centre uniform over the image; it may overhang.

    It covers rows [row − ⌊size/2⌋, row − ⌊size/2⌋ + size) around its centre, and columns alike: an even one reaches one
    pixel further to the top and the left. After normalising the mean colour is exactly 0; before it is that of pixels,
    rounded.

    Args:
        size: side of the square in pixels, less than twice the image's; default 16, and 0 draws nothing.
        per: "image" (default), a square for each image, or "batch", one for all images of the batch.
        probability: that there is a square, in [0, 1], drawn per `per`; default 1.

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    places = ("pixels", "inputs")
    size: int = 16
    per: str = "image"
    probability: float = 1.0

    def __post_init__(self) -> None:
        limits.natural("size", self.size)
        limits.choice("per", self.per, ("image", "batch"))
        limits.share("probability", self.probability)

    @property
    def is_off(self) -> bool:
        """Whether the square has no size."""
        return self.size == 0

    def check(self, images: Tensor) -> None:
        """Refuse images that the square covers wherever its centre lies."""
        limits.integer("size", self.size, low=0, high=2 * min(images.shape[2:]) - 1)

    def draw(self, images: Tensor, generator: Generator) -> Draws:
        """Row and column of the centres, and which images are cut: each [B] or, per batch, [1]."""
        height, width = images.shape[2:]
        squares, device = (len(images) if self.per == "image" else 1,), generator.device
        row, column = (torch.randint(n, squares, generator=generator, device=device) for n in (height, width))
        return row, column, torch.rand(squares, generator=generator, device=device) < self.probability

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The images with their squares."""
        row, column, chosen = draws
        height, width = images.shape[2:]
        rows, columns = _covered(height, row, self.size), _covered(width, column, self.size)
        square = (chosen[:, None, None] & rows[:, :, None] & columns[:, None, :])[:, None]
        if not any(self.mean_colour):
            return images.masked_fill(square, 0)
        return torch.where(square, per_channel(tuple(self.mean_colour), images.dtype, images.device), images)


def _covered(length: int, centre: Tensor, size: int) -> Tensor:
    """Which of the positions 0 … length − 1 a stretch of `size` around each centre covers: [B, length]."""
    offset = torch.arange(length, device=centre.device) - centre[:, None] + size // 2
    return (offset >= 0) & (offset < size)
