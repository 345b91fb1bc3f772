"""Random crop of a padded image to its old size."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from sam_repro import limits
from sam_repro.augmentation.transform import Draws, Transform


@dataclass(eq=False)
class Crop(Transform):
    """All four sides are padded, and a window of the old size is cut out anywhere.

    Args:
        pad: pixels added to each side, less than height and width; default 4, and 0 draws nothing.
        padding_mode: "zero" (default, black pixels), or "reflect" (a mirror through the middle of the border pixels,
            which stay single).

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    pad: int = 4
    padding_mode: str = "zero"

    def __post_init__(self) -> None:
        limits.natural("pad", self.pad)
        limits.choice("padding_mode", self.padding_mode, ("zero", "reflect"))

    @property
    def is_off(self) -> bool:
        """Whether nothing is padded."""
        return self.pad == 0

    def check(self, images: Tensor) -> None:
        """Refuse images that are not larger than the padding."""
        limits.integer("pad", self.pad, low=0, high=min(images.shape[2:]) - 1)

    def draw(self, images: Tensor, generator: Generator) -> Draws:
        """First row and first column of each window in its padded image, [B] each, in [0, 2·pad]."""
        size = (len(images),)
        top, left = (
            torch.randint(2 * self.pad + 1, size, generator=generator, device=generator.device) for _ in range(2)
        )
        return top, left

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The windows."""
        top, left = draws
        pad = self.pad
        batch, channels, height, width = images.shape
        # One row more than any window has: in flat memory, read as rows of the padded width, the last may end beyond.
        if self.padding_mode == "zero":
            padded = functional.pad(images, (pad, pad, pad, pad + 1))
        else:  # by indices: CUDA has no reflection of uint8
            rows, columns = _mirrored(height, pad, images.device), _mirrored(width, pad, images.device)
            padded = images.index_select(2, torch.cat([rows, rows[:1]])).index_select(3, columns)
        across = width + 2 * pad
        planes = padded[0, 0].numel() * torch.arange(batch * channels, device=images.device).view(batch, channels)
        first = planes + (across * top + left)[:, None]
        windows = padded.flatten().unfold(0, height * across, 1)  # a view: [where it begins, pixels]
        return windows.index_select(0, first.flatten()).view(batch, channels, height, across)[..., :width]


def _mirrored(length: int, pad: int, device: torch.device) -> Tensor:
    """The pixels, [length + 2·pad], that are seen from −pad to length + pad − 1 between two mirrors."""
    position = torch.arange(-pad, length + pad, device=device)
    return length - 1 - (length - 1 - position.abs()).abs()
