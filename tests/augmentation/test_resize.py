"""Images of another size, against PIL's filters on numbers that it does not round."""

import numpy as np
import pytest
import torch
from PIL import Image

from sam_repro.augmentation import Augmentation, Crop, Cutout, Flip, Resize

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def images(count=5, height=12, width=12):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def by_pil(batch, size, interpolation):
    """Each channel of each image alone, as float32, in [0, 255] after it."""
    planes = batch.flatten(0, 1).numpy().astype(np.float32)
    filtered = Image.Resampling[interpolation.upper()]
    made = np.stack([np.asarray(Image.fromarray(plane).resize((size, size), filtered)) for plane in planes])
    return torch.from_numpy(made.clip(0, 255)).view(*batch.shape[:2], size, size)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [5, 12, 31])
def test_it_is_the_filter_of_pil(size, interpolation):
    batch = images(height=9)
    torch.testing.assert_close(
        Resize(size, interpolation)(batch), by_pil(batch, size, interpolation), atol=1e-3, rtol=0
    )


def test_without_a_size_images_are_as_they_are():
    batch = images()
    assert Resize()(batch) is batch
    with_it, without = Augmentation(MEAN, STD, resize=Resize()), Augmentation(MEAN, STD)
    assert torch.equal(with_it.normalise(batch), without.normalise(batch))


def test_a_run_is_measured_on_images_of_the_size_on_which_it_is_trained():
    augmentation = Augmentation(MEAN, STD, resize=Resize(30))
    measured = augmentation.normalise(images())
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
    torch.testing.assert_close(measured, (by_pil(images(), 30, "bicubic") / 255 - mean) / std, atol=1e-4, rtol=0)
    assert torch.equal(augmentation(images(), torch.Generator()), measured)


def test_pixels_are_changed_before_and_inputs_after():
    """Flip and crop see 12 pixels a side, and cutout sees 36: where it may stand and how much it takes."""
    order = ["flip", "crop", "normalise", "cutout"]
    transforms = {"flip": Flip(1.0), "crop": Crop(3), "cutout": Cutout(20)}
    augmentation = Augmentation([0.0] * 3, [1.0] * 3, resize=Resize(36), order=order, **transforms)
    white = torch.full((400, 3, 12, 12), 255, dtype=torch.uint8)
    draws = augmentation.draw(white, torch.Generator().manual_seed(0))
    row, column, _ = draws[2]
    assert row.max() > 30
    assert column.max() > 30
    inputs = augmentation.apply(white, draws)
    for i in range(20):
        top, left = (max(int(place[i]) - 10, 0) for place in (row, column))
        bottom, right = (min(int(place[i]) + 10, 36) for place in (row, column))
        assert not inputs[i, :, top:bottom, left:right].any()
    moved = Augmentation([0.0] * 3, [1.0] * 3, order=order[:3], flip=transforms["flip"], crop=transforms["crop"])
    before = (moved.apply(white, draws[:2]) * 255).to(torch.uint8)
    unresized = Resize(36)(before) / 255
    assert torch.all((inputs == 0) | torch.isclose(inputs, unresized, atol=1e-6))


def test_limits_are_of_the_images_that_a_transform_gets():
    order = ["normalise", "cutout"]
    Augmentation(MEAN, STD, resize=Resize(36), order=order, cutout=Cutout(71)).check(images())
    with pytest.raises(ValueError, match=r"cutout.size = 72: must be an integer >= 0 and <= 71"):
        Augmentation(MEAN, STD, resize=Resize(36), order=order, cutout=Cutout(72)).check(images())
    with pytest.raises(ValueError, match=r"cutout.size = 24: must be an integer >= 0 and <= 23"):
        Augmentation(MEAN, STD, resize=Resize(36), order=["cutout", "normalise"], cutout=Cutout(24)).check(images())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size = 0: must be an integer >= 1, or null"),
        ({"size": 8, "interpolation": "nearest"}, "interpolation = nearest: must be one of bicubic, bilinear"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Resize(**arguments)
