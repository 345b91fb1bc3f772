"""Mixup: the law of its shares, and what it makes of inputs and targets."""

import pytest
import torch
from torch.nn import functional

from sam_repro.augmentation.mixup import Mixup


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(count=7, classes=5):
    generator = seeded(1)
    return torch.randn(count, 3, 4, 6, generator=generator), torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0, 32.0])
def test_shares_are_of_the_beta_law(alpha):
    """Moments of |l − ½| = λ − ½, of torch's own Beta and of ours."""
    count = 20_000
    (share,) = Mixup(alpha, "image").draw(torch.empty(count, 1, 1, 1), seeded())
    assert share.min() >= 0.5
    assert share.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))  # of l; its mean is ½
    squares = (share.double() - 0.5) ** 2
    assert abs(squares.mean() - variance) < 5 * squares.std() / count**0.5
    torch.manual_seed(0)
    theirs = torch.distributions.Beta(alpha, alpha).sample((count,))
    ours, theirs = share.sort().values, torch.maximum(theirs, 1 - theirs).sort().values
    assert (ours - theirs).abs().max() < 0.04  # quantiles: 2.5/√n of a uniform law, and more than 1 of none here


@pytest.mark.parametrize("per", ["batch", "image"])
def test_inputs_and_targets_are_mixed_alike(per):
    images, targets = batch()
    mixup = Mixup(1.0, per)
    draws = mixup.draw(images, seeded())
    share = draws[0].expand(len(images))
    assert len(set(share.tolist())) == (1 if per == "batch" else len(images))
    mixed, soft = mixup.apply(images, draws), mixup.relabel(targets, draws, num_classes=5)
    last = len(images) - 1
    for i, weight in enumerate(share):
        torch.testing.assert_close(mixed[i], weight * images[i] + (1 - weight) * images[last - i])
        expected = torch.zeros(5)
        expected[targets[i]] += weight
        expected[targets[last - i]] += 1 - weight
        torch.testing.assert_close(soft[i], expected)
    assert torch.equal(soft.argmax(dim=1), targets)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_targets_is_the_mixed_loss(smoothing):
    _, targets = batch()
    mixup = Mixup(2.0, "image")
    draws = mixup.draw(torch.empty(len(targets), 1, 1, 1), seeded())
    outputs = torch.randn(len(targets), 5, generator=seeded(2))
    loss = functional.cross_entropy(outputs, mixup.relabel(targets, draws, 5), label_smoothing=smoothing)
    own, partner = (
        functional.cross_entropy(outputs, labels, reduction="none", label_smoothing=smoothing)
        for labels in (targets, targets.flip(0))
    )
    torch.testing.assert_close(loss, (draws[0] * own + (1 - draws[0]) * partner).mean())


def test_targets_that_are_mixed_already_are_mixed_again():
    _, targets = batch()
    mixup = Mixup()
    draws = mixup.draw(torch.empty(len(targets), 1, 1, 1), seeded())
    once = functional.one_hot(targets, 5).float()
    assert torch.equal(mixup.relabel(once, draws, 5), mixup.relabel(targets, draws, 5))


def test_a_small_alpha_leaves_images_whole():
    (share,) = Mixup(1e-4, "image").draw(torch.empty(1000, 1, 1, 1), seeded())
    assert share.isfinite().all()
    assert (share > 0.999).float().mean() > 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1,), "alpha = -1: must be a finite number >= 0"), ((1.0, "pixel"), "per = pixel: must be one of image, batch")],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixup(*arguments)
