"""The validation split: what is held out, and what it is not influenced by."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from sam_repro.augmentation import Augmentation
from sam_repro.dataset import Images, LabelNoise, Validation, prepare
from sam_repro.dataset.digits import digits

CLEAN, PLAIN = LabelNoise(), Augmentation([0.5], [0.5])


def numbered(counts, num_classes=None):
    """Images that carry their own number in their pixels, `counts[c]` of class c, shuffled."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    number = torch.arange(len(labels))
    images = torch.stack([number // 256, number % 256], dim=1).to(torch.uint8).view(-1, 1, 1, 2)
    return Images(images, labels, images[:1], labels[:1], num_classes or len(counts))


def numbers(split):
    return (split.images[:, 0, 0, 0].long() * 256 + split.images[:, 0, 0, 1].long()).tolist()


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("count", [1, 100, 999])
def test_disjoint_and_complete_and_labelled(count, stratified):
    images = numbered([300, 300, 400])
    data = prepare(images, Validation(count, stratified=stratified), CLEAN, PLAIN)
    train, held = numbers(data.train), numbers(data.validation)
    assert len(held) == len(data.validation) == count
    assert sorted(train + held) == list(range(1000))
    for split in (data.train, data.validation):
        assert torch.equal(split.labels, images.train_labels[numbers(split)])
        assert torch.equal(split.labels, split.clean_labels)


def test_without_a_count_all_images_train_in_file_order():
    data = prepare(numbered([3, 4]), Validation(), CLEAN, PLAIN)
    assert data.validation is None
    assert numbers(data.train) == list(range(7))


@pytest.mark.parametrize(
    ("stratified", "expected"),
    [
        (False, [17, 33, 36, 65, 69, 80, 81, 82, 84, 93]),
        (True, [17, 33, 36, 39, 52, 56, 65, 69, 80, 84]),
    ],
)
def test_the_split_is_the_same_on_every_machine(stratified, expected):
    labels = (torch.arange(100) >= 80).long()  # 80 and 20
    assert Validation(10, 1, stratified).held_out(labels).nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("stratified", [False, True])
def test_another_seed_is_another_split(stratified):
    labels = torch.arange(100) % 2
    masks = [Validation(20, seed, stratified).held_out(labels) for seed in range(9)]
    assert len({tuple(mask.tolist()) for mask in masks}) == 9


@pytest.mark.parametrize(
    ("counts", "count", "expected"),
    [
        ([500] * 10, 500, [50] * 10),
        ([100, 200, 700], 100, [10, 20, 70]),
        ([10, 20, 30], 6, [1, 2, 3]),
        ([40, 40, 20], 25, [10, 10, 5]),
    ],
)
def test_stratified_counts(counts, count, expected):
    for seed in range(5):
        data = prepare(numbered(counts), Validation(count, seed, stratified=True), CLEAN, PLAIN)
        assert torch.bincount(data.validation.labels).tolist() == expected


def test_stratified_counts_that_do_not_divide_are_off_by_less_than_one():
    counts, count = [33, 50, 117], 37
    data = prepare(numbered(counts), Validation(count, stratified=True), CLEAN, PLAIN)
    for given, size in zip(torch.bincount(data.validation.labels).tolist(), counts, strict=True):
        assert abs(given - count * size / 200) < 1


def test_a_stratified_remainder_goes_to_whoever_comes_first_in_the_stream():
    labels = torch.arange(1000) % 10
    order = np.random.RandomState(3).permutation(1000).tolist()
    members = [[i for i in order if i % 10 == label] for label in range(10)]
    fourth = sorted((chosen[3] for chosen in members), key=order.index)
    expected = {i for chosen in members for i in chosen[:3]} | set(fourth[:7])
    mask = Validation(37, 3, stratified=True).held_out(labels)
    assert set(mask.nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("stratified", [False, True])
def test_the_split_does_not_depend_on_the_noise(stratified):
    validation = Validation(200, stratified=stratified)
    clean = prepare(digits("", False), validation, CLEAN, PLAIN)
    noisy = prepare(digits("", False), validation, LabelNoise(rate=0.4), PLAIN)
    assert torch.equal(clean.validation.images, noisy.validation.images)
    assert torch.equal(clean.train.images, noisy.train.images)


def test_the_count_must_leave_something_to_train_on():
    with pytest.raises(ValueError, match=r"validation.count = 7: .* <= 6"):
        prepare(numbered([3, 4]), Validation(7), CLEAN, PLAIN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1}, "count = -1"),
        ({"seed": 2**32}, "seed = "),
        ({"stratified": "yes"}, "stratified = yes"),
        ({"augmented": 0}, "augmented = 0"),
        ({"noisy": None}, "noisy = null"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Validation(**arguments)


def test_augmented_is_carried_on():
    assert prepare(numbered([3, 4]), Validation(2, augmented=True), CLEAN, PLAIN).validation_augmented
    assert not prepare(numbered([3, 4]), Validation(2), CLEAN, PLAIN).validation_augmented


def test_the_stream_of_torch_is_random_splits():
    labels = torch.arange(1000) % 7
    _, held = torch.utils.data.random_split(range(1000), [0.9, 0.1], torch.Generator().manual_seed(42))
    mask = Validation(100, 42, stream="torch").held_out(labels)
    assert mask.nonzero().flatten().tolist() == sorted(held.indices)
    assert not Validation(0, 42, stream="torch").held_out(labels).any()


def test_the_stream_of_sklearn_is_its_stratified_split():
    labels = torch.arange(1000) % 7
    _, held = train_test_split(np.arange(1000), test_size=0.1, stratify=labels, random_state=42)
    mask = Validation(100, 42, stratified=True, stream="sklearn").held_out(labels)
    assert mask.nonzero().flatten().tolist() == sorted(held)
    for count in (6, 994):
        with pytest.raises(ValueError, match=rf"validation.count = {count}: must be an integer >= 7 and <= 993"):
            Validation(count, 42, stratified=True, stream="sklearn").held_out(labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stream": "jax"}, "stream = jax: must be one of numpy, torch, sklearn"),
        ({"stream": "torch", "stratified": True}, "stream = torch: is not stratified; write stratified=false"),
        ({"stream": "sklearn"}, "stream = sklearn: is stratified; write stratified=true"),
    ],
)
def test_a_stream_that_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Validation(10, **arguments)
