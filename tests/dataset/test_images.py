"""What a source may give, and how data go to a device."""

import pytest
import torch

from sam_repro.augmentation import Augmentation
from sam_repro.dataset import Data, Images, LabelNoise, Resident, Validation, prepare


def arguments(**changes):
    images, labels = torch.zeros(6, 1, 4, 5, dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2])
    given = {"train_images": images, "train_labels": labels, "test_images": images[:3], "test_labels": labels[:3]}
    return given | {"num_classes": 3} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": torch.zeros(6, 1, 4, 5)}, "train_images: float32 of shape"),
        ({"test_images": torch.zeros(3, 4, 5, dtype=torch.uint8)}, r"test_images: uint8 of shape \[3, 4, 5\]"),
        ({"train_labels": torch.zeros(6, dtype=torch.int32)}, "train_labels: int32"),
        ({"train_labels": torch.zeros(5, dtype=torch.int64)}, r"train_labels: int64 of shape \[5\]; .* \[6\]"),
        ({"test_labels": torch.tensor([0, 1, 3])}, r"test_labels: must be classes in \[0, 3\)"),
        ({"train_labels": torch.tensor([0, 1, 2, 0, 1, -1])}, "train_labels: must be classes"),
        ({"test_images": torch.zeros(3, 3, 4, 5, dtype=torch.uint8)}, "test_images: .* must be like uint8"),
        ({"confusions": (1, 0)}, "confusions: 2 classes; must be 3"),
        ({"confusions": (1, 0, 3)}, r"confusions: must be classes in \[0, 3\)"),
        ({"num_classes": 1}, "num_classes = 1"),
        ({"classes": ["a", "b"]}, "classes: 2 names; must be 3"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Images(**arguments(**changes))


def devices(split: Resident):
    return {tensor.device.type for tensor in (split.images, split.labels, split.clean_labels)}


@pytest.mark.parametrize("count", [0, 2])
def test_everything_goes_to_the_device(count):
    images = Images(**arguments())
    data = prepare(images, Validation(count=count, augmented=True), LabelNoise(rate=0.5), Augmentation([0.5], [0.5]))
    moved = data.to("meta")
    assert isinstance(moved, Data)
    assert devices(moved.train) == devices(moved.test) == {"meta"}
    assert (moved.validation is None) == (count == 0)
    assert moved.validation is None or devices(moved.validation) == {"meta"}
    assert (moved.ledger, moved.train.num_classes, moved.validation_augmented) == (data.ledger, 3, True)
    assert len(moved.train) == 6 - count
