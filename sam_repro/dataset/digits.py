"""Handwritten digits: the small data set inside scikit-learn, there without a download."""

import torch

from sam_repro.dataset.images import DataError, Images

TRAIN = 1000
SHA256 = "36f3bf5e0a8efbeaa94257fe955d07d7ca106ad368487945e331674958bb6528"
"""Of images and labels, as `Images.sha256` gives it."""


def digits(data_dir: str, download: bool) -> Images:
    """1797 handwritten digits (Alpaydin and Kaynak, 1998), 1×8×8, ten classes: the first 1000 train, the last 797 test.

    The file is ordered by writer, so the test digits are by other people than the training digits. Pixels keep the
    file's values 0 … 16 (of 255): mean and std of a configuration are for pixels/255, as they are for every data set.

    Args:
        data_dir: not used, the file is a part of scikit-learn.
        download: not used.

    Raises:
        DataError: if the file in scikit-learn is another one.
    """
    from sklearn.datasets import load_digits

    file = load_digits()
    images = torch.from_numpy(file.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(file.target).to(torch.int64)
    found = Images(images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:], num_classes=10)
    if found.sha256() != SHA256:
        raise DataError(f"scikit-learn's digits have changed, their SHA-256 is {found.sha256()}; install 1.6")
    return found
