"""Examples as a source gives them, and `Data` as a run uses them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sam_repro import limits
from sam_repro.augmentation import Augmentation
from sam_repro.dataset.split import Resident, Split
from sam_repro.errors import UserError
from sam_repro.vectors import tensors_sha256


class DataError(UserError):
    """Data that are missing, damaged or out of reach; the message says which, and how to get them."""


class Examples(ABC):
    """The training and the test examples of a data set, in file order, as a source gives them (abstract)."""

    train_labels: Tensor
    test_labels: Tensor
    num_classes: int
    confusions: Sequence[int] | None
    classes: Sequence[str] | None

    @abstractmethod
    def sha256(self) -> str:
        """Digest of what the source gave: what a run's inputs are."""

    def contents(self) -> str | None:
        """Digest of all bytes, where it was asked for and `sha256` is not of them; default None."""
        return None

    @abstractmethod
    def histograms(self) -> Tensor:
        """How many pixels of the plain training images have each value, [C, 256], int64."""

    @abstractmethod
    def split(self, part: str, chosen: Tensor, labels: Tensor, augmentation: Augmentation) -> Split:
        """Some examples of a part.

        Args:
            part: "train" or "test".
            chosen: which of its N examples, [N], bool.
            labels: of all of them as the run shall see them, [N].
            augmentation: how images become inputs.
        """

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of pixels/255 over the plain training images, for each channel."""
        counts = self.histograms().double()
        values = torch.arange(256, dtype=torch.float64) / 255
        shares = counts / counts.sum(dim=1, keepdim=True)
        mean = shares @ values
        deviation = (shares * (values - mean[:, None]) ** 2).sum(dim=1).sqrt()
        return mean.tolist(), deviation.tolist()

    def _check_classes(self, name: str, classes: Sequence[int]) -> None:
        if not classes or min(classes) < 0 or max(classes) >= self.num_classes:
            raise ValueError(f"{name}: must be classes in [0, {self.num_classes}), at least one")


@dataclass(frozen=True, eq=False)
class Images(Examples):
    """The training and the test images of a data set, in file order, on the CPU.

    Args:
        train_images: [N, C, H, W], uint8.
        train_labels: [N], int64, each in [0, num_classes).
        test_images: [M, C, H, W], uint8.
        test_labels: [M], int64, each in [0, num_classes).
        num_classes: number of classes K, at least 2.
        confusions: K classes: what asymmetric label noise makes of each class c. None (default) is the next class,
            (c + 1) mod K.
        classes: K names; None (default) if there are none.

    Raises:
        ValueError: if a shape, a dtype, a label or a confusion is outside of what is said here.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    confusions: Sequence[int] | None = None
    classes: Sequence[str] | None = None

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
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise ValueError(f"classes: {len(self.classes)} names; must be {self.num_classes}")

    def sha256(self) -> str:
        """Digest of images and labels, shapes and dtypes, as the source gave them: what a run's inputs are."""
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        return tensors_sha256({part: getattr(self, part) for part in parts})

    def histograms(self) -> Tensor:
        """How many pixels of the training images have each value, [C, 256], int64."""
        return torch.stack([plane.reshape(-1).bincount(minlength=256) for plane in self.train_images.unbind(dim=1)])

    def split(self, part: str, chosen: Tensor, labels: Tensor, augmentation: Augmentation) -> Resident:
        """Some examples of a part, with their images."""
        if augmentation.view is not None:
            raise ValueError(f"order = [{type(augmentation.view).__name__}, …]: is for images from files; choose basic")
        images, clean = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
        return Resident(
            images=images[chosen],
            labels=labels[chosen],
            clean_labels=clean[chosen],
            num_classes=self.num_classes,
            augmentation=augmentation,
        )


@dataclass(frozen=True, eq=False)
class Data:
    """All that a run learns from and is measured on.

    Args:
        train: what it is trained on.
        validation: what was held out of the training images, or None.
        test: what it is tested on, always with true labels.
        ledger: what label noise did, for the result of the run; None without label noise.
        validation_augmented: whether validation images get the augmentation of the training.
        inputs: digest of what the source gave; None (default) where nobody asked for it.
        classes: names of the classes; None (default) if there are none.
        contents: digest of all bytes, where it was asked for; default None.
    """

    train: Split
    validation: Split | None
    test: Split
    ledger: dict[str, Any] | None = None
    validation_augmented: bool = False
    inputs: str | None = None
    classes: Sequence[str] | None = None
    contents: str | None = None

    @property
    def normalisation(self) -> dict[str, list[float]]:
        """Mean and standard deviation of pixels/255 with which inputs are made, as a record keeps them."""
        augmentation = self.train.augmentation
        return {"mean": list(augmentation.mean), "std": list(augmentation.std)}

    def to(self, device: torch.device | str) -> "Data":
        """The same data on a device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation, test=self.test.to(device))


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"
