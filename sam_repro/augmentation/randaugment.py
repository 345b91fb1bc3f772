"""RandAugment: operations at random, all of one magnitude."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from sam_repro import limits
from sam_repro.augmentation.magnitudes import RANDAUGMENT, Reading
from sam_repro.augmentation.random_operations import RandomOperations


@dataclass(eq=False)
class RandAugment(RandomOperations):
    """Some operations for each image, each drawn from all, one after another.

    Args:
        operations: how many; default 2, and 0 draws nothing.
        magnitude: their level, 0 … 30; default 9.
        magnitudes: what it means, and which operations there are: "torchvision" (default), 14 operations, the strongest
            at level 30; "efficientnet", 16 operations, at their full strength at level 10 and beyond it above.

    Raises:
        ValueError: if an argument is outside of what is said here; on use, if images do not have three channels.

    Reference: Cubuk et al., RandAugment: practical automated data augmentation with a reduced search space, 2020.
    """

    readings: ClassVar[dict[str, Reading]] = RANDAUGMENT
    operations: int = 2
    magnitude: int = 9
    magnitudes: str = "torchvision"

    def __post_init__(self) -> None:
        limits.natural("operations", self.operations)
        limits.integer("magnitude", self.magnitude, low=0, high=30)
        limits.choice("magnitudes", self.magnitudes, list(self.readings))
        self.entries = tuple((name, self.magnitude) for name in self.reading.strengths(0, 1, 1))

    @property
    def is_off(self) -> bool:
        """Whether there are no operations."""
        return self.operations == 0

    def pick(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Numbers of operations, [count, `operations`]; all of them happen."""
        size = (count, self.operations)
        entry = torch.randint(len(self.entries), size, generator=generator, device=generator.device)
        return entry, torch.ones_like(entry, dtype=torch.bool)
