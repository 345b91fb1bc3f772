"""Images of one's own in a file of arrays: what they become, and what is refused."""

import re

import numpy as np
import pytest
import torch

from sam_repro.dataset import DataError
from sam_repro.dataset.arrays import arrays


def content(shape=(6, 5), channels=None, **changes):
    random = np.random.RandomState(0)
    last = () if channels is None else (channels,)
    return {
        "x_train": random.randint(256, size=(9, *shape, *last)).astype(np.uint8),
        "y_train": np.arange(9) % 3,
        "x_test": random.randint(256, size=(4, *shape, *last)).astype(np.uint8),
        "y_test": np.array([2, 0, 1, 1], dtype=np.uint8),
    } | changes


def saved(tmp_path, **parts):
    path = tmp_path / "mine.npz"
    np.savez(path, **{name: part for name, part in parts.items() if part is not None})
    return path


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_arrays_become_images(tmp_path, channels):
    parts = content(channels=channels)
    images = arrays(str(saved(tmp_path, **parts)), download=False)
    assert images.train_images.shape == (9, channels or 1, 6, 5)
    assert torch.equal(images.train_images[..., 2, 1], torch.from_numpy(parts["x_train"][:, 2, 1].reshape(9, -1)))
    assert torch.equal(images.test_images[..., 5, 4], torch.from_numpy(parts["x_test"][:, 5, 4].reshape(4, -1)))
    assert images.train_labels.tolist() == parts["y_train"].tolist()
    assert images.test_labels.tolist() == [2, 0, 1, 1]
    assert images.num_classes == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None, "x_test": None}, "has no x_test, y_test; write it by np.savez"),
        ({"x_train": np.zeros((9, 6, 5))}, "x_train is float64 of shape [9, 6, 5]; must be uint8"),
        ({"x_train": np.zeros((9, 30), np.uint8)}, "x_train is uint8 of shape [9, 30]; must be uint8"),
        ({"x_test": np.zeros((4, 3, 6, 5), np.uint8)}, "x_test has 5 channels; must be [N, H, W, C]"),
        ({"x_test": np.zeros((0, 6, 5), np.uint8)}, "x_test is uint8 of shape [0, 6, 5]"),
        ({"x_test": np.zeros((4, 6, 6), np.uint8)}, "x_train has images of [1, 6, 5] and x_test of [1, 6, 6]"),
        ({"y_train": np.arange(9) / 2}, "y_train is float64 of shape [9]; must be integers of shape [9]"),
        ({"y_train": np.zeros(8, int)}, "y_train is int64 of shape [8]; must be integers of shape [9]"),
        ({"y_train": np.eye(9, dtype=int)}, "y_train is int64 of shape [9, 9]; must be integers"),
        ({"y_test": np.array([0, 1, -1, 2])}, "y_test has the label -1; classes are numbered from 0 on"),
        ({"y_test": np.array([0, 1, 3, 2])}, "y_test has the label 3, and y_train none above 2"),
        ({"y_train": 1 + np.arange(9) % 3}, "no image of y_train has the label 0; give labels 0 … K − 1"),
        ({"y_train": np.zeros(9, int)}, "no image of y_train has the label 1"),
        ({"y_train": np.array([None] * 9)}, "cannot be read as arrays"),
    ],
)
def test_a_file_that_is_refused(tmp_path, changes, message):
    path = saved(tmp_path, **content(**changes))
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        arrays(str(path), download=False)
    assert str(caught.value).startswith(f"{path}")
    assert "\n" not in str(caught.value)


def test_what_is_no_such_file(tmp_path):
    with pytest.raises(DataError, match=r"nothing is missing; write data_dir=FILE.npz for a file of np.savez"):
        arrays(str(tmp_path / "nothing"), download=True)
    with pytest.raises(DataError, match=r"is a folder; write data_dir=FILE.npz"):
        arrays(str(tmp_path), download=True)
    for name, write in {
        "text": lambda path: path.write_text("hello"),
        "empty": lambda path: path.write_bytes(b""),
        "one.npy": lambda path: np.save(path, np.zeros(3)),
        "cut.npz": lambda path: path.write_bytes(saved(tmp_path, **content()).read_bytes()[:-40]),
    }.items():
        write(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: (cannot be read as arrays|has no x_train)"):
            arrays(str(tmp_path / name), download=True)
