"""Augmentation: transforms in an order, and normalising at its place among them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor

from sam_repro import limits
from sam_repro.augmentation.colour import per_channel
from sam_repro.augmentation.resize import Resize
from sam_repro.augmentation.transform import Draws, Transform
from sam_repro.augmentation.view import View

NORMALISE = "normalise"
AS_THEY_ARE = Resize()


class Augmentation:
    """Random views of training images: uint8 images in, float32 inputs out, on the device of the images.

    Args:
        mean: of pixels/255, one number per channel.
        std: of pixels/255, one number per channel, each > 0.
        resize: images of another size, made where they are normalised; default: as they are.
        order: names of transforms in the order in which they work, with "normalise", which gives (x/255 − mean)/std,
            at its place; a view, which makes squares of images from files, stands first. Default: ["normalise"].
        transforms: by name, and views. One that `order` does not name does nothing.

    Raises:
        ValueError: if an argument is outside of what is said here, or if a transform stands where it cannot work; on
            use, if images are not uint8 [B, C, H, W] with C as `mean` says, or are too small for a transform.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        resize: Resize = AS_THEY_ARE,
        order: Sequence[str] = (NORMALISE,),
        **transforms: Any,
    ) -> None:
        limits.numbers("mean", mean)
        limits.numbers("std", std, above=0)
        if len(mean) != len(std):
            raise ValueError(f"std = {list(std)}: must be as many numbers as mean, {len(mean)}")
        _check_order(order, transforms)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.resize = resize
        self.view: View | None = transforms[order[0]] if isinstance(transforms.get(order[0]), View) else None
        order = order if self.view is None else order[1:]
        at = list(order).index(NORMALISE)
        self.before = _placed(order[:at], transforms, "pixels", [round(255 * m) for m in mean])
        self.after = _placed(order[at + 1 :], transforms, "inputs", [0.0])

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Augmented images [B, C, H, W], float32, resized.

        Args:
            images: [B, C, H, W], uint8.
            generator: every random number is its; what it draws on another device goes to that of the images.
        """
        return self.apply(images, self.draw(images, generator))

    def draw(self, images: Tensor, generator: Generator) -> list[Draws]:
        """The random choices of each transform for a batch, in their order."""
        self.check(images)
        resized = self.resize.blank(images)
        drawn = [transform.draw(images, generator) for transform in self.before.values()]
        drawn += [transform.draw(resized, generator) for transform in self.after.values()]
        return [tuple(x.to(images.device) if isinstance(x, Tensor) else x for x in draws) for draws in drawn]

    def apply(self, images: Tensor, draws: Iterable[Draws]) -> Tensor:
        """The augmented images that the draws make of a batch."""
        left = iter(draws)
        for transform in self.before.values():
            images = transform.apply(images, next(left))
        inputs = self.normalise(images)
        for transform in self.after.values():
            inputs = transform.apply(inputs, next(left))
        return inputs

    def relabel(self, targets: Tensor, draws: Iterable[Draws], num_classes: int) -> Tensor:
        """The targets that go with augmented images: classes [B], or probabilities [B, num_classes]."""
        for transform, drawn in zip(self._transforms, draws, strict=True):
            targets = transform.relabel(targets, drawn, num_classes)
        return targets

    def normalise(self, images: Tensor) -> Tensor:
        """(x/255 − mean)/std per channel, float32, resized: all that happens to images on which a run is measured."""
        self._check_kind(images)
        numbers = torch.float32, images.device
        shift = per_channel(tuple(-m / s for m, s in zip(self.mean, self.std, strict=True)), *numbers)
        scale = per_channel(tuple(1 / (255 * s) for s in self.std), *numbers)
        return torch.addcmul(shift, self.resize(images), scale)

    def check(self, images: Tensor) -> None:
        """Refuse images that it cannot work on: of another kind, or too small for a transform."""
        self._check_kind(images)
        resized = self.resize.blank(images)
        for transforms, shown in ((self.before, images), (self.after, resized)):
            for name, transform in transforms.items():
                with _named(name):
                    transform.check(shown)

    @property
    def _transforms(self) -> list[Transform]:
        return [*self.before.values(), *self.after.values()]

    def _check_kind(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(f"images: {images.dtype} of shape {list(images.shape)}; must be uint8 [B, C, H, W]")
        if (channels := images.shape[1]) != len(self.mean):
            mean = limits.shown(list(self.mean))
            raise ValueError(f"mean = {mean}: must be one number for each channel, of which there are {channels}")


def _check_order(order: Any, transforms: Mapping[str, Any]) -> None:
    known = [NORMALISE, *(name for name, transform in transforms.items() if isinstance(transform, Transform | View))]
    if isinstance(order, str) or not isinstance(order, Sequence) or [*order].count(NORMALISE) != 1:
        raise ValueError(
            f"order = {limits.shown(order)}: must be a list of transforms and, once, normalise: [flip, normalise]"
        )
    for name in order:
        if name not in known:
            raise ValueError(f"order = {limits.shown(list(order))}: must name none but {', '.join(known)}")
    if late := [name for name in order[1:] if isinstance(transforms.get(name), View)]:
        raise ValueError(f"order = {limits.shown(list(order))}: {late[0]} works on single images; name it first")
    if len(set(order)) < len(order):
        raise ValueError(f"order = {limits.shown(list(order))}: must name each transform once")


def _placed(
    names: Sequence[str], transforms: Mapping[str, Transform], place: str, mean_colour: Sequence[float]
) -> dict[str, Transform]:
    """Those of the named transforms that do something, told what the mean colour is at their place."""
    placed = {name: transforms[name] for name in names if not transforms[name].is_off}
    for name, transform in placed.items():
        if place not in transform.places:
            side = "before" if "pixels" in transform.places else "after"
            raise ValueError(f"order: {name} works on {', '.join(transform.places)}; name it {side} normalise")
        transform.mean_colour = mean_colour
    return placed


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What a transform refuses is told by its name: pad = 9 of `crop` is crop.pad = 9."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None
