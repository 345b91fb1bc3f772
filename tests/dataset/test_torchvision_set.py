"""torchvision's sets by name."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from sam_repro.dataset import DataError
from sam_repro.dataset.torchvision_set import BY_FLAG, BY_NAME, torchvision_set


class Photographs:
    """Stands for a set of torchvision: images of a mode and sizes of their own."""

    sizes, modes = ((8, 6), (8, 6)), ("RGB", "L")
    classes = ("soup", "salad")

    def __init__(self, root, split, download):
        self.count = {"train": 4, "test": 3}[split]

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        width, height = self.sizes[i % 2]
        array = np.random.RandomState(i).randint(256, size=(height, width, 3)).astype(np.uint8)
        return Image.fromarray(array).convert(self.modes[i % 2]), i % 2


@pytest.fixture
def photographs(monkeypatch):
    monkeypatch.setattr(datasets, "Food101", Photographs)
    return Photographs


def test_every_name_is_a_set_with_the_parts_that_are_asked_for():
    for name in (*BY_FLAG, *BY_NAME):
        kind = getattr(datasets, name)
        source, arguments = inspect.getsource(inspect.getmodule(kind)), inspect.signature(kind.__init__).parameters
        assert ("train" if name in BY_FLAG else "split") in arguments
        assert ("download" in arguments or "kwargs" in arguments) == (name != "FER2013")
        for part in BY_NAME.get(name, ()):
            assert f'"{part}"' in source


def test_a_grey_image_among_colours_becomes_colour(photographs, tmp_path):
    images = torchvision_set(str(tmp_path), False, "Food101")
    assert images.train_images.shape == (4, 3, 6, 8)
    assert images.test_images.shape == (3, 3, 6, 8)
    assert images.train_labels.tolist() == [0, 1, 0, 1]
    assert images.classes == ["soup", "salad"]
    first, second = Photographs(None, "train", False)[0][0], Photographs(None, "train", False)[1][0]
    assert torch.equal(images.train_images[0], torch.from_numpy(np.array(first)).permute(2, 0, 1))
    assert torch.equal(images.train_images[1], torch.from_numpy(np.array(second))[None].expand(3, -1, -1))


def test_grey_images_stay_grey(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "modes", ("L", "L"))
    assert torchvision_set(str(tmp_path), False, "Food101").train_images.shape == (4, 1, 6, 8)


def test_images_of_several_sizes_need_one(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "sizes", ((8, 6), (10, 12)))
    with pytest.raises(
        DataError, match=r"Food101 has images of several sizes, such as 8×6 and 10×12; write dataset.source.size=64"
    ):
        torchvision_set(str(tmp_path), False, "Food101")
    images = torchvision_set(str(tmp_path), False, "Food101", size=5)
    assert images.train_images.shape == (4, 3, 5, 5)


@pytest.mark.parametrize(("share", "box"), [(1, (1, 0, 7, 6)), (0.5, (2.5, 1.5, 5.5, 4.5)), (None, (0, 0, 8, 6))])
def test_a_square_shows_the_middle_and_keeps_proportions(photographs, tmp_path, share, box):
    images = torchvision_set(str(tmp_path), False, "Food101", size=12, share=share, interpolation="nearest")
    whole = Photographs(None, "train", False)[2][0]
    square = whole.resize((12, 12), Image.Resampling.NEAREST, box=box)
    assert torch.equal(images.train_images[2], torch.from_numpy(np.array(square)).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("CIFAR11", "CIFAR10"),
        ("cifar10", "CIFAR10"),
        ("flowers", "Flowers102"),
        ("ImageFolder", "Imagenette"),
        ("xyz", "CIFAR10, CIFAR100, "),
        (7, "MNIST"),
    ],
)
def test_a_name_that_torchvision_has_not(tmp_path, name, hint):
    with pytest.raises(ValueError, match=rf"name = {name}: is none of torchvision's sets; did you mean .*{hint}"):
        torchvision_set(str(tmp_path), False, name)


@pytest.mark.parametrize("name", ["CIFAR10", "STL10", "FER2013", "OxfordIIITPet"])
def test_absent_files(tmp_path, name):
    with pytest.raises(
        DataError, match=rf"torchvision's {name} cannot be had: .* put its files into {tmp_path}"
    ) as caught:
        torchvision_set(str(tmp_path), False, name)
    assert "\n" not in str(caught.value)


def test_a_size_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="size = 0: must be an integer >= 1, or null"):
        torchvision_set(str(tmp_path), False, "CIFAR10", size=0)
