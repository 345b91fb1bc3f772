"""Batches: read by the host, made on the device."""

from abc import ABC, abstractmethod
from collections import abc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor

from sam_repro.augmentation import Augmentation


class Raw(NamedTuple):
    """What the host has read of a batch, on the device.

    Args:
        rows: numbers of the examples, [B], int64.
        images: [B, C, H, W], uint8; None where all images lie on the device already.
    """

    rows: Tensor
    images: Tensor | None = None


class Batch(NamedTuple):
    """What a network is trained or measured on.

    Args:
        inputs: normalised images, [B, C, H, W], float32.
        targets: classes [B], int64, or, where an augmentation mixes them, probabilities [B, K].
        rows: numbers of the examples in their split, [B], int64.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Split(ABC):
    """A part of a data set (abstract). A batch has two halves: the host reads it, and the device makes it.

    Args:
        labels: [N], int64, on the device: what the run sees, with label noise if there is any.
        clean_labels: [N], int64: the true ones.
        num_classes: number of classes K.
        augmentation: how its images become inputs.
    """

    labels: Tensor
    clean_labels: Tensor
    num_classes: int
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Self:
        """The same split on a device."""
        return replace(self, labels=self.labels.to(device), clean_labels=self.clean_labels.to(device))

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.labels.device

    @property
    @abstractmethod
    def drawn_on(self) -> torch.device:
        """Where rows and random numbers are drawn: the device, or the CPU if the host needs them."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """C, H, W of an image."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """C, H, W of what a network gets of an image."""
        channels, height, width = self.shape
        size = self.augmentation.resize.size
        return (channels, height, width) if size is None else (channels, size, size)

    @abstractmethod
    def read(self, rows: Iterable[Tensor], seeds: Iterable[int] | None = None) -> abc.Generator[Raw]:
        """The host's half of batches, in their order.

        Args:
            rows: of each batch, [B], int64, on `drawn_on`.
            seeds: of each batch, for what is drawn image by image; None (default) gives the plain images, on which a
                run is measured.
        """

    @abstractmethod
    def pixels(self, raw: Raw) -> Tensor:
        """The images of a batch, [B, C, H, W], uint8."""

    def batch(self, raw: Raw, generator: Generator | None = None) -> Batch:
        """The device's half of a batch. With a generator that was seeded before, a captured step may hold it.

        Args:
            raw: what `read` gave.
            generator: on `drawn_on`; every random number of the augmentation is its. None (default): not augmented.
        """
        pixels, labels = self.pixels(raw), self.labels.index_select(0, raw.rows)
        if generator is None:
            return Batch(self.augmentation.normalise(pixels), labels, raw.rows)
        draws = self.augmentation.draw(pixels, generator)
        targets = self.augmentation.relabel(labels, draws, self.num_classes)
        return Batch(self.augmentation.apply(pixels, draws), targets, raw.rows)

    def batches(self, size: int, seed: int | None = None) -> Iterator[Batch]:
        """The whole split once, in its order, in batches of a size.

        Args:
            size: of a batch; the last may be smaller.
            seed: of the augmentation; None (default): not augmented.
        """
        rows = torch.arange(len(self), device=self.drawn_on).split(size)
        generator = None if seed is None else Generator(self.drawn_on).manual_seed(seed)
        for raw in self.read(rows, None if seed is None else [seed] * len(rows)):
            yield self.batch(raw, generator)


@dataclass(frozen=True, eq=False, kw_only=True)
class Resident(Split):
    """A split whose images all lie on the device.

    Args:
        images: [N, C, H, W], uint8.
    """

    images: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same split on a device."""
        return replace(super().to(device), images=self.images.to(device))

    @property
    def drawn_on(self) -> torch.device:
        """The device."""
        return self.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def read(self, rows: Iterable[Tensor], seeds: Iterable[int] | None = None) -> abc.Generator[Raw]:
        """The numbers of the examples are all that the device needs."""
        for chosen in rows:
            yield Raw(chosen)

    def pixels(self, raw: Raw) -> Tensor:
        """The images of a batch, gathered."""
        return self.images.index_select(0, raw.rows)
