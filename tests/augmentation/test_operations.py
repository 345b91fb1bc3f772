"""Every operation against PIL, to the last bit."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from sam_repro.augmentation import operations
from sam_repro.augmentation.operations import Operations

HEIGHT, WIDTH, FILL = 20, 33, (10, 128, 250)


def affine(*matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=FILL)


PIL = {
    "ShearX": lambda v: affine(1, v, 0, 0, 1, 0),
    "ShearY": lambda v: affine(1, 0, 0, v, 1, 0),
    "TranslateX": lambda v: affine(1, 0, v, 0, 1, 0),
    "TranslateY": lambda v: affine(1, 0, 0, 0, 1, v),
    "Rotate": lambda v: lambda image: image.rotate(v, fillcolor=FILL),
    "AutoContrast": lambda v: ImageOps.autocontrast,
    "Equalize": lambda v: ImageOps.equalize,
    "Invert": lambda v: ImageOps.invert,
    "Solarize": lambda v: lambda image: ImageOps.solarize(image, v),
    "Posterize": lambda v: lambda image: ImageOps.posterize(image, v),
    "Brightness": lambda v: lambda image: ImageEnhance.Brightness(image).enhance(v),
    "Color": lambda v: lambda image: ImageEnhance.Color(image).enhance(v),
    "Contrast": lambda v: lambda image: ImageEnhance.Contrast(image).enhance(v),
    "Sharpness": lambda v: lambda image: ImageEnhance.Sharpness(image).enhance(v),
    "Identity": lambda v: lambda image: image,
}
STRENGTHS = {
    **dict.fromkeys(("ShearX", "ShearY"), (0.3, -0.3, 0.03, -0.21)),
    **dict.fromkeys(("TranslateX", "TranslateY"), (9, -9, 40)),
    "Rotate": (30, -30, 6, -13.333),
    **dict.fromkeys(("AutoContrast", "Equalize", "Invert", "Identity"), (0,)),
    "Solarize": (0, 128, 255, 256, 141.667),
    "Posterize": (1, 3, 8),
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (0.1, 0.64, 1.0, 1.9, 5.5)),
}
ALL = [(name, strength) for name, strengths in STRENGTHS.items() for strength in strengths]


def by_pil(image, name, strength):
    changed = PIL[name](strength)(Image.fromarray(image.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def done(images, chosen, menu=ALL, row=None, column=None):
    nowhere = torch.zeros(len(images), dtype=torch.long)
    return Operations(menu, FILL)(
        images, chosen, nowhere if row is None else row, nowhere if column is None else column
    )


@pytest.mark.parametrize(("name", "strength"), ALL)
def test_an_operation_is_pils(name, strength, views):
    images = views()
    number = torch.full((len(images),), ALL.index((name, strength)))
    expected = torch.stack([by_pil(image, name, strength) for image in images])
    assert torch.equal(done(images, number), expected)
    assert torch.equal(images, views())


@pytest.mark.parametrize("some", [operations.grouped, operations.everywhere])
def test_each_image_gets_its_own(some, views, monkeypatch):
    monkeypatch.setattr(operations, "grouped", some)
    images = views(len(ALL))
    chosen = torch.randperm(len(ALL), generator=torch.Generator().manual_seed(1))
    expected = torch.stack([by_pil(image, *ALL[k]) for image, k in zip(images, chosen, strict=True)])
    assert torch.equal(done(images, chosen), expected)


def test_a_gpu_never_waits_for_what_was_drawn():
    """No operation there may need a value: tensors without values go through."""
    images = torch.empty(8, 3, HEIGHT, WIDTH, dtype=torch.uint8, device="meta")
    number = torch.empty(8, dtype=torch.long, device="meta")
    assert Operations([*ALL, ("Cutout", 6)], FILL)(images, number, number, number).shape == images.shape


def test_solarize_add(views):
    images = views()
    pixels = images.int()
    expected = torch.where(pixels < 128, (pixels + 33).clamp(max=255), pixels).to(torch.uint8)
    assert torch.equal(done(images, torch.zeros(len(images), dtype=torch.long), [("SolarizeAdd", 33)]), expected)


def test_posterize_to_no_bits_is_black(views):
    images = views()
    assert not done(images, torch.zeros(len(images), dtype=torch.long), [("Posterize", 0)]).any()


def test_cutout_fills_a_square_around_its_centre(views):
    images = views(4)
    row, column = torch.tensor([10, 0, 19, 5]), torch.tensor([7, 32, 0, 5])
    cut = done(images, torch.tensor([1, 1, 1, 0]), [("Identity", 0), ("Cutout", 6)], row, column)
    expected = images.clone()
    for i in range(3):
        top, left = max(int(row[i]) - 3, 0), max(int(column[i]) - 3, 0)
        square = expected[i, :, top : int(row[i]) + 3, left : int(column[i]) + 3]
        square[:] = torch.tensor(FILL, dtype=torch.uint8)[:, None, None]
    assert torch.equal(cut, expected)
