"""What every transform of a batch shares."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Generator, Tensor

Draws = tuple[Any, ...]
"""The random choices of one transform for one batch; tensors among them lie where the generator does."""


class Transform(ABC):
    """A random change of a batch of images of one size, on their device (abstract).

    A transform is a file and a class, built of its settings, which it validates. It keeps no state: `draw` takes every
    random number from the generator that it is given, and `apply` takes none, so that a step can be repeated.
    """

    places: ClassVar[tuple[str, ...]] = ("pixels",)
    """Where it may stand: among "pixels" (uint8, before normalising), among "inputs" (float32, after it), or both."""
    mean_colour: Sequence[float] = (0.0,)
    """The data set's mean colour, a number for each channel or one for all, in the units of the images that it gets.

    `Augmentation` sets it; after normalising it is 0.
    """

    @property
    def is_off(self) -> bool:
        """Whether its settings leave every image as it is; then it draws nothing."""
        return False

    def check(self, images: Tensor) -> None:  # noqa: B027
        """Refuse images [B, C, H, W] that it cannot work on; only their shape is looked at.

        Raises:
            ValueError: naming the setting.
        """

    @abstractmethod
    def draw(self, images: Tensor, generator: Generator) -> Draws:
        """The random choices for images [B, C, H, W]; only their shape is looked at."""

    @abstractmethod
    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The images [B, C, H, W] that the draws make of these, of the same shape and dtype."""

    def relabel(self, targets: Tensor, draws: Draws, num_classes: int) -> Tensor:
        """The targets that go with them: classes [B], or probabilities [B, num_classes]. Default: as they are."""
        return targets
