"""Images and their labels: `Images` as a source gives them, `Data` as a run uses them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sam_repro import limits
from sam_repro.vectors import tensors_sha256


class DataError(Exception):
    """Data that are missing, damaged or out of reach; the message says which, and how to get them."""


@dataclass(frozen=True, eq=False)
class Images:
    """The training and the test images of a data set, in file order, on the CPU.

    Args:
        train_images: [N, C, H, W], uint8.
        train_labels: [N], int64, each in [0, num_classes).
        test_images: [M, C, H, W], uint8.
        test_labels: [M], int64, each in [0, num_classes).
        num_classes: number of classes K, at least 2.
        confusions: K classes: what asymmetric label noise makes of each class c. None (default) is the next class,
            (c + 1) mod K.

    Raises:
        ValueError: if a shape, a dtype, a label or a confusion is outside of what is said here.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    confusions: Sequence[int] | None = None

    def __post_init__(self) -> None:
        limits.integer("num_classes", self.num_classes, low=2)
        for part, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.dtype != torch.uint8 or images.dim() != 4:
                raise ValueError(f"{part}_images: {_shown(images)}; must be uint8 of shape [N, C, H, W]")
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise ValueError(f"{part}_labels: {_shown(labels)}; must be int64 of shape [{len(images)}]")
            self._check_classes(f"{part}_labels", labels.tolist())
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(f"test_images: {_shown(self.test_images)}; must be like {_shown(self.train_images)}")
        if self.confusions is not None:
            self._check_classes("confusions", self.confusions)
            if len(self.confusions) != self.num_classes:
                raise ValueError(f"confusions: {len(self.confusions)} classes; must be {self.num_classes}")

    def sha256(self) -> str:
        """Digest of images and labels, shapes and dtypes, as the source gave them: what a run's inputs are."""
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        return tensors_sha256({part: getattr(self, part) for part in parts})

    def _check_classes(self, name: str, classes: Sequence[int]) -> None:
        if not classes or min(classes) < 0 or max(classes) >= self.num_classes:
            raise ValueError(f"{name}: must be classes in [0, {self.num_classes}), at least one")


@dataclass(frozen=True, eq=False)
class Split:
    """A part of a data set.

    Args:
        images: [N, C, H, W], uint8.
        labels: [N], int64: what the run sees, with label noise if there is any.
        clean_labels: [N], int64: the true ones.
    """

    images: Tensor
    labels: Tensor
    clean_labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> "Split":
        """The same split on a device."""
        return Split(self.images.to(device), self.labels.to(device), self.clean_labels.to(device))


@dataclass(frozen=True, eq=False)
class Data:
    """All that a run learns from and is measured on.

    Args:
        train: what it is trained on.
        validation: what was held out of the training images, or None.
        test: what it is tested on, always with true labels.
        num_classes: number of classes K.
        ledger: what label noise did, for the result of the run; None without label noise.
        validation_augmented: whether validation images get the augmentation of the training.
        inputs: digest of what the source gave; None (default) where nobody asked for it.
    """

    train: Split
    validation: Split | None
    test: Split
    num_classes: int
    ledger: dict[str, Any] | None = None
    validation_augmented: bool = False
    inputs: str | None = None

    def to(self, device: torch.device | str) -> "Data":
        """The same data on a device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation, test=self.test.to(device))


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"
