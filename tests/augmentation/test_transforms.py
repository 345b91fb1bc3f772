"""The batched transforms against torchvision, image by image, with the same parameters."""

import pytest
import torch
from torchvision.transforms import functional as torchvision

from sam_repro.augmentation import Crop, Cutout, Flip

HEIGHT, WIDTH = 6, 9  # not square: a swap of the axes shows


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (64, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)


def integers(high, count=64, seed=1):
    return torch.randint(high, (count,), generator=torch.Generator().manual_seed(seed))


def test_flip(images):
    chosen = integers(2).bool()
    expected = [torchvision.hflip(x) if c else x for x, c in zip(images, chosen, strict=True)]
    assert torch.equal(Flip().apply(images, (chosen,)), torch.stack(expected))


@pytest.mark.parametrize(("padding_mode", "name"), [("zero", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("pad", [1, 2, 5])
def test_crop(images, pad, padding_mode, name):
    top, left = integers(2 * pad + 1), integers(2 * pad + 1, seed=2)
    top[:4], left[:4] = torch.tensor([0, 0, 2 * pad, 2 * pad]), torch.tensor([0, 2 * pad, 0, 2 * pad])
    expected = [
        torchvision.crop(torchvision.pad(x, [pad], padding_mode=name), int(row), int(column), HEIGHT, WIDTH)
        for x, row, column in zip(images, top, left, strict=True)
    ]
    cropped = Crop(pad, padding_mode).apply(images, (top, left))
    assert cropped.dtype == torch.uint8
    assert torch.equal(cropped, torch.stack(expected))


def erased(image, row, column, size):
    """torchvision's erase of the square around a centre, as far as it is inside."""
    top, left = row - size // 2, column - size // 2
    bottom, right = min(top + size, HEIGHT), min(left + size, WIDTH)
    top, left = max(top, 0), max(left, 0)
    return torchvision.erase(image, top, left, bottom - top, right - left, torch.zeros(()))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8])
def test_cutout(images, size):
    images = images + torch.ones(())  # no zeros before
    row, column, chosen = integers(HEIGHT), integers(WIDTH, seed=2), integers(2, seed=3).bool()
    row[:4], column[:4] = torch.tensor([0, 0, HEIGHT - 1, HEIGHT - 1]), torch.tensor([0, WIDTH - 1, 0, WIDTH - 1])
    expected = [
        erased(x, int(r), int(c), size) if y else x for x, r, c, y in zip(images, row, column, chosen, strict=True)
    ]
    assert torch.equal(Cutout(size).apply(images, (row, column, chosen)), torch.stack(expected))


def test_the_even_square_lies_from_eight_before_its_centre_to_seven_after():
    cut = Cutout(16).apply(torch.ones(1, 1, 32, 32), (torch.tensor([16]), torch.tensor([10]), torch.tensor([True])))
    rows, columns = (cut[0, 0] == 0).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 23, 2, 17)
    assert (cut == 0).sum() == 256


def test_one_square_for_all(images):
    images = images + torch.ones(())
    cut = Cutout(4).apply(images, (torch.tensor([1]), torch.tensor([7]), torch.tensor([True])))
    assert torch.equal(cut, torch.stack([erased(x, 1, 7, 4) for x in images]))
    assert torch.equal(Cutout(4).apply(images, (torch.tensor([1]), torch.tensor([7]), torch.tensor([False]))), images)
