"""A folder of images, of which each class has a folder."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sam_repro import limits
from sam_repro.augmentation import Augmentation, CentreCrop
from sam_repro.dataset.images import DataError, Examples
from sam_repro.dataset.streamed import Decoder, Streamed
from sam_repro.dataset.validation import Validation

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
WANTED = "write data_dir=FOLDER for a folder of train/<class>/* and val/<class>/* (or test/), or of <class>/*"
BATCH = 256


def folder(
    data_dir: str,
    download: bool,
    size: int = 224,
    share: float | None = 0.875,
    interpolation: str = "bilinear",
    channels: int = 3,
    test_share: float = 0.2,
    split_seed: int = 0,
    workers: int = 0,
    cache: str | None = None,
    verify: bool = False,
) -> "Files":
    """The images of a folder: `train/<class>/*` with `val/<class>/*` or, without one, `test/<class>/*`.

    Without a folder for tests, the same share of every class is set apart by a seed: of `train/`, or of `<class>/*`.
    Classes are in alphabetical order. Files with another ending than an image's are left out.

    Args:
        data_dir: the folder.
        download: not used.
        size: pixels a side of what the network gets.
        share: of the shorter side, in (0, 1]: the middle on which a run is measured, and trained where the augmentation
            has no view of its own; None squeezes the whole image. Default 0.875, such as 224 of 256 pixels.
        interpolation: of that view: "nearest", "bilinear" (default), "bicubic" or "lanczos".
        channels: 3 (default; grey images become colour) or 1 (colour becomes grey).
        test_share: of the images that are set apart, in (0, 1); default 0.2.
        split_seed: of the frozen stream that chooses them; default 0.
        workers: processes that decode; 0 (default) decodes in this one.
        cache: a folder where each image is kept decoded, about 3 bytes a pixel; None (default) keeps none.
        verify: whether all bytes are read for a digest, which a run then keeps and compares; default false.

    Raises:
        DataError: if there is no such folder, or it has not at least two classes, each with images.
        ValueError: if an argument is outside of what is said here.
    """
    limits.positive("size", size)
    limits.choice("channels", channels, (1, 3))
    limits.number("test_share", test_share, above=0, below=1)
    limits.seed("split_seed", split_seed)
    limits.natural("workers", workers)
    limits.boolean("verify", verify)
    kept = None if cache is None else Path(cache).expanduser()
    decoder = Decoder(Path(data_dir).expanduser(), size, channels, CentreCrop(share, interpolation), kept)
    train, test = _parts(decoder.root)
    classes = list(train)
    files, labels = _labelled(train, classes)
    if test is None:
        count = max(1, round(test_share * len(files)))
        held_out = Validation(count, split_seed, stratified=True).held_out(labels)
        parts = *_chosen(files, labels, ~held_out), *_chosen(files, labels, held_out)
    else:
        parts = files, labels, *_labelled(test, classes)
    return Files(*parts, classes=classes, num_classes=len(classes), decoder=decoder, workers=workers, verify=verify)


@dataclass(frozen=True, eq=False)
class Files(Examples):
    """The training and the test images of a data set, as files that are decoded when they are needed.

    Args:
        train_files: [N] paths, relative to the folder.
        train_labels: [N], int64.
        test_files: [M].
        test_labels: [M].
        classes: K names.
        num_classes: K.
        decoder: file → square.
        workers: processes that decode.
        verify: whether `contents` reads all bytes.
    """

    train_files: Sequence[str]
    train_labels: Tensor
    test_files: Sequence[str]
    test_labels: Tensor
    classes: Sequence[str]
    num_classes: int
    decoder: Decoder
    workers: int
    verify: bool = False
    confusions: Sequence[int] | None = None

    def sha256(self) -> str:
        """Digest of the sorted lines "path, size in bytes" of all images."""
        return self._digest(lambda path: path.stat().st_size)

    def contents(self) -> str | None:
        """Digest of the sorted lines "path, SHA-256" of all images, if `verify` asks for it."""
        return self._digest(_sha256) if self.verify else None

    def _digest(self, told: Callable[[Path], object]) -> str:
        files = sorted([*self.train_files, *self.test_files])
        lines = (f"{file}, {told(self.decoder.root / file)}\n" for file in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def histograms(self) -> Tensor:
        """How many pixels of the plain training images have each value, [C, 256], int64: each is decoded once."""
        everything = torch.ones(len(self.train_files), dtype=torch.bool)
        channels = self.decoder.channels
        plain = Augmentation([0.0] * channels, [1.0] * channels)
        train = self.split("train", everything, self.train_labels, plain)
        counts = torch.zeros(channels, 256, dtype=torch.int64)
        for raw in train.read(torch.arange(len(train)).split(BATCH)):
            counts += torch.stack([x.reshape(-1).bincount(minlength=256) for x in train.pixels(raw).unbind(dim=1)])
        return counts

    def split(self, part: str, chosen: Tensor, labels: Tensor, augmentation: Augmentation) -> Streamed:
        """Some examples of a part; their images stay on the disk."""
        files, clean = getattr(self, f"{part}_files"), getattr(self, f"{part}_labels")
        return Streamed(
            files=_chosen(files, clean, chosen)[0],
            labels=labels[chosen],
            clean_labels=clean[chosen],
            num_classes=self.num_classes,
            augmentation=augmentation,
            decoder=self.decoder,
            workers=self.workers,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Found = dict[str, list[str]]
"""Class → its images, as paths relative to the folder."""


def _parts(root: Path) -> tuple[Found, Found | None]:
    """What is trained on and what is tested on; None where the folder has nothing apart for tests."""
    if not root.is_dir():
        raise DataError(f"data_dir = {root}: is {'no folder' if root.exists() else 'missing'}; {WANTED}")
    if not (root / "train").is_dir():
        return _find(root, root), None
    train = _find(root / "train", root)
    tests = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    if tests is None:
        return train, None
    test = _find(tests, root)
    if unknown := sorted(test.keys() - train.keys()):
        raise DataError(f"{tests / unknown[0]}: is a class that {root / 'train'} does not have")
    return train, test


def _find(folder: Path, root: Path) -> Found:
    """The classes of a folder, and their images, in alphabetical order."""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        there = f"the one class {classes[0]}" if classes else "no folder of a class"
        raise DataError(f"{folder}: has {there}, and at least two are needed; {WANTED}")
    found = {name: _images(folder / name, root) for name in classes}
    if empty := [name for name, files in found.items() if not files]:
        raise DataError(f"{folder / empty[0]}: has no image ({', '.join(ENDINGS)}); fill this class, or take it away")
    return found


def _images(folder: Path, root: Path) -> list[str]:
    entries = [entry for entry in os.scandir(folder) if entry.name.lower().endswith(ENDINGS)]
    shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    if odd := [entry.path for entry in shown if not entry.is_file()]:
        raise DataError(f"{odd[0]}: is no plain file; take it away")
    return [(folder / entry.name).relative_to(root).as_posix() for entry in shown]


def _labelled(found: Found, classes: Sequence[str]) -> tuple[list[str], Tensor]:
    """All images of a part, class by class, and their labels."""
    files = [file for name in classes for file in found.get(name, [])]
    counts = torch.tensor([len(found.get(name, [])) for name in classes])
    return files, torch.arange(len(classes)).repeat_interleave(counts)


def _chosen(files: Sequence[str], labels: Tensor, mask: Tensor) -> tuple[list[str], Tensor]:
    return [files[i] for i in mask.nonzero().flatten().tolist()], labels[mask]
