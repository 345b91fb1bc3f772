"""What the architectures share: their smallest parts and the check of their common arguments."""

import warnings
from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro import limits
from sam_repro.architecture.initialisation import check_initialisation


def check_task(num_classes: int, in_channels: int, image_size: int, initialisation: str = "torch") -> None:
    """Refuse a task that no classifier of images can have, and a start that there is not.

    Raises:
        ValueError: fewer than 2 classes, no channel, no pixel, or another `initialisation`.
    """
    check_initialisation(initialisation)
    limits.integer("num_classes", num_classes, low=2)
    limits.integer("in_channels", in_channels, low=1)
    limits.integer("image_size", image_size, low=1)


def blocks_of(depth: int, layers: int) -> int:
    """Blocks a stage of a network with a stem, three stages and a classifier.

    Args:
        depth: layers of the network.
        layers: of the blocks that are at the same place in the three stages, together.

    Raises:
        ValueError: no number of whole blocks has so many layers.
    """
    limits.integer("depth", depth, low=layers + 2, high=2000)
    blocks, rest = divmod(depth - 2, layers)
    if rest:
        raise ValueError(f"depth = {depth}: this network has {layers}n + 2 layers, such as {depth - rest}")
    return blocks


class NetworkWarning(UserWarning):
    """What a user should hear about a network that is built all the same."""


def warn_of_small_images(image_size: int, reduction: int) -> None:
    """Say so where less than 2 x 2 places of an image reach the last stage.

    Args:
        image_size: pixels a side.
        reduction: the product of all strides.
    """
    if reduction > 1 and image_size < 2 * reduction:
        said = f"images of {image_size} pixels have less than 2 x 2 places after strides of {reduction} in all"
        warnings.warn(f"{said}; the network is made for larger ones", NetworkWarning, stacklevel=3)


def convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias; an odd kernel keeps the image size n, stride s gives ⌈n / s⌉."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv=convolution(in_channels, out_channels, kernel_size, stride),
            norm=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(),
        )
    )


class PooledShortcut(nn.Module):
    """Average over stride x stride pixels, with zeros in the new channels."""

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]; odd borders average what is there."""
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        return pad_channels(x, self.out_channels)


def pad_channels(x: Tensor, channels: int) -> Tensor:
    """Append channels of zeros to x [B, C, H, W] until it has `channels`."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))
