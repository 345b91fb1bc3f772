"""Wide residual networks of Zagoruyko and Komodakis 2016, pre-activation, without dropout.

`wrnD_K` has D layers in three stages of 16K, 32K, 64K channels. `resnet32_mentornet` is what the code of MentorNet and
MentorMix (Jiang et al. 2018, 2020) calls ResNet-32: five blocks a stage of 128, 256, 512 channels after a stem of 64,
leaky ReLUs of slope 0.1. All take `num_classes` (≥ 2), `in_channels` and `image_size` (pixels a side; any size works),
a `shortcut`, a `norm` (`batch`, or `none` in its place) and an `initialisation` (see `initialisation.py`), return a
model from images [B, in_channels, H, W] to logits [B, num_classes], and raise ValueError where an argument is outside
its limits. `shortcut` is how the input passes by a block that changes the shape:

* `conv` (default; Zagoruyko and Komodakis 2016, Luong 2024): a 1x1 convolution of the activated input.
* `pool` (Foret et al. 2021, JAX code): the average over strides, zeros in the new channels, no parameters; of the
  activated input in the first block of the network, of the input itself in the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from sam_repro import limits
from sam_repro.architecture.initialisation import initialise
from sam_repro.architecture.layers import PooledShortcut, check_task, convolution

Layer = Callable[[], nn.Module]


@dataclass(frozen=True)
class Form:
    """What the wide networks differ in, but for their sizes.

    Attributes:
        shortcut: `conv` or `pool`.
        norm: `batch` or `none`.
        stem: channels after the first convolution.
        activation: makes what follows each norm.

    Raises:
        ValueError: another `shortcut` or `norm`.
    """

    shortcut: str = "conv"
    norm: str = "batch"
    stem: int = 16
    activation: Layer = nn.ReLU

    def __post_init__(self) -> None:
        limits.choice("shortcut", self.shortcut, ("conv", "pool"))
        limits.choice("norm", self.norm, ("batch", "none"))

    def normalise(self, channels: int) -> nn.Module:
        """A norm of so many channels, or nothing in its place."""
        return nn.BatchNorm2d(channels) if self.norm == "batch" else nn.Identity()


class PreActivationBlock(nn.Module):
    """shortcut(x or a) + two 3x3 convolutions of a = activation(norm(x)).

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        stride: of the first convolution.
        form: the norm, the activation and the kind of shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, form: Form) -> None:
        super().__init__()
        changes, convolved = in_channels != out_channels, form.shortcut == "conv"
        shortcut: nn.Module = nn.Identity()  # made first: its weights are drawn first
        if changes and convolved:
            shortcut = convolution(in_channels, out_channels, 1, stride)
        elif changes:
            shortcut = PooledShortcut(out_channels, stride)
        self.norm1 = form.normalise(in_channels)
        self.conv1 = convolution(in_channels, out_channels, 3, stride)
        self.norm2 = form.normalise(out_channels)
        self.conv2 = convolution(out_channels, out_channels, 3)
        self.activation = form.activation()
        self.shortcut = shortcut
        # Of the pooled shortcuts only the first, which changes the channels at stride 1, starts behind the activation.
        self.activated_shortcut = changes and (convolved or stride == 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, in_channels, H, W] to [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]."""
        activated = self.activation(self.norm1(x))
        residual = self.conv2(self.activation(self.norm2(self.conv1(activated))))
        return self.shortcut(activated if self.activated_shortcut else x) + residual


class WideResNet(nn.Module):
    """3x3 stem, three stages of pre-activation blocks, norm, activation, global average pool, linear classifier.

    Args:
        blocks: residual blocks a stage; 6 · blocks + 4 layers.
        widening: the stages have 16, 32, 64 times as many channels; ≥ 2.
        form: what else the networks differ in.
        in_channels: channels of the images.
        num_classes: number of logits.

    Raises:
        ValueError: `widening` < 2.
    """

    def __init__(self, blocks: int, widening: int, form: Form, in_channels: int, num_classes: int) -> None:
        super().__init__()
        limits.integer("widening", widening, low=2, high=1000)
        narrow, middle, wide = 16 * widening, 32 * widening, 64 * widening
        self.stem = convolution(in_channels, form.stem, 3)
        self.stages = nn.Sequential(
            _stage(form.stem, narrow, blocks, 1, form),
            _stage(narrow, middle, blocks, 2, form),
            _stage(middle, wide, blocks, 2, form),
        )
        self.norm = form.normalise(wide)
        self.activation = form.activation()
        self.classifier = nn.Linear(wide, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, in_channels, H, W]."""
        return self.classifier(self.activation(self.norm(self.stages(self.stem(images)))).mean((2, 3)))


def wide_resnet(
    depth: int,
    widening: int,
    stem: int = 16,
    activation: Layer = nn.ReLU,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    shortcut: str = "conv",
    norm: str = "batch",
    initialisation: str = "he_fan_out",
) -> nn.Module:
    """The network of `depth` layers, 6n + 4, and of `widening` times as many channels; `wrnD_K` are partials of it."""
    check_task(num_classes, in_channels, image_size, initialisation)
    form = Form(shortcut, norm, stem, activation)
    return initialise(WideResNet((depth - 4) // 6, widening, form, in_channels, num_classes), initialisation)


wrn16_4 = partial(wide_resnet, 16, 4)
wrn16_8 = partial(wide_resnet, 16, 8)
wrn28_10 = partial(wide_resnet, 28, 10)
wrn40_2 = partial(wide_resnet, 40, 2)
wrn40_10 = partial(wide_resnet, 40, 10)
resnet32_mentornet = partial(wide_resnet, 34, 8, 64, partial(nn.LeakyReLU, 0.1), shortcut="pool")
"""ResNet-32 of the code of MentorNet, 29.4 million weights."""


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, form: Form) -> nn.Sequential:
    others = (PreActivationBlock(out_channels, out_channels, 1, form) for _ in range(blocks - 1))
    return nn.Sequential(PreActivationBlock(in_channels, out_channels, stride, form), *others)
