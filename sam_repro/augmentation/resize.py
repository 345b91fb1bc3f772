"""Images of another size than the data set's, for a network that wants them."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from sam_repro import limits


@dataclass(frozen=True)
class Resize:
    """Makes squares of a size of a batch of images, on their device: in training and where a run is measured.

    The filter is PIL's, antialiased. Pixels stay in [0, 255], and are not rounded.

    Args:
        size: pixels a side; None (default) leaves images as they are.
        interpolation: "bicubic" (default) or "bilinear".

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    size: int | None = None
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        limits.positive("size", self.size, optional=True)
        limits.choice("interpolation", self.interpolation, ("bicubic", "bilinear"))

    def __call__(self, images: Tensor) -> Tensor:
        """The images, [B, C, size, size], float32; as they are where the size is None.

        Args:
            images: [B, C, H, W], uint8.
        """
        if self.size is None:
            return images
        square = F.interpolate(images.float(), (self.size, self.size), mode=self.interpolation, antialias=True)
        return square.clamp(0, 255)  # a bicubic filter overshoots

    def blank(self, images: Tensor) -> Tensor:
        """One pixel of the images, spread over the shape that they will have: it takes no memory."""
        return images if self.size is None else images[..., :1, :1].expand(-1, -1, self.size, self.size)
