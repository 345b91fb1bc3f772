"""Residual networks of He et al. 2016.

* `resnet8`, `resnet20`, `resnet32`, `resnet56`: the form for CIFAR (section 4.2); three stages of 16, 32, 64 channels,
  6k + 2 layers. Their `shortcut` is `pad` (default: every second pixel, zeros in the new channels, no parameters) or
  `none`, which leaves a plain chain of convolutions (Li et al. 2018).
* `resnet18`, `resnet34`, `resnet50`, `resnet101`, `resnet152`: the form for ImageNet (Table 1); four stages of 64, 128,
  256, 512 channels, projections as shortcuts, the stride of a bottleneck on its 3x3 convolution. Their `stem` is
  `cifar` (3x3, stride 1), `imagenet` (7x7, stride 2, then max-pool) or `auto` (default: `cifar` below 64 pixels). With
  `zero_gamma` the last batch norm of each block starts at scale 0, so that each block starts as its shortcut.

All take `num_classes` (≥ 2), `in_channels` and `image_size` (pixels a side; any size works) and an
`initialisation` (see `initialisation.py`), return a model from images [B, in_channels, H, W] to logits
[B, num_classes], and raise ValueError where an argument is outside its limits.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro import limits
from sam_repro.architecture.initialisation import initialise
from sam_repro.architecture.layers import check_task, conv_norm_relu, convolution, pad_channels, warn_of_small_images


class SubsampledShortcut(nn.Module):
    """Every stride-th pixel, with zeros in the new channels: option A of He et al. 2016, no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]."""
        return pad_channels(x[:, :, :: self.stride, :: self.stride], self.out_channels)


class ProjectedShortcut(nn.Module):
    """1x1 convolution and batch normalisation: option B of He et al. 2016."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, 1, stride)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]."""
        return self.norm(self.conv(x))


class BasicBlock(nn.Module):
    """relu(shortcut(x) + two 3x3 convolutions)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, width, 3, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, in_channels, H, W] to [B, width, ⌈H / stride⌉, ⌈W / stride⌉]."""
        residual = F.relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return F.relu(self.shortcut(x) + residual)


class PlainBlock(nn.Sequential):
    """Two 3x3 convolutions, each with norm and ReLU; nothing passes by, whatever `shortcut` is."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__(conv_norm_relu(in_channels, width, 3, stride), conv_norm_relu(width, width, 3))


class Bottleneck(nn.Module):
    """relu(shortcut(x) + 1x1, 3x3, 1x1 convolutions), the stride on the 3x3."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = convolution(in_channels, width, 1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, out_channels, 1)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, in_channels, H, W] to [B, 4 · width, ⌈H / stride⌉, ⌈W / stride⌉]."""
        residual = F.relu(self.norm1(self.conv1(x)))
        residual = F.relu(self.norm2(self.conv2(residual)))
        residual = self.norm3(self.conv3(residual))
        return F.relu(self.shortcut(x) + residual)


Block = type[BasicBlock] | type[PlainBlock] | type[Bottleneck]
Shortcut = type[SubsampledShortcut] | type[ProjectedShortcut]


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average pool, linear classifier.

    Args:
        stem: maps images to widths[0] channels.
        block: the residual block.
        widths: the stages' widths; every stage but the first begins with stride 2.
        depths: the stages' numbers of blocks.
        shortcut: made from (in_channels, out_channels, stride) where a block changes the shape; else the identity.
        num_classes: number of logits.
    """

    def __init__(
        self,
        stem: nn.Module,
        block: Block,
        widths: Sequence[int],
        depths: Sequence[int],
        shortcut: Shortcut,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential()
        in_channels = widths[0]
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            self.stages.append(_stage(block, in_channels, width, depth, 1 if index == 0 else 2, shortcut))
            in_channels = width * block.expansion
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, in_channels, H, W]."""
        return self.classifier(self.stages(self.stem(images)).mean((2, 3)))


def small_resnet(
    layers: int,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    shortcut: str = "pad",
    initialisation: str = "he_fan_in",
) -> nn.Module:
    """The form for CIFAR of so many layers; `resnet8` … `resnet56` are partials of it."""
    check_task(num_classes, in_channels, image_size, initialisation)
    limits.choice("shortcut", shortcut, ("pad", "none"))
    stem = conv_norm_relu(in_channels, 16, 3)
    block = BasicBlock if shortcut == "pad" else PlainBlock
    model = ResNet(stem, block, (16, 32, 64), [(layers - 2) // 6] * 3, SubsampledShortcut, num_classes)
    return initialise(model, initialisation)


def large_resnet(
    block: type[BasicBlock] | type[Bottleneck],
    depths: Sequence[int],
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    stem: str = "auto",
    zero_gamma: bool = False,
    initialisation: str = "torch",
) -> nn.Module:
    """The form for ImageNet of so many blocks a stage; `resnet18` … `resnet152` are partials of it."""
    check_task(num_classes, in_channels, image_size, initialisation)
    limits.boolean("zero_gamma", zero_gamma)
    first = _stem(stem, in_channels, image_size)
    model = ResNet(first, block, (64, 128, 256, 512), depths, ProjectedShortcut, num_classes)
    initialise(model, initialisation)
    if zero_gamma:
        for module in model.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_((module.norm2 if isinstance(module, BasicBlock) else module.norm3).weight)
    return model


resnet8 = partial(small_resnet, 8)
resnet20 = partial(small_resnet, 20)
resnet32 = partial(small_resnet, 32)
resnet56 = partial(small_resnet, 56)
resnet18 = partial(large_resnet, BasicBlock, (2, 2, 2, 2))
resnet34 = partial(large_resnet, BasicBlock, (3, 4, 6, 3))
resnet50 = partial(large_resnet, Bottleneck, (3, 4, 6, 3))
resnet101 = partial(large_resnet, Bottleneck, (3, 4, 23, 3))
resnet152 = partial(large_resnet, Bottleneck, (3, 8, 36, 3))


def _stem(form: str, in_channels: int, image_size: int) -> nn.Sequential:
    limits.choice("stem", form, ("auto", "cifar", "imagenet"))
    if form == "cifar" or (form == "auto" and image_size < 64):
        return conv_norm_relu(in_channels, 64, 3)
    warn_of_small_images(image_size, 32)
    return conv_norm_relu(in_channels, 64, 7, stride=2).append(nn.MaxPool2d(3, stride=2, padding=1))


def _stage(block: Block, in_channels: int, width: int, depth: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    """`depth` blocks, of which the first may change the shape."""
    out_channels = width * block.expansion
    same_shape = stride == 1 and in_channels == out_channels
    first_shortcut = nn.Identity() if same_shape else shortcut(in_channels, out_channels, stride)
    blocks = [block(in_channels, width, stride, first_shortcut)]
    blocks += [block(out_channels, width, 1, nn.Identity()) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)
