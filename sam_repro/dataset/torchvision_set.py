"""The classification sets of torchvision, by name."""

import difflib
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Generator, Tensor

from sam_repro import limits
from sam_repro.augmentation import CentreCrop
from sam_repro.dataset.images import DataError, Images

BY_FLAG = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS")
BY_NAME = {
    **dict.fromkeys(("Country211", "DTD", "FER2013", "Flowers102", "Food101", "GTSRB"), ("train", "test")),
    **dict.fromkeys(("LFWPeople", "PCAM", "RenderedSST2", "STL10", "StanfordCars", "SVHN"), ("train", "test")),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), ("trainval", "test")),
    "Imagenette": ("train", "val"),
}
"""Which of a set's parts are trained and tested on."""


def torchvision_set(
    data_dir: str,
    download: bool,
    name: str,
    size: int | None = None,
    share: float | None = 1.0,
    interpolation: str = "bilinear",
) -> Images:
    """A classification set of torchvision, as its class reads it: grey images stay grey, all others become RGB.

    Args:
        data_dir: the folder of all data sets; the set lies in its folder torchvision.
        download: whether torchvision may download it.
        name: of the class in `torchvision.datasets`, such as "MNIST".
        size: pixels a side of the square that is made of each image; None (default) if all images have one size.
        share: of the shorter side, in (0, 1]: the square is this middle of the image, resized; default 1. None squeezes
            the whole image.
        interpolation: "nearest", "bilinear" (default), "bicubic" or "lanczos".

    Raises:
        DataError: if the set cannot be had, or has images of several sizes and `size` is None.
        ValueError: if torchvision has no such set, or an argument is outside of what is said here.
    """
    from torchvision import datasets

    names = sorted([*BY_FLAG, *BY_NAME])
    limits.positive("size", size, optional=True)
    view = CentreCrop(share, interpolation)
    if name not in names:
        near = difflib.get_close_matches(str(name).lower(), [known.lower() for known in names], n=3, cutoff=0.5)
        hint = [known for known in names if known.lower() in near] or names
        raise ValueError(f"name = {limits.shown(name)}: is none of torchvision's sets; did you mean {', '.join(hint)}?")
    parts = [{"train": True}, {"train": False}] if name in BY_FLAG else [{"split": part} for part in BY_NAME[name]]
    make = partial(getattr(datasets, name), root=Path(data_dir).expanduser() / "torchvision")
    if name != "FER2013":  # its files are Kaggle's, and the class cannot fetch them
        make = partial(make, download=download)
    train, test = (find_part(name, make, part) for part in parts)
    (train_images, train_labels), (test_images, test_labels) = (
        _read(name, found, size, view) for found in (train, test)
    )
    count = max(int(labels.max()) for labels in (train_labels, test_labels)) + 1
    classes = [str(known) for known in getattr(train, "classes", ())]
    named = classes if len(classes) == count else None
    return Images(train_images, train_labels, test_images, test_labels, num_classes=count, classes=named)


def find_part(name: str, make: Any, part: dict[str, Any]) -> Any:
    """A part as torchvision's class has it.

    Raises:
        DataError: if it cannot be had.
    """
    try:
        return make(**part)
    except (RuntimeError, OSError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"torchvision's {name} cannot be had: {reason}. Start again with download=true, or put its files into "
            f"{make.keywords['root']} as torchvision.datasets.{name} says"
        ) from error


def _read(name: str, found: Any, size: int | None, view: CentreCrop) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, W] and labels [N] of a part."""
    arrays, labels = [], []
    for i in range(len(found)):
        image, label = found[i]
        arrays.append(_array(image, size, view))
        labels.append(int(label))
    if len(sizes := {array.shape[:2] for array in arrays}) > 1:
        some = " and ".join(f"{width}×{height}" for height, width in sorted(sizes)[:2])
        raise DataError(
            f"torchvision's {name} has images of several sizes, such as {some}; write dataset.source.size=64"
        )
    channels = max(array.shape[2] for array in arrays)
    images = np.stack([np.broadcast_to(array, (*array.shape[:2], channels)) for array in arrays])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def _array(image: Image.Image, size: int | None, view: CentreCrop) -> npt.NDArray[np.uint8]:
    """[H, W, 1] of a grey image, else [H, W, 3]."""
    plain = image if image.mode == "L" else image.convert("RGB")
    square = plain if size is None else view(plain, size, Generator())
    return np.asarray(square).reshape(square.height, square.width, -1)
