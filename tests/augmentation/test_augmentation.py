"""The augmentation of a batch: its order, its random numbers, its limits, its cost."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import functional as torchvision

from sam_repro.augmentation import Augmentation, Cutout

CONFIGS = Path(__file__).parents[2] / "configs" / "augmentation"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def batch(count=64, channels=3, height=32, width=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def everything(**changes):
    cutout = {"size": 16, "probability": 0.5}
    return Augmentation(MEAN, STD, **{"pad": 4, "flip": True, "cutout": cutout} | changes)


def within(successes, trials, probability, sigmas=4):
    return abs(successes - trials * probability) <= sigmas * (trials * probability * (1 - probability)) ** 0.5


@pytest.mark.parametrize("padding_mode", ["zero", "reflect"])
@pytest.mark.parametrize("per", ["image", "batch"])
def test_flip_crop_normalise_cutout_in_this_order(padding_mode, per):
    images = batch(height=24, width=32)
    augmentation = everything(padding_mode=padding_mode, cutout=Cutout(10, per))
    draws = augmentation.draw(images, seeded())
    row, column, chosen = (x.expand(64) for x in draws.cutout)
    assert draws.flip.any()
    assert chosen.all()
    expected = []
    for i, image in enumerate(images):
        view = torchvision.hflip(image) if draws.flip[i] else image
        view = torchvision.pad(view, [4], padding_mode={"zero": "constant"}.get(padding_mode, padding_mode))
        view = torchvision.crop(view, int(draws.crop[0][i]), int(draws.crop[1][i]), 24, 32)
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
    plain, cut = everything(cutout=Cutout()).draw(images, seeded()), everything().draw(images, seeded())
    assert plain.cutout is None
    assert torch.equal(plain.flip, cut.flip)
    assert all(torch.equal(a, b) for a, b in zip(plain.crop, cut.crop, strict=True))


def test_distribution_of_flips_and_crops():
    count = 20_000
    draws = everything(pad=2, cutout=Cutout()).draw(torch.zeros(count, 3, 8, 9, dtype=torch.uint8), seeded())
    assert within(draws.flip.sum().item(), count, 0.5)
    offsets = Counter(zip(draws.crop[0].tolist(), draws.crop[1].tolist(), strict=True))
    assert set(offsets) == {(top, left) for top in range(5) for left in range(5)}
    assert all(within(n, count, 1 / 25, sigmas=5) for n in offsets.values())
    for offset in (draws.crop[0], draws.crop[1]):  # independent of the flip
        assert within((draws.flip & (offset == 0)).sum().item(), count, 0.1)


def test_distribution_of_cutout():
    count, height, width, size = 20_000, 6, 8, 4
    images = torch.full((count, 1, height, width), 255, dtype=torch.uint8)
    augmented = Augmentation([0.5], [0.25], cutout={"size": size, "probability": 0.7})(images, seeded())
    cut = (augmented == 0).squeeze(1)
    assert within(cut.any(2).any(1).sum().item(), count, 0.7)
    centres = [(row, column) for row in range(height) for column in range(width)]
    for y in range(height):
        for x in range(width):
            covering = sum(r - 2 <= y < r + 2 and c - 2 <= x < c + 2 for r, c in centres)
            assert within(cut[:, y, x].sum().item(), count, 0.7 * covering / len(centres), sigmas=5)


def test_cutout_per_batch_is_one_square_and_another_one_next_time():
    images = batch(count=16)
    augmentation = Augmentation(MEAN, STD, cutout={"size": 16, "per": "batch"})
    generator = seeded()
    masks = [augmentation(images, generator) == 0 for _ in range(20)]
    assert all(torch.equal(mask, mask[:1, :1].expand_as(mask)) for mask in masks)
    assert len({mask[0, 0].numpy().tobytes() for mask in masks}) > 10
    per_image = Augmentation(MEAN, STD, cutout={"size": 16})(images, seeded()) == 0
    assert len({mask[0].numpy().tobytes() for mask in per_image}) > 10


def test_cutout_per_batch_with_a_probability_is_all_or_nothing():
    images, generator = batch(count=8), seeded()
    augmentation = Augmentation(MEAN, STD, cutout=Cutout(16, "batch", 0.5))
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
    seen = operations(8, padding_mode=padding_mode, cutout=Cutout(16, per, 0.5))
    waits = ("_local_scalar_dense", "nonzero", "item", "equal", "unique", "masked_select", "_to_copy", "lift_fresh")
    assert [name for name in seen if any(wait in name for wait in waits)] == []
    assert any("addcmul" in name for name in seen)


def test_the_number_of_operations_does_not_grow_with_the_batch():
    assert len(operations(2)) == len(operations(64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pad": -1}, "pad = -1"),
        ({"pad": 1.5}, "pad = 1.5"),
        ({"padding_mode": "edge"}, "padding_mode = edge"),
        ({"flip": 1}, "flip = 1"),
        ({"cutout": {"size": -2}}, "cutout.size = -2"),
        ({"cutout": {"size": 16, "per": "pixel"}}, "cutout.per = pixel"),
        ({"cutout": {"size": 16, "probability": 1.5}}, "cutout.probability = 1.5"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "std = "),
        ({"std": [0.25, 0.25, 0.0]}, r"std\[2\] = 0"),
        ({"mean": []}, "mean = "),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**{"mean": MEAN, "std": STD} | arguments)


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
        (Augmentation(MEAN, STD, pad=8, padding_mode="reflect"), batch(height=8), r"pad = 8: .* <= 7"),
        (Augmentation(MEAN, STD, pad=8), batch(width=8), r"pad = 8: .* <= 7"),
        (Augmentation(MEAN, STD, cutout=Cutout(64)), batch(), r"cutout.size = 64: .* <= 63"),
    ],
)
def test_refused_images(augmentation, images, message):
    with pytest.raises(ValueError, match=message):
        augmentation(images, seeded())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_option_makes_an_augmentation(path):
    sizes = {"pad": 4, "flip": True, "cutout": 16}
    config = OmegaConf.create({"augmentation": OmegaConf.load(path), "dataset": {"augmentation": sizes}})
    augmentation = instantiate(config.augmentation)(mean=MEAN, std=STD)
    on, cut = path.stem != "none", path.stem == "cutout"
    assert (augmentation.pad, augmentation.flip, augmentation.cutout.size) == (4 * on, on, 16 * cut)
    assert augmentation(batch(), seeded()).shape == (64, 3, 32, 32)
