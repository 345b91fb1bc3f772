"""Augmentation: flip, crop, normalise, cutout, in this order, on a whole batch at once."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from sam_repro import limits
from sam_repro.augmentation import transforms


@dataclass(frozen=True)
class Cutout:
    """A square of zeros (DeVries and Taylor, 2017), its centre uniform over the image; it may overhang the border.

    Args:
        size: side of the square in pixels; 0 (default) is no cutout.
        per: "image" (default), a square for each image, or "batch", one for all images of the batch.
        probability: that there is a square, in [0, 1], drawn per `per`; default 1.

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    size: int = 0
    per: str = "image"
    probability: float = 1.0

    def __post_init__(self) -> None:
        limits.natural("cutout.size", self.size)
        limits.choice("cutout.per", self.per, ("image", "batch"))
        limits.share("cutout.probability", self.probability)


NO_CUTOUT = Cutout()


class Draws(NamedTuple):
    """The random choices for one batch: the arguments of the functions in `transforms`; None for what is switched off.

    Args:
        flip: chosen [B].
        crop: top [B] and left [B].
        cutout: row, column and chosen, each [B] or, per batch, [1].
    """

    flip: Tensor | None
    crop: tuple[Tensor, Tensor] | None
    cutout: tuple[Tensor, Tensor, Tensor] | None


class Augmentation:
    """Random flip, random crop, normalise, cutout: uint8 images in, float32 images out, on the device of the images.

    Args:
        mean: of pixels/255, one number per channel.
        std: of pixels/255, one number per channel, each > 0.
        pad: pixels added to each side before the random crop to the old size; 0 (default) is no crop.
        padding_mode: "zero" (default, black pixels) or "reflect".
        flip: whether an image is mirrored left to right with probability ½; default false.
        cutout: the square that becomes 0 after normalising, which is the mean colour; its fields may come as a mapping.
            Default: none.

    Raises:
        ValueError: if an argument is outside of what is said here; on use, if images are not uint8 [B, C, H, W] with C
            as `mean` says, if `pad` is not less than H and W, or if the cutout's size is not less than twice that.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        pad: int = 0,
        padding_mode: str = "zero",
        flip: bool = False,
        cutout: Cutout | Mapping[str, Any] = NO_CUTOUT,
    ) -> None:
        limits.numbers("mean", mean)
        limits.numbers("std", std, above=0)
        if len(mean) != len(std):
            raise ValueError(f"std = {list(std)}: must be as many numbers as mean, {len(mean)}")
        limits.natural("pad", pad)
        limits.choice("padding_mode", padding_mode, ("zero", "reflect"))
        limits.boolean("flip", flip)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.pad = pad
        self.padding_mode = padding_mode
        self.flip = flip
        self.cutout = cutout if isinstance(cutout, Cutout) else Cutout(**cutout)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Augmented images [B, C, H, W], float32.

        Args:
            images: [B, C, H, W], uint8.
            generator: on the device of the images; every random number is its.
        """
        return self.apply(images, self.draw(images, generator))

    def draw(self, images: Tensor, generator: Generator) -> Draws:
        """The random choices for a batch. Cutout is drawn last: flips and crops are the same without it."""
        self.check(images)
        batch, _, height, width = images.shape
        uniform = functools.partial(torch.rand, generator=generator, device=images.device)
        integers = functools.partial(torch.randint, generator=generator, device=images.device)
        squares = (batch if self.cutout.per == "image" else 1,)
        return Draws(
            flip=uniform(batch) < 0.5 if self.flip else None,
            crop=(integers(2 * self.pad + 1, (batch,)), integers(2 * self.pad + 1, (batch,))) if self.pad else None,
            cutout=(integers(height, squares), integers(width, squares), uniform(squares) < self.cutout.probability)
            if self.cutout.size
            else None,
        )

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The augmented images that the draws make of a batch."""
        if draws.flip is not None:
            images = transforms.flip(images, draws.flip)
        if draws.crop is not None:
            images = transforms.crop(images, *draws.crop, self.pad, self.padding_mode)
        normalised = self.normalise(images)
        if draws.cutout is not None:
            row, column, chosen = draws.cutout
            normalised = transforms.cutout(normalised, row, column, self.cutout.size, chosen)
        return normalised

    def normalise(self, images: Tensor) -> Tensor:
        """(x/255 − mean)/std per channel, float32: all that happens to images on which a run is measured."""
        self.check(images)
        shift = _per_channel(tuple(-m / s for m, s in zip(self.mean, self.std, strict=True)), images.device)
        scale = _per_channel(tuple(1 / (255 * s) for s in self.std), images.device)
        return torch.addcmul(shift, images, scale)

    def check(self, images: Tensor) -> None:
        """Refuse images that it cannot work on: of another kind, or too small for the crop or the square."""
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(f"images: {images.dtype} of shape {list(images.shape)}; must be uint8 [B, C, H, W]")
        if (channels := images.shape[1]) != len(self.mean):
            mean = limits.shown(list(self.mean))
            raise ValueError(f"mean = {mean}: must be one number for each channel, of which there are {channels}")
        smallest = min(images.shape[2:])
        limits.integer("pad", self.pad, low=0, high=smallest - 1)
        limits.integer("cutout.size", self.cutout.size, low=0, high=2 * smallest - 1)


@functools.cache
def _per_channel(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """The numbers on a device, [1, C, 1, 1], float32; kept, since bringing them there anew would hold up the host."""
    return torch.tensor(numbers, dtype=torch.float32, device=device).view(1, -1, 1, 1)
