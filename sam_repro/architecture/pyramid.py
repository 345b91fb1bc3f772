"""PyramidNets of Han et al. 2017: each block is a little wider than the one before it; optionally with ShakeDrop.

`pyramidnetD` has D layers in three stages: D = 110 of basic blocks, widened by α = 270, D = 272 of bottlenecks, by
α = 200. Block l of L has the width 16 + αl/L, which is no integer: `widths` says whether it is `rounded` (default;
Foret et al. 2021, JAX code) or `truncated` (Han et al.). A bottleneck has four times as many channels. Where the name
ends with `_shakedrop` block l passes unchanged with probability 1 − l/2L (Yamada et al. 2018; `shake.py` has the
gates, and says what `backward` is).

All take `num_classes` (≥ 2), `in_channels`, `image_size` (pixels a side; any size works) and an `initialisation` (see
`initialisation.py`), return a model from images [B, in_channels, H, W] to logits [B, num_classes], and raise ValueError
where an argument is outside its limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro import limits
from sam_repro.architecture.initialisation import initialise
from sam_repro.architecture.layers import PooledShortcut, check_task, convolution
from sam_repro.architecture.shake import ShakeDrop


class PyramidBlock(nn.Module):
    """shortcut(x) + gate(norm, then convolutions, each with norm behind it; ReLU before all but the first of them).

    Args:
        in_channels: channels of x.
        widths: channels after each convolution.
        kernels: sizes of the convolutions; the stride is on the first of 3 x 3.
        stride: 1 or 2; the shortcut averages over it, with zeros in the new channels.
        gate: follows the last norm.
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], kernels: Sequence[int], stride: int, gate: nn.Module
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        channels = in_channels
        for place, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
            self.convolutions.append(convolution(channels, width, kernel, stride if place == kernels.index(3) else 1))
            self.norms.append(nn.BatchNorm2d(width))
            channels = width
        self.gate = gate
        self.shortcut = PooledShortcut(channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, in_channels, H, W] to [B, widths[-1], ⌈H / stride⌉, ⌈W / stride⌉]."""
        residual = self.norm(x)
        for place, (conv, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            residual = norm(conv(F.relu(residual) if place else residual))
        return self.shortcut(x) + self.gate(residual)


@dataclass(frozen=True)
class Pyramid:
    """The sizes of a PyramidNet.

    Attributes:
        blocks: residual blocks a stage.
        alpha: by how much the last block is wider than the stem of 16 channels.
        bottleneck: 1x1, 3x3, 1x1 convolutions with four times as many channels at the end, else two of 3x3.
        widths: `rounded` or `truncated`.

    Raises:
        ValueError: another `widths`.
    """

    blocks: int
    alpha: int
    bottleneck: bool
    widths: str = "rounded"

    def __post_init__(self) -> None:
        limits.choice("widths", self.widths, ("rounded", "truncated"))

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return 3 * self.blocks

    def width(self, block: int) -> int:
        """Of block l, from 1 on; summed up as in the papers' code, whose rounding truncation turns into a channel."""
        width = 16.0
        for _ in range(block):
            width += self.alpha / self.depth
        return round(width) if self.widths == "rounded" else int(width)

    def channels(self, block: int) -> list[int]:
        """After each convolution of block l."""
        width = self.width(block)
        return [width, width, 4 * width] if self.bottleneck else [width, width]


class PyramidNet(nn.Module):
    """3x3 stem of 16 channels with norm, three stages, norm, ReLU, global average pool, linear classifier.

    Args:
        pyramid: the sizes.
        in_channels: channels of the images.
        num_classes: number of logits.
        shakedrop: None, or the gates of ShakeDrop's backward, `drawn` or `same`.
    """

    def __init__(self, pyramid: Pyramid, in_channels: int, num_classes: int, shakedrop: str | None = None) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(in_channels, 16, 3), nn.BatchNorm2d(16))
        stages = [nn.Sequential() for _ in range(3)]
        kernels = (1, 3, 1) if pyramid.bottleneck else (3, 3)
        channels = 16
        for block in range(1, pyramid.depth + 1):
            stage, place = divmod(block - 1, pyramid.blocks)
            stride = 2 if stage > 0 and place == 0 else 1
            gate = nn.Identity() if shakedrop is None else ShakeDrop(1 - 0.5 * block / pyramid.depth, shakedrop)
            widths = pyramid.channels(block)
            stages[stage].append(PyramidBlock(channels, widths, kernels, stride, gate))
            channels = widths[-1]
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, in_channels, H, W]."""
        return self.classifier(F.relu(self.norm(self.stages(self.stem(images)))).mean((2, 3)))


def pyramidnet110(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    widths: str = "rounded",
    initialisation: str = "he_fan_out",
) -> nn.Module:
    """PyramidNet-110, two 3x3 convolutions a block."""
    check_task(num_classes, in_channels, image_size, initialisation)
    return initialise(PyramidNet(Pyramid(18, 270, False, widths), in_channels, num_classes), initialisation)


def pyramidnet110_shakedrop(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    widths: str = "rounded",
    backward: str = "drawn",
    initialisation: str = "he_fan_out",
) -> nn.Module:
    """PyramidNet-110 with ShakeDrop."""
    check_task(num_classes, in_channels, image_size, initialisation)
    return initialise(PyramidNet(Pyramid(18, 270, False, widths), in_channels, num_classes, backward), initialisation)


def pyramidnet272(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    widths: str = "rounded",
    initialisation: str = "he_fan_out",
) -> nn.Module:
    """PyramidNet-272, bottlenecks."""
    check_task(num_classes, in_channels, image_size, initialisation)
    return initialise(PyramidNet(Pyramid(30, 200, True, widths), in_channels, num_classes), initialisation)


def pyramidnet272_shakedrop(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    widths: str = "rounded",
    backward: str = "drawn",
    initialisation: str = "he_fan_out",
) -> nn.Module:
    """PyramidNet-272 with ShakeDrop."""
    check_task(num_classes, in_channels, image_size, initialisation)
    return initialise(PyramidNet(Pyramid(30, 200, True, widths), in_channels, num_classes, backward), initialisation)
