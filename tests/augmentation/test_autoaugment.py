"""AutoAugment and RandAugment: lists and levels against torchvision's and timm's, and what is drawn."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm
from torchvision.transforms import autoaugment as torchvision
from torchvision.transforms.functional import InterpolationMode

from sam_repro.augmentation.autoaugment import AutoAugment
from sam_repro.augmentation.magnitudes import AUTOAUGMENT, RANDAUGMENT
from sam_repro.augmentation.policies import POLICIES
from sam_repro.augmentation.randaugment import RandAugment

WITHOUT_LEVEL = ("AutoContrast", "Equalize", "Invert")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def within(successes, trials, probability, sigmas=5):
    return abs(successes - trials * probability) <= sigmas * (trials * probability * (1 - probability)) ** 0.5 + 1e-9


# Policies


@pytest.mark.parametrize(("data", "name"), [("cifar", "CIFAR10"), ("svhn", "SVHN"), ("imagenet", "IMAGENET")])
def test_the_papers_policies_are_torchvisions(data, name):
    theirs = torchvision.AutoAugment(torchvision.AutoAugmentPolicy[name]).policies
    ours = [tuple((op, p, None if op in WITHOUT_LEVEL else k) for op, p, k in sub) for sub in POLICIES[data]["paper"]]
    assert ours == theirs


def test_the_policy_for_imagenet_of_the_code_is_timms():
    hparams = {"translate_const": 250, "img_mean": (128, 128, 128)}
    theirs = [
        tuple(
            (op.name.removesuffix("Rel"), op.prob, 0 if op.name in WITHOUT_LEVEL else int(op.magnitude)) for op in sub
        )
        for sub in timm.auto_augment_policy_v0(hparams)
    ]
    assert list(POLICIES["imagenet"]["code"]) == theirs


@pytest.mark.parametrize(("data", "count", "blanked_pct"), [("cifar", 95, 11.4), ("svhn", 25, 11.6)])
def test_how_often_the_policies_of_the_code_move_an_image_out_of_sight(data, count, blanked_pct):
    """25 pixels a level, of 32: shares that were computed from the published lists."""
    shares = []
    for sub_policy in POLICIES[data]["code"]:
        kept = 1.0
        for name, share, level in sub_policy:
            kept *= 1 - share if name.startswith("Translate") and 25 * level >= 32 else 1
        shares.append(1 - kept)
    assert len(shares) == count
    assert round(100 * sum(shares) / count, 1) == blanked_pct


# Levels


def by_torchvision(image, name, magnitude):
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    changed = torchvision._apply_op(pil, name, magnitude, InterpolationMode.NEAREST, None)
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def ours(transform, images, entry, second):
    """All images through one entry of a transform."""
    size = (len(images), 1)
    entry, second, no = torch.full(size, entry), torch.full(size, second), torch.zeros(size, dtype=torch.long)
    return transform.apply(images, (entry, torch.ones(size, dtype=torch.bool), second, no, no))


def of_torchvision(height, width):
    """Transform, the level of the reference's table, and the table."""
    rand = RandAugment(magnitude=9)
    yield rand, dict.fromkeys(rand.entries, 9), torchvision.RandAugment()._augmentation_space(31, (height, width))
    space = torchvision.AutoAugment()._augmentation_space(10, (height, width))
    for data in POLICIES:
        auto = AutoAugment(data, "paper", "torchvision")
        yield auto, {entry: entry[1] for entry in auto.entries}, space


@pytest.mark.parametrize("number", range(4))
def test_the_reading_of_torchvision(number, views):
    images = views(6)
    transform, levels, space = list(of_torchvision(*images.shape[2:]))[number]
    for entry in dict.fromkeys(transform.entries):
        magnitudes, signed = space[entry[0]]
        strength = round(float(magnitudes[levels[entry]]), 6) if magnitudes.ndim else 0.0  # its table is float32
        here = transform.entries.index(entry)
        changed = [ours(transform, images, here, second) for second in (False, True)]
        expected = [
            torch.stack([by_torchvision(image, entry[0], sign * strength) for image in images])
            for sign in ((1, -1) if signed else (1, 1))
        ]
        if entry[0].startswith("Translate"):  # the two signs are equally likely, and change places
            expected.reverse()
        assert all(map(torch.equal, changed, expected)), entry


@pytest.mark.parametrize("level", [0, 1, 4, 9, 10])
def test_the_reading_of_efficientnet_is_timms(level):
    ours = AUTOAUGMENT["efficientnet"].strengths(level / 10, 32, 32)
    hparams = {"translate_const": 250}
    for name, strengths in ours.items():
        if name == "Cutout" or name in WITHOUT_LEVEL:
            continue
        to_argument = timm.LEVEL_TO_ARG["TranslateX" if name == "TranslateY" else name]
        theirs = {round(to_argument(level, hparams)[0], 9) for _ in range(30)}
        assert {round(strength, 9) for strength in strengths} == theirs, name


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, {"ShearX": 0, "TranslateX": 0, "Rotate": 0, "Solarize": 256, "Posterize": 4, "Color": 0.1, "Cutout": 0}),
        (
            3,
            {"ShearX": 0.09, "TranslateX": 3, "Rotate": 9, "Solarize": 180, "Posterize": 3, "Color": 0.64, "Cutout": 6},
        ),
        (
            9,
            {
                "ShearX": 0.27,
                "TranslateX": 9,
                "Rotate": 27,
                "Solarize": 26,
                "Posterize": 1,
                "Color": 1.72,
                "Cutout": 18,
            },
        ),
    ],
)
def test_the_reading_of_the_released_code(level, expected):
    strengths = AUTOAUGMENT["autoaugment"].strengths(level / 10, 32, 32)
    assert {name: strengths[name][0] for name in expected} == pytest.approx(expected)
    assert all(
        strengths[name] == (strengths[name][0], -strengths[name][0]) for name in ("ShearX", "TranslateX", "Rotate")
    )


# What is drawn


@pytest.mark.parametrize("policy", ["paper", "code"])
def test_sub_policies_are_drawn_alike_and_their_operations_by_their_probabilities(policy):
    count = 40_000
    transform = AutoAugment(policy=policy)
    entry, happens, second, *_ = transform.draw(torch.empty(count, 3, 8, 9, dtype=torch.uint8), seeded())
    assert torch.equal(entry[:, 1], entry[:, 0] + 1)
    drawn = Counter((entry[:, 0] // 2).tolist())
    assert set(drawn) == set(range(len(transform.sub_policies)))
    for number, times in drawn.items():
        assert within(times, count, 1 / len(transform.sub_policies))
        mine = entry[:, 0] == 2 * number
        for k, (_, share, _) in enumerate(transform.sub_policies[number]):
            assert within(happens[mine, k].sum().item(), times, share)
    assert within(second.sum().item(), 2 * count, 0.5)


def test_operations_of_randaugment_are_drawn_alike():
    count = 20_000
    entry, happens, *_ = RandAugment(3, magnitudes="efficientnet").draw(torch.empty(count, 3, 8, 9), seeded())
    assert happens.all()
    drawn = Counter(entry.flatten().tolist())
    assert set(drawn) == set(range(16))
    assert all(within(times, 3 * count, 1 / 16) for times in drawn.values())


TRANSFORMS = [
    *(AutoAugment(data, policy, "efficientnet") for data in POLICIES for policy in POLICIES[data]),
    *(AutoAugment("cifar", policy) for policy in ("paper", "code")),
    *(RandAugment(2, 9, magnitudes) for magnitudes in RANDAUGMENT),
    RandAugment(1, 30, "efficientnet"),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_two_operations_one_after_the_other(transform, views):
    """An image gets its own first operation and then its own second one, and no other image changes that."""
    images = views(40)
    draws = transform.draw(images, seeded(3))
    changed = transform.apply(images, draws)
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, images)
    for i in range(0, 40, 7):
        alone = images[i : i + 1]
        for k in range(draws[0].shape[1]):
            alone = transform.apply(alone, tuple(drawn[i : i + 1, k : k + 1] for drawn in draws))
        assert torch.equal(changed[i : i + 1], alone)


def test_the_mean_colour_of_the_data_comes_in_from_outside():
    transform = AutoAugment("svhn")
    transform.mean_colour = [1, 2, 3]
    number = transform.entries.index(("TranslateX", 3))
    moved = ours(transform, torch.full((1, 3, 8, 8), 99, dtype=torch.uint8), number, False)
    assert moved[0, :, 0].unique(dim=1).T.tolist() == [[1, 2, 3], [99, 99, 99]]


def test_the_generator_alone_decides(views):
    images, transform = views(), AutoAugment(policy="code")
    ambient = torch.get_rng_state()
    first, again, other = (transform.apply(images, transform.draw(images, seeded(seed))) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), ambient)


# Limits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoAugment("mnist"), "data = mnist: must be one of cifar, svhn, imagenet"),
        (lambda: AutoAugment(policy="both"), "policy = both: must be one of paper, code"),
        (
            lambda: AutoAugment(magnitudes="pil"),
            "magnitudes = pil: must be one of autoaugment, efficientnet, torchvision",
        ),
        (
            lambda: AutoAugment("cifar", "code", "torchvision"),
            "magnitudes = torchvision: has no Cutout, .* efficientnet",
        ),
        (lambda: AutoAugment("imagenet", "code"), "magnitudes = autoaugment: has no SolarizeAdd, .* efficientnet"),
        (lambda: RandAugment(-1), "operations = -1"),
        (lambda: RandAugment(magnitude=31), "magnitude = 31"),
        (lambda: RandAugment(magnitudes="autoaugment"), "magnitudes = autoaugment: must be one of"),
    ],
)
def test_refused_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("transform", [AutoAugment(), RandAugment()])
def test_grey_images_are_refused(transform):
    with pytest.raises(ValueError, match=r"is for images of 3 channels, and these have 1; choose augmentation=basic"):
        transform.check(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
