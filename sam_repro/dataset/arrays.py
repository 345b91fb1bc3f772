"""Images of your own in one file of NumPy arrays."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam_repro.dataset.images import DataError, Images

PARTS = ("x_train", "y_train", "x_test", "y_test")
EXAMPLE = "np.savez(FILE, x_train=…, y_train=…, x_test=…, y_test=…)"


def arrays(data_dir: str, download: bool) -> Images:
    """Images and labels from a file of `np.savez`: x_train, y_train, x_test, y_test.

    Images are uint8, [N, H, W] or [N, H, W, C]. Labels are integers, [N]: classes 0 … K − 1, each with training images.

    Args:
        data_dir: the file.
        download: not used.

    Raises:
        DataError: if the file is missing, is not of this kind, or its arrays are outside of what is said here.
    """
    path = Path(data_dir).expanduser()
    found = _read(path)
    train, test = (_images(path, found, f"x_{part}") for part in ("train", "test"))
    train_labels, test_labels = (_labels(path, found, part) for part in ("train", "test"))
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{path}: x_train has images of {list(train.shape[1:])} and x_test of {list(test.shape[1:])} "
            "[channels, height, width]; give all one size"
        )
    classes = int(train_labels.max()) + 1
    counts = train_labels.bincount()
    if classes < 2 or not counts.all():
        empty = int(counts.argmin()) if classes > 1 else 1
        raise DataError(
            f"{path}: no image of y_train has the label {empty}; give labels 0 … K − 1, at least two of them"
        )
    if test_labels.max() >= classes:
        raise DataError(
            f"{path}: y_test has the label {test_labels.max()}, and y_train none above {classes - 1}; "
            "each class must have training images"
        )
    return Images(train, train_labels, test, test_labels, num_classes=classes)


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is missing"
        raise DataError(f"{path} {what}; write data_dir=FILE.npz for a file of {EXAMPLE}")
    try:
        file = np.load(path, allow_pickle=False)
        names = getattr(file, "files", ())  # a file of np.save is one array
        if missing := [part for part in PARTS if part not in names]:
            raise DataError(f"{path}: has no {', '.join(missing)}; write it by {EXAMPLE}")
        return {part: file[part] for part in PARTS}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as arrays ({error}); write it by {EXAMPLE}") from error


def _images(path: Path, found: dict[str, npt.NDArray[Any]], name: str) -> Tensor:
    """[N, C, H, W]."""
    array = found[name]
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(
            f"{path}: {name} is {array.dtype} of shape {list(array.shape)}; "
            "must be uint8 (0 … 255) of shape [N, H, W] or [N, H, W, C], and not empty"
        )
    if array.ndim == 4 and array.shape[3] > 4:
        raise DataError(f"{path}: {name} has {array.shape[3]} channels; must be [N, H, W, C], with the channels last")
    last = array if array.ndim == 4 else array[..., None]
    return torch.from_numpy(np.ascontiguousarray(last.transpose(0, 3, 1, 2)))


def _labels(path: Path, found: dict[str, npt.NDArray[Any]], part: str) -> Tensor:
    name, labels, count = f"y_{part}", found[f"y_{part}"], len(found[f"x_{part}"])
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (count,):
        raise DataError(
            f"{path}: {name} is {labels.dtype} of shape {list(labels.shape)}; "
            f"must be integers of shape [{count}], one for each image of x_{part}"
        )
    if labels.min() < 0:
        raise DataError(f"{path}: {name} has the label {labels.min()}; classes are numbered from 0 on")
    return torch.from_numpy(labels.astype(np.int64))
