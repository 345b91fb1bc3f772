"""Examples made ready for a run: a validation split held out, label noise put in."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numpy.random import RandomState
from torch import Tensor

from sam_repro import limits
from sam_repro.augmentation import Augmentation
from sam_repro.dataset.images import Data, Examples
from sam_repro.dataset.label_noise import LabelNoise, Labels


@dataclass(frozen=True)
class Validation:
    """Training images that are held out, and how they are used.

    Args:
        count: how many; 0 (default) is no validation split.
        seed: of the stream that chooses them, in [0, 2³²); default 42.
        stratified: whether each true class gives the same share of its images, to the image; default false.
        stream: "numpy" (default), a frozen stream; "torch": the last of `torch.randperm`, as `random_split` holds them
            out, never stratified; "sklearn": of `StratifiedShuffleSplit`, always stratified.
        augmented: whether they get the augmentation of the training when they are measured; default false.
        noisy: whether they keep the labels of label noise; default false, the true ones.

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    count: int = 0
    seed: int = 42
    stratified: bool = False
    augmented: bool = False
    noisy: bool = False
    stream: str = "numpy"

    def __post_init__(self) -> None:
        limits.natural("count", self.count)
        limits.seed("seed", self.seed)
        limits.boolean("stratified", self.stratified)
        limits.boolean("augmented", self.augmented)
        limits.boolean("noisy", self.noisy)
        limits.choice("stream", self.stream, ("numpy", "torch", "sklearn"))
        if self.stream != "numpy" and self.stratified != (self.stream == "sklearn"):
            other = limits.shown(not self.stratified)
            raise ValueError(
                f"stream = {self.stream}: is {'' if self.stream == 'sklearn' else 'not '}stratified; "
                f"write stratified={other}"
            )

    def held_out(self, labels: Tensor) -> Tensor:
        """Which of the images with these true labels [N] are held out: a mask [N] of `count` trues."""
        mask = torch.zeros(len(labels), dtype=torch.bool)
        if self.count:
            mask[self._chosen(labels)] = True
        return mask

    def _chosen(self, labels: Tensor) -> Tensor:
        if self.stream == "torch":
            generator = torch.Generator().manual_seed(self.seed)
            return torch.randperm(len(labels), generator=generator)[len(labels) - self.count :]
        if self.stream == "sklearn":
            return _by_sklearn(labels, self.count, self.seed)
        order = RandomState(self.seed).permutation(len(labels))
        if self.stratified:
            order = order[np.argsort(_quantiles(labels.numpy()[order]), kind="stable")]
        return torch.from_numpy(order[: self.count])


def prepare(examples: Examples, validation: Validation, noise: LabelNoise, augmentation: Augmentation) -> Data:
    """The data of a run. The split and the noise do not depend on each other; test labels are always the true ones.

    Args:
        examples: what a source gave.
        validation: the split; `count` must leave at least one example to train on.
        noise: the label noise, drawn over the whole training set.
        augmentation: how images become inputs.

    Raises:
        ValueError: if nothing would be left to train on.
    """
    clean = examples.train_labels
    limits.integer("validation.count", validation.count, low=0, high=len(clean) - 1)
    noisy = noise.corrupted(examples)
    held_out = validation.held_out(clean)
    seen = torch.where(held_out, noisy if validation.noisy else clean, noisy)
    everything = torch.ones(len(examples.test_labels), dtype=torch.bool)
    return Data(
        train=examples.split("train", ~held_out, seen, augmentation),
        validation=examples.split("train", held_out, seen, augmentation) if validation.count else None,
        test=examples.split("test", everything, examples.test_labels, augmentation),
        ledger=noise.ledger(clean, noisy, validation="noisy" if validation.noisy else "clean"),
        validation_augmented=validation.augmented,
        inputs=examples.sha256(),
        classes=examples.classes,
        contents=examples.contents(),
    )


def _by_sklearn(labels: Tensor, count: int, seed: int) -> Tensor:
    from sklearn.model_selection import StratifiedShuffleSplit

    classes = len(labels.unique())
    limits.integer("validation.count", count, low=classes, high=len(labels) - classes)
    split = StratifiedShuffleSplit(n_splits=1, test_size=count, random_state=seed).split(labels, labels)
    return torch.from_numpy(next(split)[1])


def _quantiles(labels: Labels) -> npt.NDArray[np.float64]:
    """(r + ½)/n of each label [N], the r-th of the n in its class: the smallest are the same share of every class."""
    quantiles = np.empty(len(labels))
    for label in np.unique(labels):
        members = labels == label
        size = members.sum()
        quantiles[members] = (np.arange(size) + 0.5) / size
    return quantiles
