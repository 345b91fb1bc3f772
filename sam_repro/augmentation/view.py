"""How one decoded image of any size becomes a square: in the process that decodes it."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator

from sam_repro import limits

if TYPE_CHECKING:
    from PIL.Image import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
TRIES = 10


class View(ABC):
    """A square of one decoded image of any size (abstract)."""

    @abstractmethod
    def __call__(self, image: "Image", size: int, generator: Generator) -> "Image":
        """A square of `size` pixels a side; every random number is the generator's, of the CPU."""


@dataclass(frozen=True)
class ResizedCrop(View):
    """A random part of the image, resized to the square (Szegedy et al. 2015; the numbers are torchvision's).

    Area and log ratio are uniform; what does not fit is drawn anew, ten times at most, and then the middle is taken.

    Args:
        scale: lowest and highest share of the image's area, in (0, 1]; default [0.08, 1].
        ratio: lowest and highest width/height, > 0; default [3/4, 4/3].
        interpolation: "nearest", "bilinear" (default), "bicubic" or "lanczos", of PIL, antialiased.

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        limits.numbers("scale", self.scale, length=2, above=0, high=1)
        limits.numbers("ratio", self.ratio, length=2, above=0)
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name} = {limits.shown(list(getattr(self, name)))}: must not fall")
        limits.choice("interpolation", self.interpolation, INTERPOLATIONS)

    def __call__(self, image: "Image", size: int, generator: Generator) -> "Image":
        """The part, resized."""
        left, top, width, height = self.box(image.width, image.height, generator)
        return _resized(image.crop((left, top, left + width, top + height)), size, size, self.interpolation)

    def box(self, width: int, height: int, generator: Generator) -> tuple[int, int, int, int]:
        """Left, top, width and height of a random part of an image."""
        low, high = map(math.log, self.ratio)
        for share, slant, x, y in torch.rand(TRIES, 4, generator=generator, dtype=torch.float64).tolist():
            area = width * height * (self.scale[0] + (self.scale[1] - self.scale[0]) * share)
            ratio = math.exp(low + (high - low) * slant)
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(x * (width - w + 1)), int(y * (height - h + 1)), w, h
        w, h = min(width, round(height * self.ratio[1])), min(height, round(width / self.ratio[0]))
        return (width - w) // 2, (height - h) // 2, w, h


@dataclass(frozen=True)
class CentreCrop(View):
    """The middle of the image, or all of it, squeezed. Nothing is drawn.

    Args:
        share: of the shorter side, in (0, 1]: that side becomes round(size/share) pixels, and the middle is cut out;
            None squeezes the whole image into the square. 224 of 256 pixels are 0.875.
        interpolation: "nearest", "bilinear" (default), "bicubic" or "lanczos", of PIL, antialiased.

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    share: float | None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        limits.number("share", self.share, above=0, high=1, optional=True)
        limits.choice("interpolation", self.interpolation, INTERPOLATIONS)

    def __call__(self, image: "Image", size: int, generator: Generator) -> "Image":
        """The middle."""
        if self.share is None:
            return _resized(image, size, size, self.interpolation)
        shorter, resized = min(image.size), round(size / self.share)
        width, height = (int(resized * side / shorter) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return _resized(image, width, height, self.interpolation).crop((left, top, left + size, top + size))


def _resized(image: "Image", width: int, height: int, interpolation: str) -> "Image":
    from PIL.Image import Resampling

    return image if image.size == (width, height) else image.resize((width, height), Resampling[interpolation.upper()])
