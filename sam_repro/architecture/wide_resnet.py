"""Wide residual networks of Zagoruyko and Komodakis 2016, pre-activation, without dropout.

`wrnD_K` has D layers in three stages of 16K, 32K, 64K channels. All take `num_classes` (≥ 2), `in_channels` and
`image_size` (pixels a side; any size works), a `shortcut` and an `initialisation` (see `initialisation.py`), return a
model from images [B, in_channels, H, W] to logits [B, num_classes], and raise ValueError where an argument is outside
its limits. `shortcut` is how the input passes by a block that changes the shape:

* `conv` (default; Zagoruyko and Komodakis 2016, Luong 2024): a 1x1 convolution of the activated input.
* `pool` (Foret et al. 2021, JAX code): the average over strides, zeros in the new channels, no parameters; of the
  activated input in the first block of the network, of the input itself in the others.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro import limits
from sam_repro.architecture.initialisation import initialise
from sam_repro.architecture.layers import check_task, convolution, pad_channels


class PooledShortcut(nn.Module):
    """Average over stride x stride pixels, with zeros in the new channels."""

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]; odd borders average what is there."""
        return pad_channels(F.avg_pool2d(x, self.stride, ceil_mode=True), self.out_channels)


class PreActivationBlock(nn.Module):
    """shortcut(x or a) + two 3x3 convolutions of a = relu(norm(x)).

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        stride: of the first convolution.
        shortcut: maps x or a to the shape of the result.
        activated_shortcut: the shortcut starts at a, not at x.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module, activated_shortcut: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(in_channels, out_channels, 3, stride)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = convolution(out_channels, out_channels, 3)
        self.shortcut = shortcut
        self.activated_shortcut = activated_shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, in_channels, H, W] to [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]."""
        activated = F.relu(self.norm1(x))
        residual = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        return self.shortcut(activated if self.activated_shortcut else x) + residual


class WideResNet(nn.Module):
    """3x3 stem, three stages of pre-activation blocks, norm, ReLU, global average pool, linear classifier.

    Args:
        blocks: residual blocks a stage; 6 · blocks + 4 layers.
        widening: the stages have 16, 32, 64 times as many channels; ≥ 2.
        shortcut: `conv` or `pool`.
        in_channels: channels of the images.
        num_classes: number of logits.

    Raises:
        ValueError: another `shortcut`, or `widening` < 2.
    """

    def __init__(self, blocks: int, widening: int, shortcut: str, in_channels: int, num_classes: int) -> None:
        super().__init__()
        limits.integer("widening", widening, low=2)
        limits.choice("shortcut", shortcut, ("conv", "pool"))
        narrow, middle, wide = 16 * widening, 32 * widening, 64 * widening
        self.stem = convolution(in_channels, 16, 3)
        self.stages = nn.Sequential(
            _stage(16, narrow, blocks, 1, shortcut),
            _stage(narrow, middle, blocks, 2, shortcut),
            _stage(middle, wide, blocks, 2, shortcut),
        )
        self.norm = nn.BatchNorm2d(wide)
        self.classifier = nn.Linear(wide, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, in_channels, H, W]."""
        return self.classifier(F.relu(self.norm(self.stages(self.stem(images)))).mean((2, 3)))


def wrn16_4(
    *, num_classes: int, in_channels: int, image_size: int, shortcut: str = "conv", initialisation: str = "he_fan_out"
) -> nn.Module:
    """WRN-16-4."""
    return _wide_resnet(16, 4, num_classes, in_channels, image_size, shortcut, initialisation)


def wrn16_8(
    *, num_classes: int, in_channels: int, image_size: int, shortcut: str = "conv", initialisation: str = "he_fan_out"
) -> nn.Module:
    """WRN-16-8."""
    return _wide_resnet(16, 8, num_classes, in_channels, image_size, shortcut, initialisation)


def wrn28_10(
    *, num_classes: int, in_channels: int, image_size: int, shortcut: str = "conv", initialisation: str = "he_fan_out"
) -> nn.Module:
    """WRN-28-10."""
    return _wide_resnet(28, 10, num_classes, in_channels, image_size, shortcut, initialisation)


def wrn40_2(
    *, num_classes: int, in_channels: int, image_size: int, shortcut: str = "conv", initialisation: str = "he_fan_out"
) -> nn.Module:
    """WRN-40-2."""
    return _wide_resnet(40, 2, num_classes, in_channels, image_size, shortcut, initialisation)


def _wide_resnet(
    depth: int,
    widening: int,
    num_classes: int,
    in_channels: int,
    image_size: int,
    shortcut: str,
    initialisation: str,
) -> nn.Module:
    check_task(num_classes, in_channels, image_size)
    return initialise(WideResNet((depth - 4) // 6, widening, shortcut, in_channels, num_classes), initialisation)


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    first = _convolved if shortcut == "conv" else _pooled
    others = (
        PreActivationBlock(out_channels, out_channels, 1, nn.Identity(), activated_shortcut=False)
        for _ in range(blocks - 1)
    )
    return nn.Sequential(first(in_channels, out_channels, stride), *others)


def _convolved(in_channels: int, out_channels: int, stride: int) -> PreActivationBlock:
    shortcut = convolution(in_channels, out_channels, 1, stride)
    return PreActivationBlock(in_channels, out_channels, stride, shortcut, activated_shortcut=True)


def _pooled(in_channels: int, out_channels: int, stride: int) -> PreActivationBlock:
    shortcut = PooledShortcut(out_channels, stride)
    # Only the first block of the network changes the channels at stride 1.
    return PreActivationBlock(in_channels, out_channels, stride, shortcut, activated_shortcut=stride == 1)
