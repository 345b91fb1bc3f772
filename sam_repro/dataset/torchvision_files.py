"""The sets of torchvision whose images are files of several sizes, decoded when they are needed."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_repro import limits
from sam_repro.augmentation import CentreCrop
from sam_repro.dataset.folder import Files
from sam_repro.dataset.images import DataError
from sam_repro.dataset.streamed import Decoder
from sam_repro.dataset.torchvision_set import find_part

PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "FGVCAircraft": (("trainval",), ("test",)),
    "Flowers102": (("train", "val"), ("test",)),
    "Food101": (("train",), ("test",)),
    "OxfordIIITPet": (("trainval",), ("test",)),
    "StanfordCars": (("train",), ("test",)),
}
"""What is trained on and what is tested on."""


def torchvision_files(
    data_dir: str,
    download: bool,
    name: str,
    size: int = 224,
    share: float | None = 0.875,
    interpolation: str = "bilinear",
    workers: int = 0,
    cache: str | None = None,
    verify: bool = False,
) -> Files:
    """The photographs of one of torchvision's sets, with all labelled images but the test's for training.

    Args:
        data_dir: the folder of all data sets; the set lies in its folder torchvision.
        download: whether torchvision may download it.
        name: of the class in `torchvision.datasets`: "FGVCAircraft", "Flowers102", "Food101", "OxfordIIITPet" or
            "StanfordCars".
        size: pixels a side of what the network gets.
        share: see `folder`, as for all that follow.
        interpolation: of that view.
        workers: processes that decode.
        cache: a folder of decoded images.
        verify: whether all bytes are read for a digest.

    Raises:
        DataError: if the set cannot be had.
        ValueError: if an argument is outside of what is said here.
    """
    from torchvision import datasets

    limits.choice("name", name, tuple(PARTS))
    limits.positive("size", size)
    limits.natural("workers", workers)
    limits.boolean("verify", verify)
    root = Path(data_dir).expanduser() / "torchvision"
    kept = None if cache is None else Path(cache).expanduser()
    decoder = Decoder(root, size, 3, CentreCrop(share, interpolation), kept)
    make = partial(getattr(datasets, name), root=root, download=download)
    if name != "OxfordIIITPet":  # the only one that takes no loader
        make = partial(make, loader=Path)
    train, test = ([find_part(name, make, {"split": part}) for part in parts] for parts in PARTS[name])
    pairs = [[pair for part in found for pair in _pairs(part)] for found in (train, test)]
    if missing := [file for found in pairs for file, _ in found if not file.is_file()]:
        raise DataError(f"torchvision's {name} lacks {missing[0]}; unpack it again, or start with download=true")
    (train_files, train_labels), (test_files, test_labels) = (_labelled(found, root) for found in pairs)
    count = 1 + max(train_labels.tolist() + test_labels.tolist())
    known = list(getattr(train[0], "classes", ()))
    classes = [str(name) for name in (known if len(known) == count else range(count))]
    return Files(
        *(train_files, train_labels, test_files, test_labels),
        classes=classes,
        num_classes=count,
        decoder=decoder,
        workers=workers,
        verify=verify,
    )


def _pairs(part: Any) -> list[tuple[Path, int]]:
    """File and label of each example of a part."""
    if hasattr(part, "loader"):
        return [part[i] for i in range(len(part))]
    return list(zip(part._images, part._labels, strict=True))


def _labelled(pairs: Sequence[tuple[Path, int]], root: Path) -> tuple[list[str], Tensor]:
    """Files, as paths below the root, and labels."""
    files = [file.relative_to(root).as_posix() for file, _ in pairs]
    return files, torch.tensor([int(label) for _, label in pairs])
