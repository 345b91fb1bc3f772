"""Squares of single images, against torchvision."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, RandomResizedCrop, Resize
from torchvision.transforms import functional as torchvision

from sam_repro.augmentation import Augmentation, CentreCrop, Flip, ResizedCrop

NONE = torch.Generator()


def image(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(40, 30), (31, 47), (32, 32), (20, 90)])
def test_the_centre_crop_is_torchvisions_resize_and_centre_crop(size, interpolation):
    theirs = CenterCrop(28)(Resize(32, InterpolationMode(interpolation))(image(*size)))
    ours = CentreCrop(0.875, interpolation)(image(*size), 28, NONE)
    assert np.array_equal(ours, theirs)


def test_without_a_share_the_image_is_squeezed():
    ours = CentreCrop(None)(image(40, 30), 16, NONE)
    assert np.array_equal(ours, torchvision.resize(image(40, 30), [16, 16]))


def test_the_resized_crop_is_torchvisions_at_the_same_place():
    view = ResizedCrop(interpolation="bicubic")
    for seed in range(20):
        left, top, width, height = view.box(40, 30, torch.Generator().manual_seed(seed))
        ours = view(image(40, 30), 16, torch.Generator().manual_seed(seed))
        theirs = torchvision.resized_crop(image(40, 30), top, left, height, width, [16, 16], InterpolationMode.BICUBIC)
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("size", [(40, 30), (100, 31)])
def test_places_are_distributed_as_torchvisions(size):
    """Mean and deviation of left, top, width and height over 4000 draws; 5 standard errors."""
    count, ours, theirs = 4000, [], []
    generator, view, blank = torch.Generator().manual_seed(1), ResizedCrop(), image(*size)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for _ in range(count):
            ours.append(view.box(*size, generator))
            top, left, height, width = RandomResizedCrop.get_params(blank, [0.08, 1], [3 / 4, 4 / 3])
            theirs.append((left, top, width, height))
    a, b = np.array(ours, dtype=float), np.array(theirs, dtype=float)
    error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / count)
    assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 5 * error).all()
    assert np.allclose(a.std(axis=0), b.std(axis=0), rtol=0.1)
    assert (a[:, 0] + a[:, 2]).max() == size[0]
    assert (a[:, 1] + a[:, 3]).max() == size[1]
    assert a[:, :2].min() == 0


@pytest.mark.parametrize(("size", "box"), [((90, 3), (43, 0, 4, 3)), ((3, 90), (0, 43, 3, 4))])
def test_what_never_fits_is_the_middle(size, box):
    assert ResizedCrop(scale=(1.0, 1.0)).box(*size, torch.Generator().manual_seed(0)) == box


@pytest.mark.parametrize(
    ("view", "arguments", "message"),
    [
        (ResizedCrop, {"scale": [0.0, 1.0]}, r"scale\[0\] = 0.0: must be a finite number > 0 and <= 1"),
        (ResizedCrop, {"scale": [0.5, 0.2]}, "scale = [0.5, 0.2]: must not fall"),
        (ResizedCrop, {"scale": 0.5}, "scale = 0.5: must be a list of numbers"),
        (ResizedCrop, {"ratio": [1.0]}, "ratio = [1.0]: must be a list of 2 numbers"),
        (ResizedCrop, {"interpolation": "area"}, "interpolation = area: must be one of nearest,"),
        (CentreCrop, {"share": 1.5}, "share = 1.5: must be a finite number > 0 and <= 1, or null"),
        (CentreCrop, {"share": None, "interpolation": 3}, "interpolation = 3: must be one of"),
    ],
)
def test_refused(view, arguments, message):
    with pytest.raises(ValueError, match=message if "\\" in message else re.escape(message)):
        view(**arguments)


def test_a_view_stands_first():
    transforms = {"crop": ResizedCrop(), "flip": Flip()}
    made = Augmentation([0.5], [0.5], order=["crop", "flip", "normalise"], **transforms)
    assert made.view is transforms["crop"]
    assert list(made.before) == ["flip"]
    with pytest.raises(ValueError, match="crop works on single images; name it first"):
        Augmentation([0.5], [0.5], order=["flip", "crop", "normalise"], **transforms)
