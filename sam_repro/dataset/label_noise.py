"""Label noise: training labels that are replaced on purpose."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.random import RandomState
from torch import Tensor

from sam_repro import limits
from sam_repro.dataset.images import Examples

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelNoise:
    """Other labels for round(rate·N) of the N training images.

    Which images, and their new labels, follow from `seed` and the file order alone: they are the same on every machine
    and for every validation split, and a higher rate adds to the images of a lower one.

    Args:
        rate: share of the images whose label is drawn anew, in [0, 1]; default 0.
        kind: "uniform" (default): drawn from all K classes, so that the true label may come again and about
            rate·(K − 1)/K of the labels become wrong; "symmetric": drawn from the K − 1 wrong classes; "asymmetric":
            the class that the data set names in its `confusions`.
        seed: of the frozen stream, in [0, 2³²); default 0.

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    rate: float = 0.0
    kind: str = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        limits.share("rate", self.rate)
        limits.noise_kind("kind", self.kind)
        limits.seed("seed", self.seed)

    def corrupted(self, examples: Examples) -> Tensor:
        """The training labels [N], in file order, with the noise."""
        labels = examples.train_labels.numpy().copy()
        stream = RandomState(self.seed)
        selected = stream.permutation(len(labels))[: self.count(len(labels))]
        labels[selected] = REPLACEMENTS[self.kind](labels[selected], examples, stream)
        return torch.from_numpy(labels)

    def count(self, total: int) -> int:
        """How many of `total` labels are drawn anew."""
        return round(self.rate * total)

    def ledger(self, clean: Tensor, noisy: Tensor, validation: str) -> dict[str, Any] | None:
        """What the noise did, to stand in the result of a run; None if the rate is 0.

        Args:
            clean: the true training labels [N], before any split.
            noisy: the labels that `corrupted` made of them.
            validation: "clean" or "noisy", the labels of the validation split.

        Returns:
            `selected`: labels drawn anew; `flipped`: of them, those that differ from the true one; `achieved_rate`:
            flipped/N; `mask_sha256`: of the mask of flipped labels as N bytes, followed by the N noisy labels as
            little-endian int64. All over the whole training set, before the split.
        """
        if self.rate == 0:
            return None
        flipped = (noisy != clean).numpy()
        mask = flipped.astype(np.uint8).tobytes() + noisy.numpy().astype("<i8").tobytes()
        return {
            "kind": self.kind,
            "rate": self.rate,
            "seed": self.seed,
            "validation": validation,
            "selected": self.count(len(clean)),
            "flipped": int(flipped.sum()),
            "achieved_rate": float(flipped.mean()),
            "mask_sha256": hashlib.sha256(mask).hexdigest(),
        }


def _uniform(labels: Labels, examples: Examples, stream: RandomState) -> Labels:
    return stream.randint(examples.num_classes, size=len(labels), dtype=np.int64)


def _symmetric(labels: Labels, examples: Examples, stream: RandomState) -> Labels:
    return (labels + stream.randint(1, examples.num_classes, size=len(labels), dtype=np.int64)) % examples.num_classes


def _asymmetric(labels: Labels, examples: Examples, stream: RandomState) -> Labels:
    if examples.confusions is None:
        return (labels + 1) % examples.num_classes
    return np.array(examples.confusions, dtype=np.int64)[labels]


REPLACEMENTS: dict[str, Callable[[Labels, Examples, RandomState], Labels]] = {
    "uniform": _uniform,
    "symmetric": _symmetric,
    "asymmetric": _asymmetric,
}
"""What each kind of noise makes of the selected labels."""
