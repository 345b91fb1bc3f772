"""Label noise: how many labels, which, and what stands in the result."""

import hashlib
import struct

import pytest
import torch

from sam_repro.augmentation import Augmentation
from sam_repro.dataset import Images, LabelNoise, Validation, prepare
from sam_repro.dataset.digits import digits
from sam_repro.dataset.downloads import CIFAR10_CONFUSIONS

PLAIN = Augmentation([0.5], [0.5])

KINDS = ("uniform", "symmetric", "asymmetric")


def many(num_classes=10, count=20_000, confusions=None):
    labels = torch.arange(count) % num_classes
    images = torch.zeros(count, 1, 1, 1, dtype=torch.uint8)
    return Images(images, labels, images[:1], labels[:1], num_classes, confusions)


def noisy(images, **arguments):
    return prepare(images, Validation(), LabelNoise(**arguments), PLAIN)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.4, 0.8, 1.0, 1 / 3])
@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_exact_counts(kind, rate):
    data = noisy(many(count=1237), rate=rate, kind=kind)
    assert (data.train.labels != data.train.clean_labels).sum() == round(rate * 1237)
    assert data.ledger["flipped"] == data.ledger["selected"] == round(rate * 1237)
    assert data.ledger["achieved_rate"] == round(rate * 1237) / 1237


@pytest.mark.parametrize("num_classes", [2, 10])
def test_uniform_draws_the_true_class_too(num_classes):
    data = noisy(many(num_classes), rate=0.8)
    wrong = (num_classes - 1) / num_classes
    sigma = (16_000 * wrong * (1 - wrong)) ** 0.5
    assert data.ledger["selected"] == 16_000
    assert abs(data.ledger["flipped"] - 16_000 * wrong) < 4 * sigma
    assert data.ledger["achieved_rate"] == data.ledger["flipped"] / 20_000


@pytest.mark.parametrize(("kind", "share"), [("uniform", 1 / 10), ("symmetric", 1 / 9)])
def test_all_wrong_classes_are_alike(kind, share):
    data = noisy(many(), rate=1.0, kind=kind)
    confusion = torch.bincount(data.train.clean_labels * 10 + data.train.labels, minlength=100).view(10, 10)
    wrong = confusion[~torch.eye(10, dtype=torch.bool)]
    assert (wrong - 2000 * share).abs().max() < 5 * (2000 * share * (1 - share)) ** 0.5
    assert kind == "uniform" or confusion.diagonal().sum() == 0


def test_asymmetric_is_the_next_class_or_what_the_data_set_says():
    data = noisy(many(num_classes=7), rate=1.0, kind="asymmetric")
    assert torch.equal(data.train.labels, (data.train.clean_labels + 1) % 7)
    data = noisy(many(confusions=CIFAR10_CONFUSIONS), rate=1.0, kind="asymmetric")
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    changed = {names[a]: names[b] for a, b in zip(data.train.clean_labels, data.train.labels, strict=True) if a != b}
    assert changed == {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
    assert data.ledger["selected"] == 20_000
    assert data.ledger["flipped"] == 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_rate_adds_to_a_lower_one(kind):
    low, high = (noisy(many(), rate=rate, kind=kind).train for rate in (0.2, 0.4))
    changed = low.labels != low.clean_labels
    assert torch.equal(low.labels[changed], high.labels[changed])


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_is_another_mask(kind):
    ledgers = [noisy(many(), rate=0.2, kind=kind, seed=seed).ledger for seed in range(5)]
    assert len({ledger["mask_sha256"] for ledger in ledgers}) == 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stratified", [False, True])
def test_the_mask_does_not_depend_on_the_split(kind, stratified):
    images, noise = digits("", False), LabelNoise(rate=0.4, kind=kind)
    whole = prepare(images, Validation(), noise, PLAIN)
    for seed in range(3):
        validation = Validation(300, seed, stratified, noisy=True)
        split = prepare(images, validation, noise, PLAIN)
        assert split.ledger == whole.ledger | {"validation": "noisy"}
        held_out = validation.held_out(images.train_labels)
        assert torch.equal(split.train.labels, whole.train.labels[~held_out])
        assert torch.equal(split.validation.labels, whole.train.labels[held_out])


def test_validation_labels_are_clean_unless_said():
    noise = LabelNoise(rate=0.4, kind="symmetric")
    clean = prepare(digits("", False), Validation(300), noise, PLAIN)
    noisy = prepare(digits("", False), Validation(300, noisy=True), noise, PLAIN)
    assert clean.ledger["validation"] == "clean"
    assert noisy.ledger["validation"] == "noisy"
    assert torch.equal(clean.validation.labels, clean.validation.clean_labels)
    assert not torch.equal(noisy.validation.labels, noisy.validation.clean_labels)
    assert torch.equal(clean.validation.clean_labels, noisy.validation.clean_labels)
    assert torch.equal(clean.train.labels, noisy.train.labels)


def test_test_labels_and_the_source_stay_clean():
    images = digits("", False)
    before = images.train_labels.clone()
    data = noisy(images, rate=1.0, kind="symmetric")
    assert torch.equal(images.train_labels, before)
    assert torch.equal(data.train.clean_labels, before)
    assert torch.equal(data.test.labels, images.test_labels)


@pytest.mark.parametrize("kind", KINDS)
def test_no_noise_no_ledger(kind):
    data = noisy(digits("", False), rate=0.0, kind=kind)
    assert data.ledger is None
    assert torch.equal(data.train.labels, data.train.clean_labels)


@pytest.mark.parametrize(
    ("kind", "flipped", "digest"),
    [
        ("uniform", 363, "843f7f2d9d4ddb48b9dc0f7bb18234688a3c256f518f4988a2a1f455251f00c5"),
        ("symmetric", 400, "a14abc318babe4a9c85ff88ab78144c44371c86cd3c263fb8ad5d3f9d795c7de"),
        ("asymmetric", 400, "a3ea00e118851c4599aff450e008d428ee21fdbbb09f31c900daf29c70a0fe2d"),
    ],
)
def test_the_mask_is_the_same_on_every_machine(kind, flipped, digest):
    ledger = noisy(digits("", False), rate=0.4, kind=kind).ledger
    assert ledger == {
        "kind": kind,
        "rate": 0.4,
        "seed": 0,
        "validation": "clean",
        "selected": 400,
        "flipped": flipped,
        "achieved_rate": flipped / 1000,
        "mask_sha256": digest,
    }


def test_the_hash_is_over_the_mask_and_the_labels():
    train = noisy(many(count=50), rate=0.5).train
    mask = bytes(int(a != b) for a, b in zip(train.labels.tolist(), train.clean_labels.tolist(), strict=True))
    labels = b"".join(struct.pack("<q", label) for label in train.labels.tolist())
    assert noisy(many(count=50), rate=0.5).ledger["mask_sha256"] == hashlib.sha256(mask + labels).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": -0.1}, "rate = -0.1"),
        ({"rate": 1.1}, "rate = 1.1"),
        ({"kind": "pairs"}, "kind = pairs: must be one of uniform, symmetric, asymmetric"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelNoise(**arguments)
