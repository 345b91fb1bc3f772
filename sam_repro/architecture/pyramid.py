"""PyramidNets of Han et al. 2017: each block is a little wider than the one before it; optionally with ShakeDrop.

Block l of L has the width 16 + αl/L, which is no integer: `widths` says whether it is `rounded` (Foret et al. 2021, JAX
code) or `truncated` (Han et al.). A bottleneck has four times as many channels. With ShakeDrop block l passes unchanged
with probability 1 − l/2L (Yamada et al. 2018); `shake.py` has the gates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro import limits
from sam_repro.architecture.initialisation import initialise
from sam_repro.architecture.layers import PooledShortcut, blocks_of, check_task, convolution
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
        alpha: by how much the last block is wider than the stem of 16 channels, ≥ 0.
        bottleneck: 1x1, 3x3, 1x1 convolutions with four times as many channels at the end, else two of 3x3.
        widths: `rounded` or `truncated`.

    Raises:
        ValueError: `alpha` < 0 or no integer, or another `widths`.
    """

    blocks: int
    alpha: int
    bottleneck: bool
    widths: str = "rounded"

    def __post_init__(self) -> None:
        limits.integer("alpha", self.alpha, low=0, high=10_000)
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


def pyramidnet(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    depth: int = 110,
    alpha: int = 270,
    bottleneck: bool = False,
    widths: str = "rounded",
    shakedrop: str | None = None,
    initialisation: str = "he_fan_out",
) -> nn.Module:
    """PyramidNet, default PyramidNet-110 of two 3x3 convolutions a block; PyramidNet-272 has bottlenecks, α = 200.

    Args:
        num_classes: number of logits, ≥ 2.
        in_channels: channels of the images.
        image_size: pixels a side; any size works.
        depth: layers, 6n + 2 of basic blocks, 9n + 2 of bottlenecks.
        alpha: by how much the last block is wider than the stem of 16 channels, ≥ 0.
        bottleneck: whether a block is a bottleneck.
        widths: `rounded` (default) or `truncated`.
        shakedrop: null (default), or the gates of ShakeDrop's backward, `drawn` or the `same` as in the forward.
        initialisation: see `initialisation.py`.

    Returns:
        A model from images [B, in_channels, H, W] to logits [B, num_classes].

    Raises:
        ValueError: an argument is outside its limits.
    """
    check_task(num_classes, in_channels, image_size, initialisation)
    limits.choice("shakedrop", shakedrop, (None, "drawn", "same"))
    limits.boolean("bottleneck", bottleneck)
    pyramid = Pyramid(blocks_of(depth, 9 if bottleneck else 6), alpha, bottleneck, widths)
    return initialise(PyramidNet(pyramid, in_channels, num_classes, shakedrop), initialisation)
