"""What a run draws: nothing that others draw moves it, and every step of every seed draws anew."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from loops import (
    EPOCHS,
    EXAMPLES,
    MEAN,
    STD,
    STEPS,
    Flat,
    Listener,
    assert_bitwise,
    augmented_validation,
    dataset,
    final,
    numbers,
    random_parts,
    resident,
    split,
    trainer,
)
from torch import Tensor

from sam_repro.augmentation import Augmentation, Crop
from sam_repro.dataset import Data


def test_nothing_depends_on_global_generators(tmp_path: Path) -> None:
    def stir(done: int) -> None:
        torch.manual_seed(done + 99)
        np.random.seed(done)
        random.seed(done)
        torch.rand(done), np.random.rand(done)

    calm, stirred = Listener(), Listener(stir)
    ours = final(tmp_path, calm, data=augmented_validation())
    assert_bitwise(ours, final(tmp_path, stirred, data=augmented_validation()))
    assert numbers(calm.rows) == numbers(stirred.rows)
    assert not torch.equal(ours["head.weight"], final(tmp_path, Listener(), seed=4)["head.weight"])


def test_evaluation_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    with_validation, without = Listener(), Listener()
    ours = final(tmp_path, with_validation, data=augmented_validation())
    assert_bitwise(ours, final(tmp_path, without))
    assert numbers(with_validation.rows, "epoch") == numbers(without.rows, "epoch")
    assert numbers(with_validation.rows, "train") == numbers(without.rows, "train")
    assert all("validation/error_pct" in row for row in with_validation.epochs())
    assert not any("validation/error_pct" in row for row in without.epochs())


class Draws(Flat):
    """Notes the images that it is trained on, and noise that it draws there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bytes, bytes]] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen.append((images.numpy().tobytes(), torch.rand(1).numpy().tobytes()))
        return super().forward(images)


def test_every_step_of_every_seed_draws_anew(tmp_path: Path) -> None:
    """On one image many times over, so that the batches differ in nothing but the draws."""
    image = split(1, 0).images.repeat(EXAMPLES, 1, 1, 1)
    labels = torch.zeros(EXAMPLES, dtype=torch.long)
    data = Data(resident(image, labels), None, split(11, 1))
    crop = Augmentation([MEAN], [STD], order=["crop", "normalise"], crop=Crop(3))
    seen = []
    for seed in (3, 4):
        model = Draws()
        trainer(tmp_path, model, data=data, augmentation=crop, seed=seed).run(Listener())
        seen += model.seen
    for draws in zip(*seen, strict=True):
        assert len(set(draws)) == len(draws) == 2 * STEPS


@pytest.mark.parametrize("augmented", [True, False])
def test_validation_draws_anew_after_each_epoch_if_it_is_augmented(tmp_path: Path, augmented: bool) -> None:
    """At a learning rate of 0, where nothing moves but the draws."""
    rows = []
    for seed in (3, 4):
        listener, data = Listener(), augmented_validation() if augmented else dataset(validation=9)
        parts = random_parts(model=Flat(), data=data, lr=0.0, seed=seed)
        trainer(tmp_path, **parts).run(listener)
        rows += listener.epochs()
    assert len({row["validation/loss"] for row in rows}) == (2 * EPOCHS if augmented else 1)
    assert len({row["test/loss"] for row in rows}) == 1
