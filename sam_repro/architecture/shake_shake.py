"""Shake-Shake of Gastaldi 2017: residual networks of two branches, which random gates mix (see `shake.py`)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro import limits
from sam_repro.architecture.initialisation import initialise
from sam_repro.architecture.layers import blocks_of, check_task, convolution
from sam_repro.architecture.shake import ShakeShake


class ShiftedShortcut(nn.Module):
    """Every stride-th pixel, beside it every stride-th of the image moved by one pixel; 1x1 convolutions; norm.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result, half of them from each of the two.
        stride: in both directions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, out_channels // 2, 1, stride)
        self.conv2 = convolution(in_channels, out_channels - out_channels // 2, 1, stride)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]."""
        moved = F.pad(x, (-1, 1, -1, 1))  # up and left by one pixel, zeros behind
        return self.norm(torch.cat([self.conv1(x), self.conv2(moved)], 1))


class ShakeShakeBlock(nn.Module):
    """shortcut(x) + a mixture of two branches, each ReLU, 3x3, norm, ReLU, 3x3, norm.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        stride: of the first convolution of each branch.
        backward: see `ShakeShake`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, backward: str) -> None:
        super().__init__()
        self.branch1 = _branch(in_channels, out_channels, stride)
        self.branch2 = _branch(in_channels, out_channels, stride)
        self.mix = ShakeShake(backward)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else ShiftedShortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, in_channels, H, W] to [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]."""
        return self.shortcut(x) + self.mix(self.branch1(x), self.branch2(x))


class ShakeShakeNet(nn.Module):
    """3x3 stem of 16 channels with norm, three stages, ReLU, global average pool, linear classifier.

    Args:
        blocks: residual blocks a stage; 6 · blocks + 2 layers.
        width: channels of the first stage; the others have 2 and 4 times as many.
        backward: see `ShakeShake`.
        in_channels: channels of the images.
        num_classes: number of logits.
    """

    def __init__(self, blocks: int, width: int, backward: str, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(in_channels, 16, 3), nn.BatchNorm2d(16))
        self.stages = nn.Sequential()
        channels = 16
        for out_channels, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            stage = nn.Sequential(ShakeShakeBlock(channels, out_channels, stride, backward))
            stage.extend(ShakeShakeBlock(out_channels, out_channels, 1, backward) for _ in range(blocks - 1))
            self.stages.append(stage)
            channels = out_channels
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, in_channels, H, W]."""
        return self.classifier(F.relu(self.stages(self.stem(images))).mean((2, 3)))


def shake_shake_network(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    depth: int = 26,
    width: int = 96,
    backward: str = "drawn",
    initialisation: str = "he_fan_out",
) -> nn.Module:
    """Shake-Shake-Image of two branches, default 26 2x96d: branches of 96, 192, 384 channels.

    Args:
        num_classes: number of logits, ≥ 2.
        in_channels: channels of the images.
        image_size: pixels a side; any size works.
        depth: layers, 6n + 2.
        width: channels of the first stage, ≥ 2; the others have 2 and 4 times as many.
        backward: the gates of the backward, `drawn` (default) or the `same` as in the forward.
        initialisation: see `initialisation.py`.

    Returns:
        A model from images [B, in_channels, H, W] to logits [B, num_classes].

    Raises:
        ValueError: an argument is outside its limits.
    """
    check_task(num_classes, in_channels, image_size, initialisation)
    limits.integer("width", width, low=2, high=10_000)
    blocks = blocks_of(depth, 6)
    return initialise(ShakeShakeNet(blocks, width, backward, in_channels, num_classes), initialisation)


def _branch(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        convolution(in_channels, out_channels, 3, stride),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        convolution(out_channels, out_channels, 3),
        nn.BatchNorm2d(out_channels),
    )
