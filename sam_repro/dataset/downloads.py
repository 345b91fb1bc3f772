"""Data sets that are downloaded: CIFAR-10, CIFAR-100, Fashion-MNIST.

URLs, checksums of the archives and decoding are torchvision's. A file is used only if its own checksum is right, and it
gets its name only when it is complete: nothing that was interrupted is taken for the data.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from sam_repro.dataset.images import DataError, Images

# airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck; Patrini et al. 2017:
# truck → automobile, bird → airplane, deer → horse, cat ↔ dog
CIFAR10_CONFUSIONS = (0, 1, 0, 5, 7, 3, 6, 7, 8, 1)

# bytes of the archive, MD5 of the unpacked file (torchvision checks only the archive)
FASHION_MNIST = {
    "train-images-idx3-ubyte": (26_421_880, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte": (29_515, "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte": (4_422_102, "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte": (5_148, "15d484375f8d13e6eb1aabb0c3f46965"),
}


def cifar10(data_dir: str, download: bool) -> Images:
    """CIFAR-10 (Krizhevsky, 2009): 50 000 training and 10 000 test images, 3×32×32, ten classes.

    Args:
        data_dir: the folder of all data sets; the files lie in its folder cifar-10-batches-py.
        download: whether missing or damaged files are fetched.

    Raises:
        DataError: if files are missing or damaged and are not, or cannot be, fetched.
    """
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, 170_498_071, data_dir, download, num_classes=10, confusions=CIFAR10_CONFUSIONS)


def cifar100(data_dir: str, download: bool) -> Images:
    """CIFAR-100 (Krizhevsky, 2009): 50 000 training and 10 000 test images, 3×32×32, one hundred classes.

    Args:
        data_dir: the folder of all data sets; the files lie in its folder cifar-100-python.
        download: whether missing or damaged files are fetched.

    Raises:
        DataError: if files are missing or damaged and are not, or cannot be, fetched.
    """
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, 169_001_437, data_dir, download, num_classes=100)


def fashion_mnist(data_dir: str, download: bool) -> Images:
    """Fashion-MNIST (Xiao et al., 2017): 60 000 training and 10 000 test images, 1×28×28, ten classes.

    Args:
        data_dir: the folder of all data sets; the files lie in its folder FashionMNIST/raw.
        download: whether missing or damaged files are fetched.

    Raises:
        DataError: if files are missing or damaged and are not, or cannot be, fetched.
    """
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.mnist import read_image_file, read_label_file

    folder = Path(data_dir).expanduser() / "FashionMNIST" / "raw"
    for archive, md5 in FashionMNIST.resources:
        name = archive.removesuffix(".gz")
        size, unpacked_md5 = FASHION_MNIST[name]
        Archive(FashionMNIST.mirrors[0] + archive, size, md5, {name: unpacked_md5}).provide(folder, download)
    # not through torchvision's class, which takes files of an old format, unchecked, if they happen to be there
    train_images, train_labels, test_images, test_labels = (str(folder / name) for name in FASHION_MNIST)
    return Images(
        read_image_file(train_images).unsqueeze(1),
        read_label_file(train_labels),
        read_image_file(test_images).unsqueeze(1),
        read_label_file(test_labels),
        num_classes=10,
    )


@dataclass(frozen=True)
class Archive:
    """A file on the network.

    Args:
        url: where it is.
        size: in bytes.
        md5: its checksum.
        contents: the checksums of the files in it that are used, by their path in it; None (default): it is not packed.
    """

    url: str
    size: int
    md5: str
    contents: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]

    @property
    def _wanted(self) -> Mapping[str, str]:
        return {self.name: self.md5} if self.contents is None else self.contents

    def provide(self, folder: Path, download: bool) -> None:
        """Have the contents lie in a folder, intact: as they are, or from an archive that is there or fetched.

        Raises:
            DataError: if that failed, or if it needs a download that is not wanted.
        """
        flaws = [flaw for name, md5 in self._wanted.items() if (flaw := _flaw(folder / name, md5))]
        if not flaws:
            return
        packed = folder / self.name
        if (flaw := _flaw(packed, self.md5)) and not download:
            raise self._error(flaw if packed.exists() else flaws[0], folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
                self._unpack(self._fetch(temporary) if flaw else packed, Path(temporary), folder)
        except (OSError, RuntimeError, HTTPException) as error:
            raise self._error(f"{flaws[0]}, and fetching it failed: {error}", folder) from error

    def _fetch(self, folder: str) -> Path:
        from torchvision.datasets.utils import download_url

        download_url(self.url, folder, md5=self.md5)
        return Path(folder, self.name)

    def _unpack(self, packed: Path, temporary: Path, folder: Path) -> None:
        from torchvision.datasets.utils import extract_archive

        if self.contents is not None:
            extract_archive(packed, temporary)
        for name, md5 in self._wanted.items():
            if flaw := _flaw(temporary / name, md5):
                raise RuntimeError(flaw)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary / name, folder / name)

    def _error(self, what: str, folder: Path) -> DataError:
        kind, then = ("file", "checked") if self.contents is None else ("archive", "checked and unpacked")
        return DataError(
            f"{what}. The {kind} is {self.url} ({self.size} bytes, MD5 {self.md5}). Start again with download=true, "
            f"or put that {kind} into {folder} yourself: it is then {then} without a network."
        )


def _flaw(path: Path, md5: str) -> str | None:
    """What is wrong with a file, or None."""
    from torchvision.datasets.utils import check_integrity

    if not path.exists():
        return f"{path} is missing"
    return None if check_integrity(path, md5) else f"{path} is damaged, it has {path.stat().st_size} bytes"


def _cifar(
    kind: Any, size: int, data_dir: str, download: bool, num_classes: int, confusions: Sequence[int] | None = None
) -> Images:
    """The images of one of torchvision's CIFAR classes, whose archive has `size` bytes."""
    folder = Path(data_dir).expanduser()
    files = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    contents = {f"{kind.base_folder}/{name}": md5 for name, md5 in files}
    Archive(kind.url, size, kind.tgz_md5, contents).provide(folder, download)
    train, test = kind(folder, train=True), kind(folder, train=False)
    return Images(
        _channels_first(train.data),
        torch.tensor(train.targets),
        _channels_first(test.data),
        torch.tensor(test.targets),
        num_classes,
        confusions,
    )


def _channels_first(images: Any) -> Tensor:
    """[N, H, W, C] → [N, C, H, W]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
