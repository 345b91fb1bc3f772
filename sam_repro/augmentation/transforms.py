"""Transforms of a batch of images, each image by its own parameters: a few kernels, and no host synchronisation."""

import torch
from torch import Tensor
from torch.nn import functional


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen images left to right.

    Args:
        images: [B, C, H, W].
        chosen: [B], bool.
    """
    count = len(images)
    both = torch.cat([images, images.flip(-1)])  # whole images are picked, not pixel by pixel
    return both.index_select(0, torch.arange(count, device=images.device) + count * chosen)


def crop(images: Tensor, top: Tensor, left: Tensor, pad: int, padding_mode: str) -> Tensor:
    """Pad all four sides and cut out windows of the old size.

    Args:
        images: [B, C, H, W].
        top: [B], int64: the window's first row in the padded image, in [0, 2·pad].
        left: [B], int64: the window's first column, in [0, 2·pad].
        pad: in pixels.
        padding_mode: "zero", or "reflect" (a mirror through the middle of the border pixels, which stay single).
    """
    batch, channels, height, width = images.shape
    # One row more than any window has: in flat memory, read as rows of the padded width, the last may end beyond.
    if padding_mode == "zero":
        padded = functional.pad(images, (pad, pad, pad, pad + 1))
    else:  # by indices: CUDA has no reflection of uint8
        rows, columns = _mirrored(height, pad, images.device), _mirrored(width, pad, images.device)
        padded = images.index_select(2, torch.cat([rows, rows[:1]])).index_select(3, columns)
    across = width + 2 * pad
    planes = padded[0, 0].numel() * torch.arange(batch * channels, device=images.device).view(batch, channels)
    first = planes + (across * top + left)[:, None]
    windows = padded.flatten().unfold(0, height * across, 1)  # a view: [where it begins, pixels]
    return windows.index_select(0, first.flatten()).view(batch, channels, height, across)[..., :width]


def cutout(images: Tensor, row: Tensor, column: Tensor, size: int, chosen: Tensor) -> Tensor:
    """Fill a square with 0, rows [row − ⌊size/2⌋, row − ⌊size/2⌋ + size) and columns alike, as far as it is inside.

    Args:
        images: [B, C, H, W].
        row: centre of the square, [B], or [1] for the same one in all images.
        column: like `row`.
        size: its side in pixels. An even one reaches one pixel further to the top and the left of its centre.
        chosen: [B] or [1], bool: which images are cut.
    """
    height, width = images.shape[2:]
    rows, columns = _covered(height, row, size), _covered(width, column, size)
    square = chosen[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return images.masked_fill(square[:, None], 0)


def _mirrored(length: int, pad: int, device: torch.device) -> Tensor:
    """The pixels, [length + 2·pad], that are seen from −pad to length + pad − 1 between two mirrors."""
    position = torch.arange(-pad, length + pad, device=device)
    return length - 1 - (length - 1 - position.abs()).abs()


def _covered(length: int, centre: Tensor, size: int) -> Tensor:
    """Which of the positions 0 … length − 1 a stretch of `size` around each centre covers: [B, length]."""
    offset = torch.arange(length, device=centre.device) - centre[:, None] + size // 2
    return (offset >= 0) & (offset < size)
