"""The augmentation of a batch: its order, its random numbers, its limits, its cost."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import functional as torchvision

from sam_repro.augmentation import Augmentation, Crop, Cutout, Flip, Transform
from sam_repro.config.lines import compose_line

OPTIONS = sorted(file.stem for file in (Path(__file__).parents[2] / "configs" / "augmentation").glob("*.yaml"))
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def batch(count=64, channels=3, height=32, width=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(mean=MEAN, std=STD, **transforms):
    """Flip, crop, normalise, cutout, in this order: those of them that are given."""
    order = [name for name in ("flip", "crop", "normalise", "cutout") if name in (*transforms, "normalise")]
    return Augmentation(mean, std, order=order, **transforms)


def everything(**changes):
    return made(**{"flip": Flip(), "crop": Crop(), "cutout": Cutout(16, probability=0.5)} | changes)


def within(successes, trials, probability, sigmas=4):
    return abs(successes - trials * probability) <= sigmas * (trials * probability * (1 - probability)) ** 0.5


@pytest.mark.parametrize("padding_mode", ["zero", "reflect"])
@pytest.mark.parametrize("per", ["image", "batch"])
def test_flip_crop_normalise_cutout_in_this_order(padding_mode, per):
    images = batch(height=24, width=32)
    augmentation = everything(crop=Crop(4, padding_mode), cutout=Cutout(10, per))
    (flip,), crop, cutout = augmentation.draw(images, seeded())
    row, column, chosen = (x.expand(64) for x in cutout)
    assert flip.any()
    assert chosen.all()
    expected = []
    for i, image in enumerate(images):
        view = torchvision.hflip(image) if flip[i] else image
        view = torchvision.pad(view, [4], padding_mode={"zero": "constant"}.get(padding_mode, padding_mode))
        view = torchvision.crop(view, int(crop[0][i]), int(crop[1][i]), 24, 32)
        view = torchvision.normalize(view / 255, MEAN, STD)
        top, left = max(int(row[i]) - 5, 0), max(int(column[i]) - 5, 0)
        bottom, right = min(int(row[i]) + 5, 24), min(int(column[i]) + 5, 32)
        expected.append(torchvision.erase(view, top, left, bottom - top, right - left, torch.zeros(())))
    augmented = augmentation(images, seeded())
    assert augmented.dtype == torch.float32
    torch.testing.assert_close(augmented, torch.stack(expected), rtol=1e-5, atol=2e-6)
    assert torch.equal(augmented == 0, torch.stack(expected) == 0)


def test_normalise_is_torchvisions():
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    expected = torchvision.normalize(every_value.double() / 255, MEAN, STD)
    torch.testing.assert_close(Augmentation(MEAN, STD).normalise(every_value).double(), expected, rtol=1e-6, atol=5e-7)


def test_all_off_is_normalise():
    images = batch()
    generator = seeded()
    before = generator.get_state()
    assert torch.equal(Augmentation(MEAN, STD)(images, generator), everything().normalise(images))
    assert torch.equal(generator.get_state(), before)


def test_the_images_stay_as_they_are():
    images = batch()
    everything()(images, seeded())
    assert torch.equal(images, batch())


def test_the_generator_alone_decides():
    images, augmentation = batch(), everything()
    ambient = torch.get_rng_state()
    first, again, other = (augmentation(images, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), ambient)
    generator = seeded(3)
    assert torch.equal(augmentation(images, generator), first)
    assert not torch.equal(augmentation(images, generator), first)


def test_cutout_leaves_flips_and_crops():
    images = batch()
    plain, cut = everything(cutout=Cutout(0)).draw(images, seeded()), everything().draw(images, seeded())
    assert (len(plain), len(cut)) == (2, 3)
    assert all(
        torch.equal(a, b) for one, other in zip(plain, cut, strict=False) for a, b in zip(one, other, strict=True)
    )


def test_distribution_of_flips_and_crops():
    count = 20_000
    images = torch.zeros(count, 3, 8, 9, dtype=torch.uint8)
    (flip,), crop = made(flip=Flip(), crop=Crop(2)).draw(images, seeded())
    assert within(flip.sum().item(), count, 0.5)
    offsets = Counter(zip(crop[0].tolist(), crop[1].tolist(), strict=True))
    assert set(offsets) == {(top, left) for top in range(5) for left in range(5)}
    assert all(within(n, count, 1 / 25, sigmas=5) for n in offsets.values())
    for offset in crop:  # independent of the flip
        assert within((flip & (offset == 0)).sum().item(), count, 0.1)


def test_distribution_of_cutout():
    count, height, width, size = 20_000, 6, 8, 4
    images = torch.full((count, 1, height, width), 255, dtype=torch.uint8)
    augmented = made([0.5], [0.25], cutout=Cutout(size, probability=0.7))(images, seeded())
    cut = (augmented == 0).squeeze(1)
    assert within(cut.any(2).any(1).sum().item(), count, 0.7)
    centres = [(row, column) for row in range(height) for column in range(width)]
    for y in range(height):
        for x in range(width):
            covering = sum(r - 2 <= y < r + 2 and c - 2 <= x < c + 2 for r, c in centres)
            assert within(cut[:, y, x].sum().item(), count, 0.7 * covering / len(centres), sigmas=5)


def test_cutout_per_batch_is_one_square_and_another_one_next_time():
    images = batch(count=16)
    augmentation = made(cutout=Cutout(16, "batch"))
    generator = seeded()
    masks = [augmentation(images, generator) == 0 for _ in range(20)]
    assert all(torch.equal(mask, mask[:1, :1].expand_as(mask)) for mask in masks)
    assert len({mask[0, 0].numpy().tobytes() for mask in masks}) > 10
    per_image = made(cutout=Cutout(16))(images, seeded()) == 0
    assert len({mask[0].numpy().tobytes() for mask in per_image}) > 10


def test_cutout_per_batch_with_a_probability_is_all_or_nothing():
    images, generator = batch(count=8), seeded()
    augmentation = made(cutout=Cutout(16, "batch", 0.5))
    shares = [(augmentation(images, generator) == 0).any(3).any(2).any(1).float().mean().item() for _ in range(400)]
    assert set(shares) == {0.0, 1.0}
    assert within(sum(shares), 400, 0.5)


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def operations(count, **changes):
    augmentation, images = everything(**changes), batch(count)
    augmentation(images, seeded())
    with Operations() as operations:
        augmentation(images, seeded())
    return operations.seen


@pytest.mark.parametrize("padding_mode", ["zero", "reflect"])
@pytest.mark.parametrize("per", ["image", "batch"])
def test_the_host_never_waits(padding_mode, per):
    seen = operations(8, crop=Crop(4, padding_mode), cutout=Cutout(16, per, 0.5))
    waits = ("_local_scalar_dense", "nonzero", "item", "equal", "unique", "masked_select", "_to_copy", "lift_fresh")
    assert [name for name in seen if any(wait in name for wait in waits)] == []
    assert any("addcmul" in name for name in seen)


def test_the_number_of_operations_does_not_grow_with_the_batch():
    assert len(operations(2)) == len(operations(64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": ["flip", "normalise"]}, r"order = \[flip, normalise\]: must name none but normalise"),
        ({"order": "normalise"}, "order = normalise: must be a list"),
        ({"order": 3}, "order = 3: must be a list"),
        ({"order": []}, "order = .*: must be a list of transforms and, once, normalise"),
        ({"order": ["normalise", "normalise"]}, "and, once, normalise"),
        ({"order": ["flip", "flip", "normalise"], "flip": Flip()}, "must name each transform once"),
        ({"order": ["normalise", "crop"], "crop": Crop()}, "order: crop works on pixels; name it before normalise"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "std = "),
        ({"std": [0.25, 0.25, 0.0]}, r"std\[2\] = 0"),
        ({"mean": []}, "mean = "),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**{"mean": MEAN, "std": STD} | arguments)


@pytest.mark.parametrize(
    ("transform", "arguments", "message"),
    [
        (Crop, {"pad": -1}, "pad = -1"),
        (Crop, {"pad": 1.5}, "pad = 1.5"),
        (Crop, {"padding_mode": "edge"}, "padding_mode = edge"),
        (Flip, {"probability": True}, "probability = true"),
        (Cutout, {"size": -2}, "size = -2"),
        (Cutout, {"per": "pixel"}, "per = pixel"),
        (Cutout, {"probability": 1.5}, "probability = 1.5"),
    ],
)
def test_refused_settings_of_a_transform(transform, arguments, message):
    with pytest.raises(ValueError, match=message):
        transform(**arguments)


@pytest.mark.parametrize(
    ("augmentation", "images", "message"),
    [
        (
            Augmentation(MEAN, STD),
            batch(channels=1),
            r"mean = .*: must be one number for each channel, of which there are 1",
        ),
        (
            Augmentation([0.5], [0.5]),
            batch(),
            r"mean = \[0.5\]: must be one number for each channel, of which there are 3",
        ),
        (Augmentation(MEAN, STD), batch() / 255, "float32"),
        (Augmentation(MEAN, STD), batch()[0], "shape"),
        (made(crop=Crop(8, "reflect")), batch(height=8), r"crop.pad = 8: .* <= 7"),
        (made(crop=Crop(8)), batch(width=8), r"crop.pad = 8: .* <= 7"),
        (made(cutout=Cutout(64)), batch(), r"cutout.size = 64: .* <= 63"),
    ],
)
def test_refused_images(augmentation, images, message):
    with pytest.raises(ValueError, match=message):
        augmentation(images, seeded())


def test_a_cutout_before_the_crop_is_of_the_mean_colour_and_the_crop_moves_it():
    """The order of Momentum-SAM: what the square covers is the mean colour, but for the rounding of pixels."""
    images = torch.full((400, 3, 16, 16), 255, dtype=torch.uint8)
    order = ["cutout", "crop", "normalise"]
    augmentation = Augmentation(MEAN, STD, order=order, cutout=Cutout(16), crop=Crop(4))
    cut = augmentation.apply(images, augmentation.draw(images, seeded()))
    colour = torch.tensor([round(255 * m) for m in MEAN], dtype=torch.uint8).view(1, 3, 1, 1)
    mean = augmentation.normalise(colour)
    assert mean.abs().max() < 0.5 / 255 / min(STD) + 1e-6
    black, white = (augmentation.normalise(torch.full((1, 3, 1, 1), x, dtype=torch.uint8)) for x in (0, 255))
    kinds = [(cut == value).all(dim=1) for value in (mean, black, white)]
    assert torch.stack(kinds).sum(dim=0).eq(1).all()
    middle = kinds[0][:, 4:12, 4:12].float().mean()  # a square that was cut after the crop would reach the border
    assert all(kind.any() for kind in kinds)
    assert kinds[0][:, 0].float().mean() < 0.7 * middle


def test_a_transform_that_the_order_does_not_name_does_nothing():
    images = batch()
    unnamed = Augmentation(MEAN, STD, order=["normalise"], flip=Flip(), crop={"pad": 4})
    assert torch.equal(unnamed(images, seeded()), unnamed.normalise(images))


class Halves(Transform):
    """Mixes each image with the next one, half by half; it stands for what changes labels."""

    places = ("inputs",)

    def draw(self, images, generator):
        return (torch.randint(1, 2, (1,), generator=generator, device=generator.device),)

    def apply(self, images, draws):
        return (images + images.roll(1, dims=0)) / 2

    def relabel(self, targets, draws, num_classes):
        one_hot = torch.nn.functional.one_hot(targets, num_classes).float()
        return (one_hot + one_hot.roll(1, dims=0)) / 2


def test_a_transform_may_change_the_targets():
    images, labels = batch(4), torch.tensor([0, 1, 2, 2])
    augmentation = Augmentation(MEAN, STD, order=["flip", "normalise", "halves"], flip=Flip(), halves=Halves())
    draws = augmentation.draw(images, seeded())
    mixed = augmentation.relabel(labels, draws, 4)
    assert torch.equal(mixed, torch.tensor([[0.5, 0, 0.5, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0]]))
    assert torch.equal(everything().relabel(labels, everything().draw(images, seeded()), 4), labels)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_makes_an_augmentation(option):
    config = compose_line([f"augmentation={option}", "dataset=cifar10"])
    augmentation = instantiate(config["augmentation"])(mean=MEAN, std=STD)
    inputs = augmentation(batch(), seeded())
    assert inputs.shape == (64, 3, 32, 32)
    assert torch.equal(inputs, augmentation.normalise(batch())) == (option == "none")
