"""What AutoAugment and RandAugment share: each image goes through operations that are drawn for it."""

from abc import abstractmethod
from functools import cache
from typing import ClassVar

import torch
from torch import Generator, Tensor

from sam_repro.augmentation.magnitudes import Reading
from sam_repro.augmentation.operations import Operations
from sam_repro.augmentation.transform import Draws, Transform

Entry = tuple[str, int]
"""Name of an operation, and its level."""


class RandomOperations(Transform):
    """Operations are drawn for each image, and done one after another (abstract). Images must have three channels.

    A subclass says which `entries` may be drawn, and draws them in `pick`.

    Args:
        magnitudes: whose reading of levels, one of `readings`.
    """

    readings: ClassVar[dict[str, Reading]]
    magnitudes: str
    entries: tuple[Entry, ...]

    @abstractmethod
    def pick(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """For so many images the numbers of their entries, [count, K], and which of these happen, [count, K], bool."""

    @property
    def reading(self) -> Reading:
        """What levels mean."""
        return self.readings[self.magnitudes]

    def check(self, images: Tensor) -> None:
        """Refuse images without colour."""
        if (channels := images.shape[1]) != 3:
            raise ValueError(
                f"magnitudes = {self.magnitudes}: is for images of 3 channels, and these have {channels}; "
                "choose augmentation=basic or augmentation=cutout"
            )

    def draw(self, images: Tensor, generator: Generator) -> Draws:
        """`pick`, which of two strengths each operation has, and the centres of squares: five of [B, K]."""
        height, width = images.shape[2:]
        entry, happens = self.pick(len(images), generator)
        size, device = entry.shape, generator.device
        second = torch.rand(size, generator=generator, device=device) < 0.5
        row, column = (torch.randint(n, size, generator=generator, device=device) for n in (height, width))
        return entry, happens, second, row, column

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The images [B, 3, H, W], uint8, after their operations."""
        entry, happens, second, row, column = draws
        fill = self.mean_colour if self.reading.fill is None else (self.reading.fill,)
        operations, numbers = _operations(self.entries, self.reading, tuple(fill), *images.shape[2:])
        chosen = torch.where(happens, _on(images.device, numbers)[entry, second.long()], 0)
        for k in range(chosen.shape[1]):
            images = operations(images, chosen[:, k], row[:, k], column[:, k])
        return images


@cache
def _operations(
    entries: tuple[Entry, ...], reading: Reading, fill: tuple[int, ...], height: int, width: int
) -> tuple[Operations, tuple[tuple[int, int], ...]]:
    """The operations of all entries, of which number 0 does nothing, and for each entry the numbers of its two."""
    strengths = [(name, reading.strengths(level / reading.highest, height, width)[name]) for name, level in entries]
    distinct = dict.fromkeys([("Identity", 0.0), *((name, one) for name, both in strengths for one in both)])
    number = {operation: i for i, operation in enumerate(distinct)}
    pairs = tuple((number[name, both[0]], number[name, both[-1]]) for name, both in strengths)
    return Operations(list(distinct), fill), pairs


@cache
def _on(device: torch.device, numbers: tuple[tuple[int, int], ...]) -> Tensor:
    return torch.tensor(numbers, device=device)
