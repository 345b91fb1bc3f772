"""Street View House Numbers, with the additional training images of its authors."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sam_repro import limits
from sam_repro.dataset.downloads import Archive
from sam_repro.dataset.images import Images

SIZES = {"train": 182_040_794, "extra": 1_329_278_602, "test": 64_275_384}
"""Bytes of each file; its address and checksum are torchvision's."""


def svhn(data_dir: str, download: bool, extra: bool = True) -> Images:
    """SVHN, cropped digits (Netzer et al., 2011): 3×32×32, ten classes, class 0 the digit 0; 26 032 test images.

    Args:
        data_dir: the folder of all data sets; the files lie in its folder SVHN.
        download: whether missing or damaged files are fetched.
        extra: whether the 531 131 easier images follow the 73 257 training images; default true. All together take
            1.9 GB, and 4 GB of memory while they are read.

    Raises:
        DataError: if files are missing or damaged and are not, or cannot be, fetched.
        ValueError: if `extra` is neither true nor false.
    """
    limits.boolean("extra", extra)
    folder = Path(data_dir).expanduser() / "SVHN"
    parts = [_part(name, folder, download) for name in (["train", "extra"] if extra else ["train"])]
    train_images, train_labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Images(train_images, train_labels, *_part("test", folder, download), num_classes=10)


def _part(name: str, folder: Path, download: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] and labels [N] of a file."""
    from scipy.io import loadmat
    from torchvision.datasets import SVHN

    url, file, md5 = SVHN.split_list[name]
    Archive(url, SIZES[name], md5).provide(folder, download)
    content = loadmat(folder / file)
    images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
    return torch.from_numpy(images), torch.from_numpy(content["y"].astype(np.int64).squeeze(1) % 10)
