"""SVHN: three files of MATLAB arrays, in torchvision's own layout."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from sam_repro.dataset import DataError
from sam_repro.dataset.svhn import svhn

COUNTS = {"train": 5, "extra": 4, "test": 3}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Small files in place of the real ones, with their checksums: images and labels by part."""
    random = np.random.RandomState(0)
    folder = tmp_path / "SVHN"
    folder.mkdir()
    written, listed = {}, {}
    for part, count in COUNTS.items():
        images = random.randint(256, size=(32, 32, 3, count)).astype(np.uint8)
        labels = random.randint(1, 11, size=(count, 1)).astype(np.uint8)
        labels[0] = 10  # the digit 0
        path = folder / f"{part}_32x32.mat"
        savemat(path, {"X": images, "y": labels})
        written[part] = images, labels
        listed[part] = [f"http://127.0.0.1:9/{path.name}", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    return written


@pytest.mark.parametrize("extra", [True, False])
def test_parts_are_torchvisions_and_extra_follows_train(files, tmp_path, extra):
    images = svhn(str(tmp_path), download=False, extra=extra)
    parts = ["train", "extra"] if extra else ["train"]
    theirs = [datasets.SVHN(tmp_path / "SVHN", part) for part in parts]
    assert torch.equal(images.train_images, torch.from_numpy(np.concatenate([part.data for part in theirs])))
    assert images.train_labels.tolist() == [int(label) for part in theirs for label in part.labels]
    assert images.train_images[0, 1, 2, 3] == files["train"][0][2, 3, 1, 0]  # [row, column, channel, number]
    assert images.test_labels[0] == 0
    assert images.num_classes == 10
    assert images.train_images.is_contiguous()


def test_a_file_that_is_missing_or_damaged(files, tmp_path):
    path = tmp_path / "SVHN" / "extra_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=r"extra_32x32.mat is damaged, .* The file is http.*1329278602 bytes, MD5 .* it is then checked"
    ):
        svhn(str(tmp_path), download=False)
    assert len(svhn(str(tmp_path), download=False, extra=False).train_labels) == COUNTS["train"]
    path.unlink()
    with pytest.raises(DataError, match=r"extra_32x32.mat is missing, and fetching it failed: .*refused"):
        svhn(str(tmp_path), download=True)
    assert not list((tmp_path / "SVHN").glob(".download*"))


def test_extra_is_true_or_false(tmp_path):
    with pytest.raises(ValueError, match="extra = maybe: must be true or false"):
        svhn(str(tmp_path), False, extra="maybe")
